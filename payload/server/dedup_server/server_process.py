# SPDX-License-Identifier: GPL-3.0-or-later
"""The run of an engine's server on stdin and stdout."""

import contextlib
import fcntl
import os
import select
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dedup_server.engines.borg_filter import Filter
from dedup_server.errors import RefusedError, StorageError
from dedup_server.server_command import environment

CREATE_SECONDS = 600  # making a repository takes a second; see borg_filter._CREATING
_STDIN, _STDOUT = 0, 1
_BUFFER = 1 << 20
_TICK = 1.0  # seconds
_STOP_SECONDS = 30


def has_input() -> bool:
    """Wait for the client's first byte; return False when it ends its input without one."""
    select.select([_STDIN], [], [])
    try:
        return fcntl.ioctl(_STDIN, termios.FIONREAD, bytes(4)) != bytes(4)
    except OSError:
        return True  # neither a pipe nor a socket


def execute(argv: list[str]) -> NoReturn:
    """Become the server.

    Raises:
        StorageError: it can't be started.
    """
    try:
        os.execvpe(argv[0], argv, environment())
    except OSError as error:
        raise StorageError(f"{argv[0]} can't be started: {error.strerror}") from None


def relay(argv: list[str], cwd: Path | None, requests: Filter) -> int:
    """Run borg's server behind a filter; its answers go to stdout directly.

    Returns:
        The server's exit status.

    Raises:
        RefusedError: the filter refused a request, or the repository isn't made in time.
        StorageError: the server can't be started.
    """
    server = _start(argv, cwd, subprocess.PIPE)
    pipe = server.stdin
    assert pipe is not None  # noqa: S101 -- for mypy: it is a pipe
    try:
        deadline = time.monotonic() + CREATE_SECONDS
        while server.poll() is None:
            if requests.is_creating and time.monotonic() > deadline:
                raise RefusedError("making the repository took too long")
            if not select.select([_STDIN], [], [], _TICK)[0]:
                continue
            data = os.read(_STDIN, _BUFFER)
            if not data:
                break
            view = memoryview(requests.feed(data))
            while view:
                view = view[os.write(pipe.fileno(), view) :]
        pipe.close()
        return server.wait()
    except BrokenPipeError:
        return server.wait()
    finally:
        _stop(server)


def supervise(argv: list[str], cwd: Path | None, is_open: Callable[[], bool]) -> int:
    """Run a server as long as maintenance is open.

    Returns:
        The server's exit status.

    Raises:
        RefusedError: maintenance was closed.
        StorageError: the server can't be started.
    """
    if os.geteuid() == 0 and cwd and cwd.stat().st_uid == 0:
        # root may write to any file, also to one that folder/links.py protects
        argv = ["setpriv", "--bounding-set=-dac_override", "--", *argv]
    server = _start(argv, cwd, _STDIN)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return server.wait(_TICK)
            if not is_open():
                raise RefusedError("maintenance was closed")
    finally:
        _stop(server)


def _start(argv: list[str], cwd: Path | None, stdin: int) -> subprocess.Popen[bytes]:
    """Start a server that the kernel ends when this process ends, for whatever reason."""
    death = ["setpriv", "--pdeathsig", "TERM", "--"]
    try:
        return subprocess.Popen([*death, *argv], stdin=stdin, cwd=cwd, env=environment())
    except OSError as error:
        raise StorageError(f"{argv[0]} can't be started: {error.strerror}") from None


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End a server that still runs."""
    if server.stdin:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_TICK)  # borg then closes the repository in order
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
