# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign text from qubes and other programs, cleaned before dom0 shows or records it."""

import re

_ODD = re.compile("[^ -~]+")


def clean(text: str | bytes, limit: int = 300) -> str:
    """Make foreign text fit for dom0's terminal: one line of printable ASCII.

    Args:
        text: anything.
        limit: longest result, in characters. The end is kept: the cause of an error stands there.
    """
    end = text[-4 * limit :]  # first: it may be long
    decoded = end.decode(errors="replace") if isinstance(end, bytes) else end
    line = " ".join(_ODD.sub(" ", decoded).split())
    if len(end) == len(text) and len(line) <= limit:
        return line
    return "..." + line[-(limit - 3) :]
