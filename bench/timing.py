# SPDX-License-Identifier: GPL-3.0-or-later
"""The timing of bench/store.py: store, and read back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from contenders import Contender
from corpus import Volume

PIECE = 1 << 20


def say(text: str) -> None:
    """Write on stderr how far the measurement is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def settle() -> None:
    """Write cached data to disk, so that it doesn't slow what is timed next."""
    os.sync()


def feed(contender: Contender, source: Path, name: str = "backup") -> float:
    """Store a file; give the seconds."""
    settle()
    start = time.perf_counter()
    with source.open("rb") as file:
        command, variables = contender.store(name), contender.environment()
        subprocess.run(command, stdin=file, env=variables, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def store_images(contender: Contender, volumes: Sequence[Volume]) -> float:
    """Store the images themselves, each from its file; give the seconds."""
    return sum(feed(contender, volume.image, volume.name) for volume in volumes)


def restore(contender: Contender, name: str = "backup") -> tuple[float, int]:
    """Read the newest backup through a pipe; give the seconds and its length."""
    lengths: list[int] = []
    seconds = _read(contender, name, lambda piece: lengths.append(len(piece)))
    return seconds, sum(lengths)


def compare(contender: Contender, source: Path, name: str = "backup") -> None:
    """Read the newest backup, which must be equal to a file."""
    with source.open("rb") as file:

        def check(piece: memoryview) -> None:
            if file.read(len(piece)) != piece:
                raise SystemExit(f"{contender.name} gave back something else than was stored")

        _read(contender, name, check)
        if file.read(1):
            raise SystemExit(f"{contender.name} gave back less than was stored")


def _read(contender: Contender, name: str, take: Callable[[memoryview], None]) -> float:
    command = contender.restore(name)
    buffer = memoryview(bytearray(PIECE))
    settle()
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=contender.environment(), stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None  # noqa: S101 -- for mypy
        while got := os.readv(process.stdout.fileno(), [buffer]):
            take(buffer[:got])
    if process.returncode:
        raise SystemExit(f"{contender.name}: {command[0]} failed")
    return time.perf_counter() - start


def same(first: Path, second: Path) -> bool:
    """Return whether two files are equal."""
    return subprocess.run(["cmp", "--quiet", first, second], check=False).returncode == 0
