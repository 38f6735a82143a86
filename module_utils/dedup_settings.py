# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of settings, for the playbooks and for the Salt formula.

What a setting may be is in the roles' meta/argument_specs.yml, and in playbooks/vars/groups.yml for
the qubes' names. The rules at the end add what a specification can't say.

Both front-ends load this one file, by links: Ansible as a filter (playbooks/filter_plugins), Salt
as an execution module (salt/_modules). Salt-ssh brings such a module to a qube as a single file, so
it imports nothing of this project.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# An option of a specification: type, choices, elements, options, required.
Option = Mapping[str, Any]

SHOWN_CHARACTERS = 40
# By the type of an option, the types of its values, and what is said of others.
TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, ""),
    "bool": (bool, "must be true or false."),
    "int": (int, "must be a whole number."),
    "list": ((list, tuple), "must be a list."),
    "dict": (Mapping, "must be keys with values."),
}


class Form(NamedTuple):  # Salt registers a module after it ran, which a dataclass can't do without
    """The form of a text.

    Attributes:
        pattern: matches it from its start to its end.
        text: says the same, after "use".
    """

    pattern: re.Pattern[str]
    text: str


# dedup_values.py QUBE_NAME: a token such as @anyvm would be right in a policy file, and open far
# too much.
QUBE = Form(
    re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,30}\Z"),
    "a letter first, then letters, digits, '_', '.' and '-', at most 31 characters",
)
# payload/qube/dedup_store/config.py; it becomes part of a command that runs in the backup qube.
STORE_NAME = Form(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z"),
    "a letter or digit first, then letters, digits, '_' and '-', at most 64 characters",
)
# payload/qube/dedup_store/config.py
DEVICE = Form(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z"),
    "the label of a file system: a letter or digit first, then letters, digits, '.', '_' and '-',"
    " at most 32 characters",
)
# roles/backup_qube/vars/main.yml takes it apart with the same pattern.
REMOTE = Form(
    re.compile(r"qrexec:[A-Za-z][A-Za-z0-9_.-]{0,30}/[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z"),
    "qrexec:QUBE/NAME for a repository in the storage qube",
)
FOLDER = Form(re.compile("/"), "/FOLDER with the engine directory, which doesn't encrypt")
# payload/server/dedup_server/config.py; it is part of a qrexec argument ENGINE+NAME, too, so
# without a plus sign.
OFFERED_NAME = Form(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z"),
    "a letter or digit first, then letters, digits, '_' and '-', at most 32 characters",
)
PLACE = Form(
    re.compile(r'(/[^\x00-\x1f"]*|rclone:[^\x00-\x1f"]+|ssh://[^\x00-\x1f"]+)\Z'),
    "/FOLDER, ssh://[USER@]HOST[:PORT]/FOLDER or, with the engine restic, rclone:REMOTE:PATH",
)
PLACE_NOT_RESTIC = Form(re.compile("(?!rclone:)"), PLACE.text)


def wrong(
    settings: object, options: Mapping[str, Option], defaults: Mapping[str, Any] | None = None
) -> str:
    """Return what is wrong with settings, in sentences with a space between; empty when nothing is.

    Args:
        settings: a value by each name.
        options: what there is to set, by name, as in argument_specs.
        defaults: the values of what isn't set, for rules about several settings.
    """
    if not isinstance(settings, Mapping):
        return "The settings must be names with values."
    found = [*_unknown("", settings, options), *_wrong_entries("", settings, options)]
    if not found:
        found = list(_broken_rules({**(defaults or {}), **settings}))
    return " ".join(found)


class FilterModule:
    """The class in which Ansible looks for filters."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return wrong() as the filter `wrong_settings`."""
        return {"wrong_settings": wrong}


def _unknown(place: str, values: Mapping[Any, Any], options: Mapping[str, Option]) -> Iterator[str]:
    for name in sorted(values, key=str):
        if name not in options:
            near = difflib.get_close_matches(str(name), options, 1)
            hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists them all."
            yield f"{place}{_shown(name)} is not a setting: {hint}"


def _wrong_entries(
    place: str, values: Mapping[Any, Any], options: Mapping[str, Option]
) -> Iterator[str]:
    for name in sorted(values, key=str):
        if name in options:
            yield from _wrong_value(f"{place}{name}", values[name], options[name])


def _wrong_value(key: str, value: object, option: Option) -> Iterator[str]:
    kind = option.get("type", "str")
    message = _wrong_type(kind, value)
    if message:
        yield f"{key} {message}"
    elif "choices" in option and value not in option["choices"]:
        yield f"{key} must be one of: {', '.join(option['choices'])}."
    elif isinstance(value, list | tuple):
        element = {"type": option.get("elements", "str"), "options": option.get("options", {})}
        for index, entry in enumerate(value):
            yield from _wrong_value(f"{key}:{index}", entry, element)
    elif isinstance(value, Mapping):
        known = option.get("options", {})
        yield from _unknown(f"{key}:", value, known)
        yield from _wrong_entries(f"{key}:", value, known)
        for name, inner in known.items():
            if inner.get("required") and name not in value:
                yield f"{key}:{name} is missing."


def _wrong_type(kind: str, value: object) -> str:
    """Return what is wrong with a value's type, or nothing.

    Ansible itself would make text of a number, for its own check alone: YAML 1.1 reads 2025_01 as
    the number 202501, and `on` as true.
    """
    types, message = TYPES[kind]
    if isinstance(value, types) and (kind == "bool" or not isinstance(value, bool)):
        return ""
    if kind != "str":
        return message
    if value is None:
        return "must be text, and has no value."
    if isinstance(value, list | tuple | Mapping):
        return f"must be text, not {'keys' if isinstance(value, Mapping) else 'a list'}."
    return f"must be text: write it in quotes, as YAML reads it as {_shown(value)}."


def _shown(value: object) -> str:
    """Return a value on one line, cut when it is long."""
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _unfit(key: str, value: str | None, form: Form) -> Iterator[str]:
    if value is not None and not form.pattern.match(value):
        yield f"{key} can't be '{_shown(value)}': use {form.text}."


def _broken_rules(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, form in QUBES.items():
        if name in settings and (settings[name] or name not in MAY_BE_EMPTY):
            yield from _unfit(name, settings[name], form)
    for one, other in TWO_QUBES:
        if settings.get(one) and settings[one] == settings.get(other):
            yield f"{one} and {other} must be two qubes: both are {_shown(settings[one])}."
    for name, rule in RULES.items():
        for index, entry in enumerate(settings.get(name, ())):
            yield from rule(f"{name}:{index}", entry)


def _repository(key: str, entry: Mapping[str, Any]) -> Iterable[str]:
    """Check an entry of backup_qube_repositories."""
    location = entry.get("location")
    yield from _unfit(f"{key}:name", entry["name"], STORE_NAME)
    yield from _unfit(f"{key}:device", entry.get("device"), DEVICE)
    if entry["engine"] == "directory":
        yield from _unfit(f"{key}:location", location, FOLDER)
    elif location is not None and location.startswith("qrexec:"):
        yield from _unfit(f"{key}:location", location, REMOTE)


def _backup_profile(key: str, entry: Mapping[str, Any]) -> Iterable[str]:
    """Check an entry of backup_profile_profiles."""
    return _unfit(f"{key}:repository", entry["repository"], STORE_NAME)


def _offered(key: str, entry: Mapping[str, Any]) -> Iterable[str]:
    """Check an entry of storage_qube_repositories or qrexec_policy_repositories."""
    place = entry.get("place")
    yield from _unfit(f"{key}:name", entry["name"], OFFERED_NAME)
    yield from _unfit(f"{key}:place", place, PLACE)
    if entry["engine"] != "restic":
        yield from _unfit(f"{key}:place", place, PLACE_NOT_RESTIC)


# The inventory's groups, and what a role gets of them.
QUBES = dict.fromkeys(
    (
        "backup_template",
        "backup_qube",
        "storage_qube",
        "management_template",
        "qrexec_policy_backup_qube",
        "qrexec_policy_storage_qube",
    ),
    QUBE,
)
MAY_BE_EMPTY = ("storage_qube", "management_template", "qrexec_policy_storage_qube")
TWO_QUBES = (
    ("storage_qube", "backup_qube"),
    ("qrexec_policy_storage_qube", "qrexec_policy_backup_qube"),
)
RULES: dict[str, Callable[[str, Mapping[str, Any]], Iterable[str]]] = {
    "backup_qube_repositories": _repository,
    "backup_profile_profiles": _backup_profile,
    "storage_qube_repositories": _offered,
    "qrexec_policy_repositories": _offered,
}
