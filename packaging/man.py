#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a program's manual page (section 1) to stdout: its own --help, so that both always agree.

Usage: man.py PROGRAM [MORE], MORE being a file of further sections in roff.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

COMMAND = re.compile(r"^    ([a-z][a-z-]*)(?:\s|$)", re.MULTILINE)


def help_of(*argv: str | Path) -> tuple[str, str]:
    """Return the usage and the rest of what a command's --help prints."""
    env = {"PATH": os.environ["PATH"], "COLUMNS": "80", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([*argv, "--help"], check=True, capture_output=True, text=True, env=env)
    usage, _, rest = done.stdout.removeprefix("usage: ").partition("\n\n")
    return usage, rest


def plain(text: str) -> str:
    """Return text with what roff would take for something else escaped."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def verbatim(text: str) -> str:
    """Return text as roff that keeps its lines as they are."""
    text = plain(text).strip("\n")
    return ".nf\n" + re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE) + "\n.fi"


def main() -> None:
    """Write the page."""
    program, *more = sys.argv[1:]
    path = Path(program).resolve()
    usage, rest = help_of(path)
    summary = rest.split(".\n", 1)[0].replace("\n", " ").rstrip(".")
    date = time.strftime(
        "%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    )
    page = [
        f'.TH {path.name.upper()} 1 {date} "qubes-dedup-backup"',
        ".SH NAME",
        plain(path.name) + " \\- " + plain(summary[0].lower() + summary[1:]),
        ".SH SYNOPSIS",
        verbatim(usage),
        ".SH DESCRIPTION",
        verbatim(rest),
    ]
    if "COMMAND ..." in usage:
        for command in COMMAND.findall(rest.partition("  COMMAND\n")[2].partition("\n\n")[0]):
            page += [f".SH {command.upper()}", verbatim("\n\n".join(help_of(path, command)))]
    page += [Path(name).read_text().strip("\n") for name in more]
    print("\n".join(page))


if __name__ == "__main__":
    main()
