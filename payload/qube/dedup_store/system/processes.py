# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of an engine: how they are run, fed and read."""

import contextlib
import fcntl
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dedup_store.errors import DamagedError, DiskError, EngineError, StoreError, clean
from dedup_store.system import stall_watch, streams
from dedup_store.system.disk_errors import EngineDisks
from dedup_store.system.gate import Gate
from dedup_store.system.stderr_tail import STDERR_BYTES, StderrTail

_STOP_SECONDS = 10
_LAST_WORDS = 1  # seconds that a failing or ended engine gets to end by itself
_POLL = 0.02
_MAX_WORDS = 160  # characters of what an engine that is waited for said last


@dataclass(frozen=True)
class Command:
    """The command that starts an engine.

    Attributes:
        argv: program and arguments, never a secret.
        variables: its whole environment.
        how: the signal that ends it early; it gets it too when we are killed. Without that, it
            would take the end of its input for the end of the data, or wait for ever.
        cwd: its folder.
        keep: file descriptors that it inherits.
        hint: what a person should know when it fails.
        limits: options of setpriv that take rights from it.
        inside: a program, with its options, that becomes the engine in other surroundings.
        removes: whether it is to remove something from the repository.
    """

    argv: list[str]
    variables: dict[str, str]
    how: signal.Signals
    cwd: Path | None = None
    keep: tuple[int, ...] = ()
    hint: str = ""
    limits: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    removes: bool = False

    @property
    def label(self) -> str:
        """The program and its command, for a person."""
        return " ".join([self.argv[0], *filter(str.isalpha, self.argv[1:])][:2])


class Child:
    """A process of an engine; part of its stderr is kept for its error message.

    Args:
        command: what to start.
        feed: True or a gate when write() feeds its stdin, or the file that is its stdin; its
            stdout can be read only when it isn't fed.
    """

    def __init__(self, command: Command, feed: bool | IO[bytes] | Gate) -> None:
        self._name, self._label = command.argv[0], command.label
        self._how = command.how
        self._hint = command.hint
        self._is_announced = False
        if not shutil.which(self._name, path=command.variables["PATH"]):
            raise StoreError(f"{self._name} is not installed here (not found in PATH)")
        death = ["setpriv", "--pdeathsig", command.how.name.removeprefix("SIG")]
        death += [*command.limits, "--", *command.inside]
        self._gate = feed if isinstance(feed, Gate) else None
        source: int | IO[bytes] = subprocess.DEVNULL
        if isinstance(feed, Gate):
            source = feed.stdin
        elif feed:
            source = subprocess.PIPE if feed is True else feed
        keep = (*command.keep, self._gate.fd) if self._gate else command.keep
        try:
            self._process = subprocess.Popen(
                [*death, *command.argv],
                stdin=source,
                stdout=subprocess.DEVNULL if feed else subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=command.variables,
                cwd=command.cwd,
                pass_fds=keep,
                start_new_session=True,  # a terminal's ^C reaches us, and we stop it in order
            )
        except OSError as error:
            raise StoreError(f"{self._name} can't be started: {error.strerror}") from None
        pipe = self._process.stdin if feed else self._process.stdout
        self.fd = pipe.fileno() if pipe else -1
        if pipe:
            streams.widen(self.fd)
        if self._gate:
            self._gate.stdin.close()
            self.fd = self._gate.fd
        self._errors = StderrTail(EngineDisks(command.variables, removes=command.removes))
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        stream = self._process.stderr
        while stream and (data := os.read(stream.fileno(), STDERR_BYTES)):
            self._errors.add(data)
            if self._errors.failure and not self._is_announced:
                self.interrupt()  # restic would try for 15 minutes; report its failure now
                killer = threading.Timer(_STOP_SECONDS, self._process.kill)
                killer.daemon = True
                killer.start()

    def is_sleeping(self) -> bool:
        """Return whether the process waits for something (proc(5), /proc/pid/stat, state)."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b") ")[2][:1]
        except OSError:
            return False
        return state == b"S"

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """Wait for the process; report when nothing moves for long."""
        with stall_watch.waiting(self._doing):
            yield

    def _doing(self) -> str:
        said = self._errors.last.decode(errors="replace").strip().rpartition("\n")[2]
        if "SSH_ORIGINAL_COMMAND" in said:  # the end of borg's description of where it runs
            said = ""
        return self._label + (f" ({clean(said, _MAX_WORDS)})" if said else "")

    @property
    def pid(self) -> int:
        """Its number, while it runs."""
        return self._process.pid

    def is_running(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def write(self, data: bytes | memoryview) -> None:
        """Write all of data to its stdin.

        Raises:
            StoreError: its error, when it has gone.
        """
        try:
            with self.waited_for():
                streams.write_all(self.fd, data)
        except BrokenPipeError:
            raise self.failure() from None
        stall_watch.moved()

    def close_stdin(self) -> None:
        """End its input."""
        with contextlib.suppress(OSError):  # it has gone
            if self._gate:
                self._gate.end()
            elif self._process.stdin:
                self._process.stdin.close()

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            StoreError: when it failed.
        """
        self.close_stdin()
        with self.waited_for():
            code = self._process.wait()
        if code != 0:
            raise self.failure()
        stall_watch.moved()

    def judge(self, is_damage: Callable[[int, bytes], bool]) -> None:
        """Wait for the end of an engine's check, whose output nobody reads.

        Args:
            is_damage: decides by exit code and end of stderr whether it found damage.

        Raises:
            DamagedError: it did; with its first finding.
            StoreError: it failed for another reason.
        """
        try:
            with self.waited_for():
                code = self._process.wait()
            self._reader.join()
            if code > 0 and is_damage(code, self._errors.last):
                raise DamagedError(f"{self._name}: {self._errors.first_ones()}")
            if code:
                error = self.failure()
                if isinstance(error, DiskError) and error.is_damage:
                    raise DamagedError(str(error))
                raise error
        finally:
            self.stop()

    def failure(self) -> EngineError:
        """Describe why it ended, or takes no more input; end it.

        borg on a full disk skips the file at hand, says why, and waits for the next one.
        """
        end = time.monotonic() + _STOP_SECONDS
        while self.is_running() and not self._errors.last and time.monotonic() < end:
            time.sleep(_POLL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS)
        if not self.is_running():
            self._reader.join(_STOP_SECONDS)
        message, stderr = self._errors.message(), self._errors.last.decode(errors="replace")
        code, cause = self._process.returncode, self._errors.cause()
        self.stop()
        if cause:
            return cause.error(self._name, stderr)
        if code is None:
            ending = "gave up"
        elif code < 0:
            ending = f"was ended by signal {-code}"
        else:
            ending = f"failed with exit code {code}"
        return EngineError(f"{self._name} {ending}: {message or 'no message'}{self._hint}", stderr)

    def interrupt(self) -> None:
        """Signal it to end, and don't wait."""
        if self.is_running():
            self._process.send_signal(self._how)
        self._is_announced = True

    def stop(self) -> None:
        """End it, if it still runs, and forget it."""
        process = self._process
        if self.is_running() and not self._is_announced:
            self.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_WORDS)
        # restic 0.18 heeds the signal only when a read or write returns
        if self._gate:
            self._gate.close()
            process.kill()
        else:
            self.close_stdin()
        if process.stdout:
            process.stdout.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join(_STOP_SECONDS)
        if process.stderr:
            process.stderr.close()


class ChildStream:
    """The output of processes in sequence; each is started while the one before runs."""

    def __init__(self, *starters: Callable[[], Child]) -> None:
        """Start the first process, and the second while the first is being read."""
        self._starters: Iterator[Callable[[], Child]] = iter(starters)
        self._children: list[Child] = []
        self._start_next()

    def followed_by(self, starters: Iterable[Callable[[], Child]]) -> "ChildStream":
        """Add processes to come after those that there are."""
        self._starters = itertools.chain(self._starters, starters)
        return self

    def await_data(self) -> "ChildStream":
        """Wait until there is something to read, or the end.

        Raises:
            StoreError: when the engine failed before.
        """
        fd = self._children[0].fd
        with self._children[0].waited_for():
            select.select([fd], [], [])
        if not int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder):
            self.readinto(memoryview(bytearray(1)))
        return self

    def _start_next(self) -> None:
        for starter in self._starters:
            self._children.append(starter())
            return

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes; see streams.Stream."""
        while self._children:
            if len(self._children) < 2:
                self._start_next()
            with self._children[0].waited_for():
                got = os.readv(self._children[0].fd, [buffer])
            if got:
                stall_watch.moved()
                return got
            self._children[0].finish()
            self._children.pop(0).stop()
        return 0

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.stop()
        self._children.clear()
