# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of qrexec policy: a strict parser, and which of two rules decides about a call.

Source: qubes-core-qrexec qrexec/policy/parser.py (Rule.from_line, Rule.from_line_service,
validate_service_and_argument, VMToken and its children). One error in any file makes Qubes deny
every call, so what is accepted here must be accepted there; a test holds both side by side.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from .dedup_common import ProvisionError
from .dedup_values import check_name, check_tag

CALL_CHARACTERS = frozenset(string.ascii_letters + string.digits + "+-._")
DOM0 = ("@adminvm", "dom0", "uuid:00000000-0000-0000-0000-000000000000")
# The classes of qubes of Qubes R4.3; qubes-core-admin setup.py, entry points "qubes.vm".
CLASSES = ("AdminVM", "AppVM", "DispVM", "RemoteVM", "StandaloneVM", "TemplateVM")

# Which token may stand where: in the column of sources, of targets, or after `target=`.
SOURCE, TARGET, REDIRECT = "source", "target", "redirect"
_EXACT = {
    "*": (SOURCE, TARGET),
    "@adminvm": (SOURCE, TARGET, REDIRECT),
    "@anyvm": (SOURCE, TARGET),
    "@default": (TARGET,),
    "@dispvm": (TARGET, REDIRECT),
}
_PREFIXES = {
    "@type:": (SOURCE, TARGET),
    "@tag:": (SOURCE, TARGET),
    "@dispvm:": (SOURCE, TARGET, REDIRECT),
    "@dispvm:@tag:": (SOURCE, TARGET),
}
_PARAMETERS = {
    "allow": ("target", "user", "notify", "autostart"),
    "ask": ("target", "default_target", "user", "notify", "autostart"),
    "deny": ("notify",),
}


class PolicyError(ValueError):
    """What is wrong with a line of policy."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        service: None for any.
        argument: begins with "+"; None for any.
        source: a token.
        target: a token.
        action: allow, ask or deny.
        parameters: what followed the action.
    """

    service: str | None
    argument: str | None
    source: str
    target: str
    action: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def effect(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What it does to a call, whether or not it notifies the user."""
        kept = [p for p in self.parameters if p[0] != "notify" and p != ("autostart", "yes")]
        return self.action, tuple(sorted(kept))


def parse_rule(line: str) -> Rule:
    """Read a rule: service, argument, source, target, action, parameters.

    Raises:
        PolicyError: Qubes wouldn't accept it.
    """
    words = line.split()
    if len(words) < 5:
        raise PolicyError("it needs service, argument, source, target and action")
    service, argument = check_service(words[0], words[1])
    return _rule(service, argument, words[2:])


def parse_old_rule(service: str | None, argument: str | None, line: str) -> Rule:
    """Read a rule of a file for one service: source, target, action, parameters.

    Raises:
        PolicyError: Qubes wouldn't accept it.
    """
    words = line.split()
    if len(words) < 3:
        raise PolicyError("it needs source, target and action")
    return _rule(service, argument, words)


def parse_own_rule(line: str) -> Rule:
    """Read a rule that we write; beyond what Qubes checks, names must be possible names.

    Raises:
        PolicyError: Qubes wouldn't accept it, or it can't match what was meant.
    """
    if not line.isascii() or not line.replace("\t", " ").isprintable():
        raise PolicyError("it must be one line of printable ASCII characters")
    rule = parse_rule(line)
    redirects = [value for key, value in rule.parameters if key in ("target", "default_target")]
    for token in (rule.source, rule.target, *redirects):
        _check_own_token(token)
    if any(key == "user" and not value for key, value in rule.parameters):
        raise PolicyError("user= needs a name")
    return rule


def check_service(name: str, arg: str) -> tuple[str | None, str | None]:
    """Return service and argument, with None for `*`.

    Raises:
        PolicyError: one of them is malformed.
    """
    service, argument = (None if word == "*" else word for word in (name, arg))
    if service is not None and not (CALL_CHARACTERS - {"+"}).issuperset(service):
        raise PolicyError(f"service {name!r} has a character other than letters, digits, '-._'")
    if argument is not None:
        if not CALL_CHARACTERS.issuperset(argument):
            raise PolicyError(
                f"argument {arg!r} has a character other than letters, digits, '+-._'"
            )
        if not argument.startswith("+"):
            raise PolicyError(f"argument {arg!r} must be * or begin with +")
        if service is None:
            raise PolicyError("service * can have no argument but *")
    return service, argument


def check_token(word: str, place: str) -> str:
    """Return a token that may stand in this place.

    Raises:
        PolicyError: it must not stand there.
    """
    if not word:
        raise PolicyError(f"a {place} is empty")
    if not word.startswith("@") and word != "*":
        return word
    if place in _EXACT.get(word, ()):
        return word
    for prefix, places in _PREFIXES.items():
        value = word.removeprefix(prefix)
        if place in places and value != word and value and not value.startswith("@"):
            return word
    raise PolicyError(f"{word!r} can't be a {place}")


def _rule(service: str | None, argument: str | None, words: Sequence[str]) -> Rule:
    source, target, action = words[:3]
    check_token(source, SOURCE)
    check_token(target, TARGET)
    if action not in _PARAMETERS:
        raise PolicyError(f"{action!r} isn't an action: use allow, ask or deny")
    parameters: dict[str, str] = {}
    for word in words[3:]:
        key, equals, value = word.partition("=")
        if not equals or key not in _PARAMETERS[action]:
            allowed = ", ".join(f"{name}=" for name in _PARAMETERS[action])
            raise PolicyError(f"{word!r} can't follow {action}: it takes {allowed}")
        if key in parameters:
            raise PolicyError(f"{key}= is given twice")
        if key in ("notify", "autostart") and value not in ("yes", "no"):
            raise PolicyError(f"{key}= must be yes or no, not {value!r}")
        if key in ("target", "default_target"):
            check_token(value, REDIRECT)
        parameters[key] = value
    if target == "@default" and action == "allow" and "target" not in parameters:
        raise PolicyError("allow for the target @default needs target=")
    return Rule(service, argument, source, target, action, tuple(parameters.items()))


def _check_own_token(token: str) -> None:
    name = token.removeprefix("@dispvm:")
    try:
        if token in _EXACT or token in DOM0 or name.startswith("uuid:"):
            return
        if "@tag:" in token:
            check_tag(token.rpartition("@tag:")[2])
        elif token.startswith("@type:"):
            if token[6:] not in CLASSES:
                raise PolicyError(f"{token!r} matches nothing: use one of {', '.join(CLASSES)}")
        else:
            check_name(name)
    except ProvisionError as error:
        raise PolicyError(str(error)) from error


def overlaps(one: Rule, other: Rule) -> bool:
    """Return whether some call may match both rules.

    A qube of any name can have the tag, the type or the uuid of the other rule: only qubesd
    knows, and it can change.
    """
    return (
        _same_or_any(one.service, other.service)
        and _same_or_any(one.argument, other.argument)
        and _tokens_overlap(one.source, other.source)
        and _tokens_overlap(one.target, other.target)
    )


def covers(wide: Rule, narrow: Rule) -> bool:
    """Return whether every call that matches `narrow` surely matches `wide`."""
    return (
        wide.service in (None, narrow.service)
        and wide.argument in (None, narrow.argument)
        and _token_covers(wide.source, narrow.source)
        and _token_covers(wide.target, narrow.target)
    )


def _same_or_any(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


def _reach(word: str) -> set[str]:
    """Return the kinds of things that a token can match."""
    if word == "*":
        return {"dom0", "default", "disposable", "qube"}
    if word == "@anyvm":
        return {"default", "disposable", "qube"}
    if word in DOM0 or word == "@type:AdminVM":
        return {"dom0"}
    if word == "@default":
        return {"default"}
    if word.startswith("@tag:"):
        return {"dom0", "qube"}
    return {"disposable" if word.startswith("@dispvm") else "qube"}


def _set_apart(token: str) -> str | None:
    """Return in what way a token differs from all unequal ones, so that both never match."""
    if token.startswith("@type:"):
        return "type"
    if "@tag:" in token or "uuid:" in token or token in ("*", "@anyvm", "@dispvm"):
        return None
    return "disposable" if token.startswith("@dispvm:") else "name"


def _tokens_overlap(one: str, other: str) -> bool:
    if one == other or _reach(one) == _reach(other) == {"dom0"}:
        return True
    way = _set_apart(one)
    return bool(_reach(one) & _reach(other)) and (way is None or way != _set_apart(other))


def _token_covers(wide: str, narrow: str) -> bool:
    if wide in ("*", narrow) or (wide in DOM0 and narrow in DOM0):
        return True
    return wide == "@anyvm" and "dom0" not in _reach(narrow)
