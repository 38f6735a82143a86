#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the Salt formula for what salt-lint does not know; 1 when something is wrong, and says so.

A command has a guard, so that a second run changes nothing; each state file has one of a few names,
and a top file of the same name; ids begin with the formula's name, so that they never collide.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

FORMULA = Path(__file__).resolve().parents[1] / "salt" / "dedup-backup"
VOCABULARY = ("clone", "configure", "create", "install", "reconcile", "remove")
COMMAND = re.compile(r"^  cmd\.\w+:", re.MULTILINE)
GUARD = re.compile(r"^    - (unless|onlyif|creates|onchanges|stateful):", re.MULTILINE)
# A state's id, and all that is indented under it.
STATE = re.compile(r"^(\S[^\n{%#]*|\"\{\{.*):\n((?:(?:  .*|\{%.*| *#.*|)\n)+)", re.MULTILINE)


def states(text: str) -> Iterator[tuple[str, str]]:
    """Return ids and what is under them, of a state file's text before Jinja has seen it."""
    for match in STATE.finditer(re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL)):
        if match[1] != "include":
            yield match[1], match[2]


def problems(folder: Path) -> Iterator[str]:
    """Return what is wrong, a line each."""
    files = sorted(folder.glob("*.sls"))
    if tuple(path.stem for path in files) != VOCABULARY:
        yield f"{folder}: the state files must be {', '.join(VOCABULARY)}"
    for path in files:
        if not path.with_suffix(".top").is_file():
            yield f"{path.name}: there is no {path.stem}.top"
        found = list(states(path.read_text()))
        if not found:
            yield f"{path.name}: no state found in it"
        for name, body in found:
            if not name.startswith(f'"{{{{ slsdotpath }}}}-{path.stem}-'):
                yield f"{path.name}: {name} must begin with {{{{ slsdotpath }}}}-{path.stem}-"
            if COMMAND.search(body) and not GUARD.search(body):
                yield f"{path.name}: {name} runs a command without a guard"


def main() -> int:
    """Check the folder that is given, or the formula."""
    found = list(problems(Path(sys.argv[1]) if len(sys.argv) > 1 else FORMULA))
    print("".join(f"{line}\n" for line in found), end="", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
