# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of restic on a repository, with its password and the way to it."""

import os
import shlex
import signal
from functools import partial
from pathlib import Path
from typing import IO

from dedup_store import engine_options
from dedup_store.config import Config
from dedup_store.engines.base import Session
from dedup_store.engines.restic import locks
from dedup_store.engines.storage_call import storage_call
from dedup_store.system.environment import environment
from dedup_store.system.gate import Gate
from dedup_store.system.processes import Child, ChildStream, Command
from dedup_store.system.streams import read_all

HOST = "dedup-store"  # of all our snapshots
PAYLOAD = "payload"  # a snapshot's file, and its tag
MANIFEST = "manifest"  # the other one's file
# Our own lock keeps removals away; restic would write one of its own, and wait 0.2 s for others
# (internal/restic/lock.go waitBeforeLockCheck).
READ_ONLY = ("--no-lock",)
_STOP = signal.SIGINT  # restic then removes its lock
_MAX_OUTPUT = 512 << 20
_CACHE_ROOM = 200 << 20  # bytes


def _has_room(variables: dict[str, str]) -> bool:
    """Return whether restic's cache can grow; restic is slower without it, or fails with it."""
    folder = Path(variables.get("XDG_CACHE_HOME") or f"{variables['HOME']}/.cache")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        status = os.statvfs(folder)
    except OSError:
        return False
    is_writable = not status.f_flag & os.ST_RDONLY and os.access(folder, os.W_OK)
    return is_writable and status.f_bavail * status.f_frsize >= _CACHE_ROOM


class ResticRunner:
    """A starter of restic for one command."""

    def __init__(self, config: Config, session: Session) -> None:
        self._config = config
        self._session = session
        self._options: list[str] = []

    def leave_cache(self) -> None:
        """Start the next processes without restic's cache, which would hide damage."""
        self._options = ["--no-cache"]

    def start(
        self,
        *arguments: str,
        feed: bool | IO[bytes] | Gate = False,
        hint: str = "",
        inside: tuple[str, ...] = (),
    ) -> Child:
        """Start restic on the repository.

        Args:
            arguments: restic's.
            feed: see processes.Child.
            hint: for its error message.
            inside: see processes.Command.
        """
        call = storage_call(self._config, maintenance=self._session.removes)
        variables = environment() | {
            "RESTIC_REPOSITORY": call.location if call else self._config.location,
            "RESTIC_PASSWORD_FILE": str(self._config.password_file),
        }
        # restic speaks to `rclone serve restic --stdio`, in the storage qube
        options = ["-o", f"rclone.program={call.command}"] if call else []
        if not _has_room(variables):
            options.append("--no-cache")
        argv = ["restic", "--quiet", *options, *self._options, *arguments]
        hint += call.hint if call else ""
        removes, keep = self._session.removes, (self._session.lock,)
        command = Command(
            argv, variables, _STOP, keep=keep, hint=hint, inside=inside, removes=removes
        )
        return Child(command, feed)

    def backup_options(self) -> list[str]:
        """Return the arguments for `restic backup` that the settings choose."""
        return engine_options.restic_arguments(self._config.compression, self._config.pack_size)

    def run(self, *arguments: str) -> bytes:
        """Run restic to its end, and return its output."""
        stream = ChildStream(partial(self.start, *arguments))
        return read_all(stream, _MAX_OUTPUT)

    def run_alone(self, *arguments: str) -> None:
        """Run what needs an exclusive lock, and wait for another restic that has one."""
        locks.when_free(self.run, self._config.lock_wait, *arguments)

    def remove_dead_locks(self) -> None:
        """Remove the locks of dead processes, unless somebody else's restic can be running."""
        locks.remove(self.run)

    def flush(self) -> None:
        """Write what was stored to the disk of a storage qube; a local repository has it there.

        The service begins by that (dedup_server engines/restic.py append_only), and ends without
        input.
        """
        call = storage_call(self._config, maintenance=False)
        if call:
            argv, keep = shlex.split(call.command), (self._session.lock,)
            how = Command(argv, environment(), _STOP, keep=keep, hint=call.hint)
            read_all(ChildStream(partial(Child, how, False)), 4096)
