# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a service with the caller's own file descriptors.

Source: qubes-core-qrexec libqrexec/process_io.c and replace.c, agent/qrexec-agent-data.c.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from dataclasses import dataclass
from types import TracebackType

from .paths import LabError

log = logging.getLogger("qrexec")

BLOCK = 65536
CONFIG_SECONDS = 30
# qubes-core-qrexec libqrexec/replace.c: printable ASCII, \a \b \t \n \r pass, the rest becomes "_".
_PASS = frozenset([*range(0x20, 0x7F), 0x07, 0x08, 0x09, 0x0A, 0x0D])
_FILTER = bytes(byte if byte in _PASS else ord("_") for byte in range(256))


@dataclass(frozen=True)
class Paths:
    """Where things are, seen from inside dom0 and qubes.

    Attributes:
        multiplexer: runs a service, in every qube and in dom0 (lab/qube/lib/).
        config: tells a service's user, in every qube.
        pool: the volumes, in dom0.
        backup_program: argv of the backup program, in dom0.
    """

    multiplexer: str = "/usr/lib/qubes/qubes-rpc-multiplexer"
    config: str = "/usr/lib/qubes/qrexec-service-config"
    pool: str = "/var/lib/qubes"
    backup_program: tuple[str, ...] = ("/usr/bin/python3", "-m", "qubes.backup_run")


class Streams:
    """A caller's stdin, stdout and stderr; closed at the end of a `with` block."""

    def __init__(self, stdin: int, stdout: int, stderr: int, filter_stderr: bool) -> None:
        """Take over three file descriptors."""
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.filter_stderr = filter_stderr
        self._open = [stdin, stdout, stderr]

    @classmethod
    def take(cls, descriptors: list[int], filter_stderr: bool) -> Streams:
        """Take over the three descriptors of a list, and empty it."""
        streams = cls(descriptors[0], descriptors[1], descriptors[2], filter_stderr)
        descriptors.clear()
        return streams

    def __enter__(self) -> Streams:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close what is still open."""
        self.close(*self._open)

    def close(self, *descriptors: int) -> None:
        """Close some of them now: while we hold one, its other side sees no end."""
        for descriptor in descriptors:
            if descriptor in self._open:
                self._open.remove(descriptor)
                os.close(descriptor)


def service_user(as_root: list[str], paths: Paths, descriptor: str, user: str) -> str:
    """Return the user that a qube's own configuration sets for a service, or else `user`.

    Args:
        as_root: argv prefix that runs a command in the qube.
        paths: where the qube keeps the helper.
        descriptor: SERVICE+ARGUMENT.
        user: who it is without configuration.

    Raises:
        LabError: the configuration is wrong, or there is no such user.
    """
    try:
        done = subprocess.run(
            [*as_root, paths.config, descriptor, user],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CONFIG_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"can't read the configuration of {descriptor}: {error}") from error
    if done.returncode != 0:
        raise LabError(f"{descriptor}: {done.stderr.strip() or 'its configuration is wrong'}")
    return done.stdout.strip()


def run_here(argv: list[str], streams: Streams) -> int:
    """Run a service to its end and return its exit code: 128+n for signal n.

    The end of its stderr counts too, as for upstream's agent.
    """
    readable, writable = os.pipe()
    try:
        process = subprocess.Popen(
            argv,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=writable,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        log.error("can't run %s: %s", argv[0], error)
        os.close(readable)
        return 125
    finally:
        os.close(writable)
    streams.close(streams.stdin, streams.stdout)
    pump = threading.Thread(target=_copy_errors, args=(readable, streams), daemon=True)
    pump.start()
    code = process.wait()
    pump.join()
    return 128 - code if code < 0 else code


def _copy_errors(readable: int, streams: Streams) -> None:
    """Copy a service's stderr to its caller; when the caller is gone, read on for the service."""
    caller_is_there = True
    with os.fdopen(readable, "rb", buffering=0) as source:
        while block := source.read(BLOCK):
            if not caller_is_there:
                continue
            try:
                data = block.translate(_FILTER) if streams.filter_stderr else block
                while data:
                    data = data[os.write(streams.stderr, data) :]
            except OSError:
                caller_is_there = False
