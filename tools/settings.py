#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the table of docs/settings.md from the argument specs; with --check, only compare."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs/settings.md"
BEGIN, END = "<!-- settings: begin, made by tools/settings.py -->", "<!-- settings: end -->"
MARKUP = re.compile(r"\b[OVC]\(([^)]*)\)")


def rows() -> list[str]:
    """Return the table's lines, one for each variable of each role."""
    lines = ["| setting | default | what it is |", "| --- | --- | --- |"]
    for spec in sorted((PROJECT / "roles").glob("*/meta/argument_specs.yml")):
        options: dict[str, Any] = yaml.safe_load(spec.read_text())["argument_specs"]["main"][
            "options"
        ]
        for name, option in options.items():
            # What a role is to do, and where, is the playbook's business, not the user's.
            if not name.endswith(("_side", "_state")):
                lines.append(f"| `{name}` | {_default(option)} | {_text(option)} |")
    return lines


def _default(option: dict[str, Any]) -> str:
    value = option.get("default", "")
    return f"`{value if isinstance(value, str) else json.dumps(value)}`" if value != "" else ""


def _text(option: dict[str, Any]) -> str:
    description = option["description"]
    text = " ".join(description) if isinstance(description, list) else description
    for name, inner in option.get("options", {}).items():
        choices = ", ".join(f"`{choice}`" for choice in inner.get("choices", []))
        text += f"<br>`{name}`{' (' + choices + ')' if choices else ''}: {_text(inner)}"
    return MARKUP.sub(r"`\1`", " ".join(text.split()))


def main() -> int:
    """Write or check the table; 1 when a check finds it out of date."""
    old = PAGE.read_text()
    before, found, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    if not found:
        print(f"{PAGE.name} has no line {BEGIN!r}", file=sys.stderr)
        return 1
    new = "\n".join([before + BEGIN, *rows(), END]) + after
    if new == old:
        return 0
    if "--check" in sys.argv[1:]:
        print(
            "docs/settings.md: the table of settings is out of date: run tools/settings.py",
            file=sys.stderr,
        )
        return 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
