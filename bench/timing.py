# SPDX-License-Identifier: GPL-3.0-or-later
"""The timing of bench/store.py: store, and read back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Spent:
    """The seconds that a program took, and the seconds of CPU of its own, without its children."""

    seconds: float
    cpu: float


def feed(contender: Contender, source: Path, name: str = "backup") -> Spent:
    """Store a file.

    Raises:
        SystemExit: it failed.
    """
    settle()
    start = time.perf_counter()
    with source.open("rb") as file, Path(os.devnull).open("wb") as nothing:
        command, variables = contender.store(name), contender.environment()
        process = subprocess.Popen(command, stdin=file, env=variables, stdout=nothing)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # so that /proc still has it
        spent = Spent(time.perf_counter() - start, _cpu(process.pid))
    if process.wait():
        raise SystemExit(f"{contender.name}: {' '.join(command)} failed")
    return spent


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and all its threads, user and system (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def store_images(contender: Contender, volumes: Sequence[Volume]) -> float:
    """Store the images themselves, each from its file; give the seconds."""
    return sum(feed(contender, volume.image, volume.name).seconds for volume in volumes)


def restore(contender: Contender, name: str = "backup") -> tuple[float, int]:
    """Read the newest backup through a pipe; give the seconds and its length."""
    lengths: list[int] = []
    command = contender.restore(name)
    seconds = read(contender, command, lambda piece: lengths.append(len(piece)))
    return seconds, sum(lengths)


def compare(contender: Contender, source: Path, name: str = "backup") -> None:
    """Read the newest backup, which must be equal to a file."""
    with source.open("rb") as file:

        def check(piece: memoryview) -> None:
            if file.read(len(piece)) != piece:
                raise SystemExit(f"{contender.name} gave back something else than was stored")

        read(contender, contender.restore(name), check)
        if file.read(1):
            raise SystemExit(f"{contender.name} gave back less than was stored")


def read(contender: Contender, command: Sequence[str], take: Callable[[memoryview], None]) -> float:
    """Run a contender's command, and give its output to take, piece by piece.

    Returns:
        Seconds.

    Raises:
        SystemExit: it failed.
    """
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
        raise SystemExit(f"{contender.name}: {' '.join(command)} failed")
    return time.perf_counter() - start


def same(first: Path, second: Path) -> bool:
    """Return whether two files are equal."""
    return subprocess.run(["cmp", "--quiet", first, second], check=False).returncode == 0
