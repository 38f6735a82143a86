# SPDX-License-Identifier: GPL-3.0-or-later
"""The Admin API's methods about backups: they run the backup program inside dom0.

In Qubes, qubesd itself writes the backup (qubes-core-admin qubes/api/admin.py backup_execute,
backup_cancel, backup_info). Here `python3 -m qubes.backup_run PROFILE` in dom0 does it, as root and
with a service's environment: it prints `progress PERCENT` lines, ends with 0, with 1 and a message
on stderr, or with 130 after SIGTERM.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO

from .paths import DOM0, LabError
from .policy_files import inside
from .qubesd import Method, Methods, Request
from .qubesd_exc import (
    BackupAlreadyRunningError,
    BackupCancelledError,
    ProtocolError,
    QubesBackupProfileNotFoundError,
    QubesException,
)
from .qubesd_methods import Lab

PROFILES = "/etc/qubes/backup"
EXIT_CANCELLED = 130
MESSAGE_MAX = 4096

_PROFILE = re.compile(r"[A-Za-z0-9+._-]+\Z")
_PROGRESS = re.compile(rb"progress ([0-9]{1,3}(?:\.[0-9]{1,6})?)\n?\Z")

log = logging.getLogger("backup")


class Backups:
    """Methods about backups."""

    def __init__(self, lab: Lab, program: tuple[str, ...]) -> None:
        """Take the lab and the argv of the backup program in dom0."""
        self.lab, self.program = lab, program
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes] | None] = {}

    def methods(self) -> Methods:
        """Return all of them by name."""
        return {
            "admin.backup.Execute": Method(self.execute, argument=True, on_dom0=True),
            "admin.backup.Info": Method(self.info, argument=True, on_dom0=True),
            "admin.backup.Cancel": Method(self.cancel, argument=True, on_dom0=True),
        }

    def execute(self, request: Request) -> None:
        """Back up as a profile says, and wait for the end."""
        profile = self._profile(request)
        with self._lock:
            if profile in self._running:
                raise BackupAlreadyRunningError
            self._running[profile] = None
        try:
            self._run(profile)
        finally:
            with self._lock:
                del self._running[profile]

    def info(self, request: Request) -> str:
        """Return a summary of what a profile would back up."""
        argv = self._argv("--info", self._profile(request))
        try:
            done = subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise QubesException(f"can't run the backup program in dom0: {error}") from error
        if done.returncode != 0:
            raise QubesException(_message(done.stderr))
        return done.stdout.decode(errors="replace")

    def cancel(self, request: Request) -> None:
        """Cancel a running backup."""
        profile = self._profile(request, must_exist=False)
        with self._lock:
            process = self._running.get(profile)
            if process is None:
                raise QubesException("Backup operation not running")
            os.kill(inner_pid(process.pid), signal.SIGTERM)

    def _profile(self, request: Request, must_exist: bool = True) -> str:
        name = request.argument
        if "/" in name:
            raise ProtocolError("Backup profile ID must not contain forward slash character")
        if not _PROFILE.match(name):
            raise ProtocolError("bad characters in the backup profile's name")
        if must_exist:
            try:
                root = self.lab.power.machines.root(DOM0)
                found = inside(root, f"{PROFILES}/{name}.conf").exists()
            except (LabError, OSError) as error:
                raise QubesException(f"can't read backup profiles: {error}") from error
            if not found:
                raise QubesBackupProfileNotFoundError(f"Backup profile does not exist: {name}")
        return name

    def _argv(self, *arguments: str) -> list[str]:
        try:
            return [*self.lab.power.machines.enter(DOM0, None), *self.program, *arguments]
        except LabError as error:
            raise QubesException(str(error)) from error

    def _run(self, profile: str) -> None:
        try:
            process = subprocess.Popen(
                self._argv(profile),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise QubesException(f"can't run the backup program in dom0: {error}") from error
        with self._lock:
            self._running[profile] = process
        errors = _Tail(process.stderr)
        assert process.stdout is not None  # noqa: S101 - it is PIPE above
        with process.stdout as lines:
            for line in lines:
                found = _PROGRESS.match(line)
                if found:
                    self.lab.events.fire(
                        *("", "backup-progress"),
                        backup_profile=profile,
                        progress=found[1].decode(),
                    )
        code = process.wait()
        message = _message(errors.end())
        log.info("backup %s ended with %s", profile, code)
        if code in (EXIT_CANCELLED, -signal.SIGTERM):
            raise BackupCancelledError
        if code != 0:
            raise QubesException(message)


class _Tail:
    """Reads a stream to its end, closes it, and keeps the last part."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None  # noqa: S101 - it is PIPE
        self._kept = b""
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while block := os.read(stream.fileno(), MESSAGE_MAX):
                self._kept = (self._kept + block)[-MESSAGE_MAX:]

    def end(self) -> bytes:
        """Return the last part."""
        self._thread.join()
        return self._kept


def _message(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the backup program failed without a message"


def inner_pid(pid: int) -> int:
    """Return the process that does the work: nsenter's child, when `pid` is an nsenter.

    nsenter stays behind as the parent of a command in another pid namespace, and passes no signals
    on (nsenter(1), --pid).
    """
    while Path(f"/proc/{pid}/comm").read_text().strip() == "nsenter":
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            break
        pid = int(children[0])
    return pid
