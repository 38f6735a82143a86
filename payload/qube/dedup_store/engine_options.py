# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the engines: what settings can choose, and the defaults.

The defaults are chosen by measurement: see docs/benchmarks.md, "Settings of the engines".
"""

import re
from collections.abc import Callable
from typing import Any

# borg's --chunker-params (borg help create): smallest and largest chunk and the mean as powers of
# 2, and the window. What changes within a chunk costs a whole chunk; each chunk costs memory.
CHUNKS = {
    "large": "buzhash,19,23,21,4095",  # borg's own default
    "medium": "buzhash,16,20,18,4095",
    "small": "buzhash,14,18,16,4095",
}
_CHUNKS = "medium"
_COMPRESSION = {"borg": "zstd,3", "restic": "auto"}
_BORG = re.compile(r"(auto,)?(none|lz4|zstd(,([1-9]|1[0-9]|2[0-2]))?|zlib(,[0-9])?)")
_PACK_SIZES = range(4, 129)  # MiB, what restic accepts

_Allowed = Callable[[Any], object]
_RIGHT: dict[tuple[str, str], tuple[_Allowed, str]] = {
    ("borg", "compression"): (
        _BORG.fullmatch,
        "none, lz4, zstd,N (1 to 22) or zlib,N (0 to 9), each also as auto,...",
    ),
    ("borg", "chunks"): (CHUNKS.__contains__, "large, medium or small"),
    ("restic", "compression"): (
        ("auto", "off", "max", "fastest", "better").__contains__,  # the last two from 0.18 on
        "auto, off, max, fastest or better",
    ),
    ("restic", "pack_size"): (_PACK_SIZES.__contains__, "between 4 and 128 (MiB)"),
}


def problem(engine: str, key: str, value: str | int) -> str:
    """Return what is wrong with a setting; empty when it is right.

    Args:
        engine: the repository's.
        key: `compression`, `chunks` or `pack_size`.
        value: what it has been set to.
    """
    if (engine, key) not in _RIGHT:
        return f"engine = '{engine}' has no '{key}'"
    is_allowed, right = _RIGHT[engine, key]
    return "" if is_allowed(value) else f"'{key}' must be {right}"


def borg_arguments(compression: str | None, chunks: str | None) -> list[str]:
    """Return the arguments for `borg create` that the settings choose."""
    params = CHUNKS[chunks or _CHUNKS]
    return ["--compression", compression or _COMPRESSION["borg"], "--chunker-params", params]


def restic_arguments(compression: str | None, pack: int | None) -> list[str]:
    """Return the arguments for `restic backup` that the settings choose."""
    size = [] if pack is None else ["--pack-size", str(pack)]
    return ["--compression", compression or _COMPRESSION["restic"], *size]
