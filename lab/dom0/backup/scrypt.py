# SPDX-License-Identifier: GPL-3.0-or-later
"""Start `scrypt`, whichever is on PATH, on a terminal of its own, and type the passphrase.

Stand-in for launch_proc_with_pty and launch_scrypt of qubes-core-admin qubes/backup.py (asyncio, no
`-f`) and of qubes-core-admin-client qubesadmin/backup/restore.py (blocking, with `-f`).
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import subprocess
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .system import opened, problem

PROMPT = b"Please enter passphrase: "
CONFIRM = b"Please confirm passphrase: "
LOCAL_FLAGS = 3  # index of the local flags in termios.tcgetattr's list


@dataclass
class Encryption:
    """A running `scrypt enc`.

    Attributes:
        process: the process; its stderr is a pipe that nobody drains.
        terminal: the master side; closing it hangs the process up.
    """

    process: asyncio.subprocess.Process
    terminal: io.FileIO


def _take_terminal(master: int, slave: int) -> Callable[[], None]:
    """Return what the child does before exec: a new session on the slave, without echo."""

    def in_child() -> None:
        os.setsid()
        os.close(master)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        attributes = termios.tcgetattr(slave)
        attributes[LOCAL_FLAGS] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)

    return in_child


def _check_prompt(actual: bytes, expected: bytes) -> None:
    if actual != expected:
        raise problem(f"Unexpected prompt from scrypt: {actual!r}")


async def start_encryption(
    source: str, target: Path, passphrase: bytes, stdin: int | None = None
) -> Encryption:
    """Start `scrypt enc SOURCE TARGET` and answer its two prompts.

    Each prompt is read with one `StreamReader.read`, so it must come in one write, and nothing may
    come before it.

    Args:
        source: a path, or "-" for `stdin`.
        target: the file that scrypt writes.
        passphrase: the line to type, without its end.
        stdin: the descriptor for "-"; otherwise our own stdin is inherited.

    Raises:
        QubesException: it wrote something else than its prompts.
        OSError: it can't be started.
    """
    master, slave = os.openpty()
    terminal = io.FileIO(master, "r+")
    try:
        process = await asyncio.create_subprocess_exec(
            *("scrypt", "enc", source, str(target)),
            stdin=stdin,
            stderr=subprocess.PIPE,
            preexec_fn=_take_terminal(master, slave),
        )
    except BaseException:
        terminal.close()
        raise
    finally:
        os.close(slave)
    try:
        for prompt in (PROMPT, CONFIRM):
            _check_prompt(await opened(process.stderr).read(len(prompt)), prompt)
            terminal.write(passphrase + b"\n")
    except BaseException:
        terminal.close()  # hangs it up
        await process.wait()
        raise
    return Encryption(process, terminal)


def decrypt(source: Path, target: Path, passphrase: bytes) -> tuple[int, bytes]:
    """Run `scrypt dec -f SOURCE TARGET` to its end.

    Returns:
        Its exit status, and what it wrote to stderr after the prompt.

    Raises:
        QubesException: it wrote something else than its prompt.
        OSError: it can't be started.
    """
    master, slave = os.openpty()
    with io.FileIO(master, "r+") as terminal:
        try:
            process = subprocess.Popen(
                ["scrypt", "dec", "-f", str(source), str(target)],
                stderr=subprocess.PIPE,
                preexec_fn=_take_terminal(master, slave),  # noqa: PLW1509 -- no other way to get a tty
            )
        finally:
            os.close(slave)
        with process:
            prompt = opened(process.stderr).read(len(PROMPT))
            if prompt != PROMPT:
                terminal.close()
            _check_prompt(prompt, PROMPT)
            terminal.write(passphrase + b"\n")
            _, errors = process.communicate()
    return process.returncode, errors
