# SPDX-License-Identifier: GPL-3.0-or-later
"""Helpers; qubesadmin/utils/__init__.py."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qubesadmin import exc

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_SIZE = re.compile(r"([0-9]+)\s*(?:([KMG]I?)B?)?\Z")


def parse_size(size: str) -> int:
    """Return the bytes that a text such as `10GiB` stands for.

    Raises:
        QubesException: it isn't a size.
    """
    found = _SIZE.match(size.strip().upper())
    if not found:
        raise exc.QubesException("Invalid size: %s.", size)
    return int(found[1]) * (_UNITS[found[2]] if found[2] else 1)


def encode_for_vmexec(args: Iterable[str]) -> str:
    """Return a command as the argument of qubes.VMExec."""

    def word(arg: str) -> str:
        parts = re.split(rb"([^a-zA-Z0-9_.])", arg.encode())
        parts[1::2] = [b"--" if byte == b"-" else b"-%02X" % byte[0] for byte in parts[1::2]]
        return b"".join(parts).decode("ascii")

    return "+".join(map(word, args))
