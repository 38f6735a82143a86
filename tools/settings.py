#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the tables of docs/settings.md from the argument specifications; --check only compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs/settings.md"
# The markup of Ansible's documentation: option, value, code.
MARKUP = re.compile(r"\b[OVC]\(([^)]*)\)")
TYPES = {"str": "text", "int": "a whole number", "bool": "true or false"}
Options = Mapping[str, Mapping[str, Any]]

# In the order in which somebody reads them.
ROLES = {
    "backup_template": "The backup template",
    "backup_qube": "The backup qube",
    "backup_profile": "Backup profiles",
    "storage_qube": "The storage qube",
    "shim": "The scrypt shim",
    "management_shim": "Restores in disposables",
    "qrexec_policy": "The qrexec policy",
    "verify": "Verification",
}
# All that follows it on the page is made here.
BEGIN = "<!-- tools/settings.py makes the rest of this page from the argument specifications. -->\n"
QUBES = """\
For Ansible, each is a group of the inventory with the qube as its only host. Give `remove_data` to
`playbooks/remove.yml`, as `-e remove_data=true`.
"""


def page(introduction: str) -> str:
    """Return the page with its introduction, which ends with BEGIN."""
    parts = [introduction, "## Names of the qubes\n", QUBES]
    parts += tables(options(PROJECT / "playbooks/vars/groups.yml"))
    given = given_by_playbooks()
    for role, title in ROLES.items():
        every = options(PROJECT / "roles" / role / "meta/argument_specs.yml")
        parts.append(f"## {title}\n")
        parts += tables({name: option for name, option in every.items() if name not in given})
    return "\n".join(parts)


def options(path: Path) -> dict[str, dict[str, Any]]:
    """Return the options of a specification."""
    return dict(yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"])


def given_by_playbooks() -> set[str]:
    """Return the variables that a playbook gives a role: to set them elsewhere has no effect."""
    texts = [path.read_text() for path in (PROJECT / "playbooks").glob("*.yml")]
    return {name for text in texts for name in re.findall(r"^ +(\w+): ", text, re.MULTILINE)}


def tables(settings: Options) -> Iterator[str]:
    """Give the table of some settings, and one for each kind of entry in them."""
    yield "| setting | value | default | what it is |\n| --- | --- | --- | --- |"
    for name, option in settings.items():
        yield f"| `{name}` | {value(option)} | {default(option)} | {meaning(option)} |"
    yield ""
    for name, option in settings.items():
        if "options" in option:
            yield f"An entry of `{name}`:\n"
            yield "| key | value | what it is |\n| --- | --- | --- |"
            for key, inner in option["options"].items():
                must = ", required" if inner.get("required") else ""
                yield f"| `{key}`{must} | {value(inner)} | {meaning(inner)} |"
            yield ""


def value(option: Mapping[str, Any]) -> str:
    """Return what an option's value can be."""
    if "choices" in option:
        return ", ".join(f"`{choice}`" for choice in option["choices"])
    if option["type"] == "list":
        return "a list of entries" if "options" in option else "a list of texts"
    return TYPES[option["type"]]


def default(option: Mapping[str, Any]) -> str:
    """Return an option's default, as code when there is one."""
    text = option["default"]
    return f"`{text if isinstance(text, str) else json.dumps(text)}`" if text != "" else "empty"


def meaning(option: Mapping[str, Any]) -> str:
    """Return an option's description as Markdown, on one line."""
    description = option["description"]
    text = " ".join(description) if isinstance(description, list) else description
    return MARKUP.sub(r"`\1`", " ".join(text.split()))


def main() -> int:
    """Write or check the page; 1 when a check finds it out of date."""
    old = PAGE.read_text()
    introduction, begin, _ = old.partition(BEGIN)
    new = page(introduction + begin)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new)
    elif new != old or not begin:
        print("docs/settings.md is out of date: run tools/settings.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
