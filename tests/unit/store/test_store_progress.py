# SPDX-License-Identifier: GPL-3.0-or-later
"""The line on a terminal that tells how far put and get are."""

import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import PAYLOAD, Store

LINE = re.compile(rb"\r[\d.]+ [kM]B  [\d.]+ [kM]?B/s  0:\d\d:\d\d *(?=\r)")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal of 40 columns: its two ends."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    yield ours, theirs
    os.close(ours)


def start(
    store: Store, *arguments: str, terminal: tuple[int, int], **more: int
) -> subprocess.Popen[bytes]:
    """Start dedup-store with a terminal for stderr, in another language."""
    command = [PAYLOAD / "dedup-store", *arguments]
    variables = store.environment | {"LC_ALL": "de_DE.UTF-8", "COLUMNS": "999"}
    process = subprocess.Popen(command, stderr=terminal[1], env=variables, **more)
    os.close(terminal[1])
    return process


def read_until_line(terminal: int) -> bytes:
    """Read what is shown, until a line was rewritten."""
    shown = b""
    while not LINE.search(shown):
        shown += os.read(terminal, 4096)
    return shown


def rest_of(terminal: int) -> bytes:
    """Read what is shown, to the end."""
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:  # EIO: nobody has the other end any more
        pass
    return shown


def screen(shown: bytes) -> list[str]:
    """What remains to be seen, line by line, when all was shown."""
    lines = []
    for line in shown.decode().split("\r\n"):
        cells: list[str] = []
        for piece in line.split("\r"):
            assert len(piece) < 40 or "dedup-store:" in piece
            cells[: len(piece)] = piece
        lines.append("".join(cells).rstrip())
    return lines


def backup() -> bytes:
    return archives.join(archives.members(archives.small_qubes())) + archives.noise(4 << 20)


def test_put(directory_store: Store, terminal: tuple[int, int]) -> None:
    """It is rewritten in place, and gone before the message."""
    data = backup()
    put = start(
        directory_store, "put", terminal=terminal, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert put.stdin is not None
    put.stdin.write(data[: 5 << 20])
    put.stdin.flush()
    shown = read_until_line(terminal[0])
    put.stdin.write(data[5 << 20 :])
    put.stdin.close()
    shown += rest_of(terminal[0])
    assert put.wait() == 3  # it has something behind its end
    message, *nothing = screen(shown)
    assert message.startswith("dedup-store: not a whole backup, kept as partial run")
    assert nothing == [""]


def test_get(directory_store: Store, terminal: tuple[int, int], tmp_path: Path) -> None:
    data = backup()
    directory_store.put(data, code=3)
    run = directory_store.runs()[0]["run"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDWR), "r+b", buffering=0) as ends:  # noqa: PTH123
        get = start(directory_store, "get", run, terminal=terminal, stdout=ends.fileno())
        reader = os.open(pipe, os.O_RDONLY)
    # the pipe is full, and nobody reads
    shown = read_until_line(terminal[0])
    with open(reader, "rb") as output:  # noqa: PTH123
        assert output.read() == data
    shown += rest_of(terminal[0])
    assert get.wait() == 0
    warning, nothing = screen(shown)
    assert warning.startswith("dedup-store: warning: ")
    assert nothing == ""


def test_no_terminal(directory_store: Store) -> None:
    """Nobody else is told."""
    with directory_store.start("put", stdin=subprocess.PIPE) as put:
        out, errors = put.communicate(archives.join(archives.members(archives.small_qubes())))
    assert put.returncode == 0
    assert errors == b""
    assert out.startswith(b"stored ")
