# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts that are fed, ended and killed, and programs in the engine's place."""

import functools
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

import pytest

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import Store


@functools.cache
def small_backup() -> bytes:
    """One payload object."""
    qubes = [Qube("one", 1, volumes={"private": archives.noise(1_000_000, 3)})]
    return archives.join(archives.members(qubes))


@functools.cache
def backup() -> bytes:
    """40 MB in two payload objects."""
    qubes = [
        Qube("one", 1, volumes={"private": archives.noise(20_000_000, 1)}),
        Qube("two", 2, volumes={"private": archives.noise(18_000_000, 2)}),
    ]
    return archives.join(archives.members(qubes))


def children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def until(condition: object, what: str) -> object:
    """Poll until something is true; the limit only keeps a broken test from hanging."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if result := condition():  # type: ignore[operator]
            return result
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen")


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}/exe").exists() and not Path(f"/proc/{pid}/fd/0").exists()


def start_put(store: Store, data: bytes) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start a put and feed it."""
    putter = store.start("put", stdin=subprocess.PIPE)
    assert putter.stdin is not None
    putter.stdin.write(data)
    putter.stdin.flush()
    return putter, putter.stdin


def end(putter: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    assert putter.stderr is not None
    with putter:
        return putter.wait(), putter.stderr.read()


def end_a_put(store: Store, how: signal.Signals) -> None:
    putter, stdin = start_put(store, backup()[:15_000_000])
    engines = children(putter.pid)
    assert len(engines) == (0 if store.engine == "directory" else 1)
    putter.send_signal(how)
    code = putter.wait()
    assert code == {signal.SIGKILL: -9, signal.SIGINT: 130}.get(how, 143)
    until(lambda: all(is_gone(pid) for pid in engines), "the engine's end")
    with pytest.raises(BrokenPipeError):
        stdin.write(bytes(10_000_000))
    putter.stdin = None
    end(putter)
    assert store.runs() == []


def fake_engine(store: Store, script: str) -> dict[str, str]:
    """A program in the engine's place; gives the environment that finds it."""
    program = store.folder / "bin" / store.engine
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return store.environment | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
