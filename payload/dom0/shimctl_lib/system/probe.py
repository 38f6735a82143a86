# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that a scrypt speaks the protocol that Qubes and the shim rely on.

Qubes: qubes-core-admin qubes/backup.py launch_scrypt, launch_proc_with_pty; the shim: exec_real.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path

from dom0_common.text import clean

from shimctl_lib.system.programs import ENVIRONMENT

ENTER, CONFIRM = b"Please enter passphrase: ", b"Please confirm passphrase: "
COST = ("--logN", "10", "-r", "8", "-p", "1")  # milliseconds instead of five seconds
OVERHEAD = 128  # bytes that scrypt's format adds (its FORMAT file)
SECONDS = 30  # for all of it


class RefusedError(Exception):
    """A program that can't be relied on, and why."""


class _Program:
    """The program, and its deadline."""

    def __init__(self, path: Path) -> None:
        self.path, self.deadline = path, time.monotonic() + SECONDS

    def on_terminal(
        self, arguments: Sequence[str], prompts: Sequence[bytes], line: bytes, data: bytes = b""
    ) -> tuple[int, bytes]:
        """Call it as Qubes does; return its status and its output after the prompts."""
        call = _Call(self, arguments)
        try:
            return call.finish(prompts, line, data)
        finally:
            call.close()

    def by_file(self, arguments: Sequence[str], line: bytes) -> tuple[int, bytes]:
        """Call it with the passphrase line in a pipe, as the shim's exec_real does."""
        reader, writer = os.pipe()
        try:
            os.write(writer, line)
            os.close(writer)
            source = ["--passphrase", f"file:/dev/fd/{reader}"]
            call = _Call(self, [*arguments[:1], *source, *arguments[1:]], (reader,))
            try:
                return call.finish((), b"", b"")
            finally:
                call.close()
        finally:
            os.close(reader)


class _Call:
    """One call of the program on a terminal of its own."""

    def __init__(
        self, program: _Program, arguments: Sequence[str], keep: Sequence[int] = ()
    ) -> None:
        self.deadline = program.deadline
        self.master, slave = os.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        try:
            self.process = subprocess.Popen(
                ["scrypt", *arguments],  # noqa: S607 -- its own name; what runs is `executable`
                executable=program.path,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),  # noqa: PLW1509 -- no threads here
                pass_fds=keep,
            )
        except OSError as error:
            os.close(self.master)
            raise RefusedError(f"it can't be run: {error.strerror}") from error
        finally:
            os.close(slave)

    def read(self, size: int) -> bytes:
        """Read what is there from stderr, at most size bytes; none at its end."""
        assert self.process.stderr is not None  # noqa: S101 -- for mypy
        poll = select.poll()
        poll.register(self.process.stderr, select.POLLIN)
        if not poll.poll(max(0, self.deadline - time.monotonic()) * 1000):
            raise RefusedError(f"it did not answer within {SECONDS} seconds")
        return os.read(self.process.stderr.fileno(), size)

    def finish(self, prompts: Sequence[bytes], line: bytes, data: bytes) -> tuple[int, bytes]:
        """Answer the prompts, send its input; return its status and its other output."""
        assert self.process.stdin is not None  # noqa: S101 -- for mypy
        for prompt in prompts:
            if (said := self.read(len(prompt))) != prompt:
                expected, got = prompt.decode().strip(), clean(said) or "nothing"
                raise RefusedError(f"it says {got!r} instead of {expected!r}")
            os.write(self.master, line + b"\n")
        with contextlib.suppress(BrokenPipeError):  # it says why
            self.process.stdin.write(data)
            self.process.stdin.close()
        rest = b""
        while said := self.read(4096):
            rest = (rest + said)[:4096]
        try:
            return self.process.wait(max(0, self.deadline - time.monotonic())), rest
        except subprocess.TimeoutExpired:
            raise RefusedError(f"it did not end within {SECONDS} seconds") from None

    def close(self) -> None:
        """End all that is left of it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for stream in (self.process.stdin, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        os.close(self.master)


def _done(what: str, result: tuple[int, bytes]) -> None:
    status, said = result
    if status != 0:
        raise RefusedError(f"{what} fails with status {status}: {clean(said) or 'no message'}")


def _check_container(path: Path, data: bytes) -> None:
    """Check that path is scrypt's format, version 0, at the requested cost, and encrypted."""
    container = path.read_bytes() if path.exists() else b""
    if container[:6] != b"scrypt" or len(container) != len(data) + OVERHEAD:
        raise RefusedError("what it writes is not scrypt's format")
    if container[6:16] != bytes.fromhex("00 0a 00000008 00000001"):
        raise RefusedError(f"it writes another version of scrypt's format: {container[6:16].hex()}")
    if data in container:
        raise RefusedError("what it writes is not encrypted")


def _check_output(path: Path, data: bytes) -> None:
    """Check that path has the data again, and remove it."""
    if not path.exists() or path.read_bytes() != data:
        raise RefusedError("dec gives back other data")
    path.unlink()


def probe(path: Path) -> None:
    """Make the program encrypt and decrypt, in each way that is relied on.

    Takes a tenth of a second, at most SECONDS.

    Raises:
        RefusedError: it doesn't do what it must; with the reason.
        OSError: there is no room for it in /tmp.
    """
    program = _Program(path)
    line, data = b"probe!" + os.urandom(16).hex().encode(), os.urandom(256)
    with tempfile.TemporaryDirectory(prefix="shimctl-") as name:
        folder = Path(name)
        plain, first, second, out = (str(folder / part) for part in ("plain", "1", "2", "out"))
        Path(plain).write_bytes(data)
        asked = program.on_terminal(["enc", *COST, "-", first], (ENTER, CONFIRM), line, data)
        _done("enc", asked)
        _check_container(Path(first), data)
        _done("enc by file:", program.by_file(["enc", *COST, plain, second], line))
        _check_container(Path(second), data)
        # Each is read in the other way than it was made.
        _done("dec by file:", program.by_file(["dec", "-f", first, out], line))
        _check_output(Path(out), data)
        _done("dec", program.on_terminal(["dec", "-f", second, out], (ENTER,), line))
        _check_output(Path(out), data)
        wrong = program.on_terminal(["dec", "-f", first, out], (ENTER,), line + b"x")
        if wrong[0] == 0:
            raise RefusedError("dec accepts a wrong passphrase")
