# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/troubleshooting.md has messages that our programs still have."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator

from testing.paths import PROJECT

PAGE = PROJECT / "docs/troubleshooting.md"
PROGRAMS = ("payload", "library", "module_utils", "playbooks", "roles", "salt")
THEIRS = "Insufficient free space to complete transaction"  # borg's own words
BEFORE = re.compile(r"(?:warning|wrong|not checked|waiting for|dedup-server)[: ]+")
PLACE = re.compile(
    r"…|\b(?:[A-Z]+|i|a|that)\b|[0-9.]+|: |['`(]"
)  # what a program fills in, or joins


def texts() -> Iterator[str]:
    """Give the texts of the programs; what they fill in is `…`."""
    listed = subprocess.run(
        ["git", "ls-files", *PROGRAMS], check=True, capture_output=True, text=True, cwd=PROJECT
    ).stdout.split()
    for path in (PROJECT / name for name in listed):
        if not path.is_file():
            continue
        source = path.read_text(errors="replace")
        yield " ".join(source.split())
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except SyntaxError:
            continue
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    item.value if isinstance(item, ast.Constant) else "…" for item in node.values
                )
                yield "".join(map(str, parts))


def messages() -> list[str]:
    """Give what is quoted in the first column of the page's tables."""
    rows = re.findall(r"^\| (.*?) \| ", PAGE.read_text(), re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`(.+?)`(?=[ ,(]|$)", row)]
    return [text for text in quoted if " " in text and THEIRS not in text]


def test_each_message_is_one_of_a_program() -> None:
    known, unknown = "\n".join(texts()), []
    for message in messages():
        pieces = [piece.strip(" ,;.()`") for piece in PLACE.split(BEFORE.sub("", message))]
        if not any(len(piece) > 6 and piece in known for piece in pieces):
            unknown.append(message)
    assert len(messages()) > 80
    assert unknown == []
