# SPDX-License-Identifier: GPL-3.0-or-later
"""Get files out of a backup, from a qube or from a file in dom0, into a folder.

Stands in for BackupRestore._start_retrieval_process and _retrieve_backup_header_files of
qubes-core-admin-client qubesadmin/backup/restore.py. Each call reads the source from its start.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qubesadmin.vm import QubesVM

from ..system import QFILE_UNPACKER, opened, problem

MAX_STDERR_BYTES = 1024
KEEP_FREE_BYTES = 500 * 1024 * 1024
HEADER_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Source:
    """Where the backup is.

    Attributes:
        location: a file in dom0 or in the qube, a command in the qube, or a service of the qube.
        qube: None for dom0.
        is_service: `location` is a service, instead of qubes.Restore.
    """

    location: str
    qube: QubesVM | None
    is_service: bool = False


@dataclass
class Retrieval:
    """A running retrieval.

    Attributes:
        unpacker: writes the files.
        names: tells the names of the files.
        errors: what went wrong.
        service: the qube's service, or None.
    """

    unpacker: subprocess.Popen[bytes]
    names: IO[bytes]
    errors: IO[bytes]
    service: subprocess.Popen[bytes] | None

    @property
    def names_come_first(self) -> bool:
        """Whether a name is told before its file is complete: tar does, the unpacker doesn't."""
        return self.service is None

    def stop(self) -> None:
        """End the unpacker."""
        with contextlib.suppress(ProcessLookupError):
            self.unpacker.terminate()
        self.unpacker.wait()

    def close(self) -> None:
        """Close the pipes."""
        self.names.close()
        self.errors.close()


def start_retrieval(
    source: Source, folder: Path, wanted: Sequence[str], max_files: int, max_bytes: int
) -> Retrieval:
    """Start to get files.

    Args:
        source: where from.
        folder: where to.
        wanted: names of files, or of folders with a slash at the end.
        max_files: 0 is no limit; only for a qube, as all limits.
        max_bytes: 0 is no limit.

    Raises:
        OSError: the file can't be read.
        QubesException: the qube can't be started.
    """
    limits = {"UPDATES_MAX_BYTES": str(max_bytes), "UPDATES_MAX_FILES": str(max_files)}
    if source.qube is None:
        return _from_file(source.location, folder, wanted, limits)
    return _from_qube(source, source.qube, folder, wanted, limits)


def _from_qube(
    source: Source, qube: QubesVM, folder: Path, wanted: Sequence[str], limits: dict[str, str]
) -> Retrieval:
    service = qube.run_service(source.location if source.is_service else "qubes.Restore")
    stdin = opened(service.stdin)
    if not source.is_service:
        location = source.location.replace("\r", "").replace("\n", "")
        stdin.write(f"{location}\n".encode())
    stdin.write((" ".join(wanted) + "\n").encode())
    stdin.flush()
    unpacker = subprocess.Popen(
        [str(QFILE_UNPACKER), str(os.getuid()), str(folder), "-v", "-w", str(KEEP_FREE_BYTES)],
        stdin=service.stdout,
        stdout=stdin,
        stderr=subprocess.PIPE,
        env=os.environ | limits,
    )
    # The unpacker holds the only ends now, so the qube sees when it is gone.
    opened(service.stdout).close()
    stdin.close()
    return Retrieval(unpacker, opened(unpacker.stderr), opened(service.stderr), service)


def _from_file(
    location: str, folder: Path, wanted: Sequence[str], limits: dict[str, str]
) -> Retrieval:
    blocks = KEEP_FREE_BYTES // os.statvfs(folder).f_frsize
    wait = f'while [ $(stat -f --format=%a "{folder}") -lt {blocks} ]; do sleep 1; done'
    with Path(location).open("rb") as archive:
        tar = subprocess.Popen(
            [
                *("tar", "-ixv", "--checkpoint=10000", f"--checkpoint-action=exec={wait}"),
                *("--occurrence=1", "-C", str(folder), *wanted),
            ],
            stdin=archive,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | limits,
        )
    return Retrieval(tar, opened(tar.stdout), opened(tar.stderr), None)


def retrieve_small(source: Source, folder: Path, wanted: Sequence[str]) -> None:
    """Get exactly the given files, of at most 1 MiB together.

    Raises:
        QubesException: they can't be had, or others came.
    """
    retrieval = start_retrieval(source, folder, wanted, len(wanted), HEADER_MAX_BYTES)
    told = retrieval.names.read()
    status = retrieval.unpacker.wait()
    errors = retrieval.errors.read(MAX_STDERR_BYTES).decode("ascii", "ignore")
    retrieval.close()
    if retrieval.service is not None and (code := retrieval.service.wait()):
        raise problem(f"Backup header retrieval failed (exit code {code}): {errors}")
    if status and not told and "Not found in archive" in errors:
        raise problem(
            f"unable to read the qubes backup file {source.location} ({status}): {errors}"
        )
    names = told.decode("ascii", "replace").splitlines()
    if sorted(names) != sorted(wanted):
        raise problem(f"unexpected files in archive: got {names!r}, expected {list(wanted)!r}")
    for name in wanted:
        if not (folder / name).exists():
            raise problem(f"Unable to retrieve file {name} from backup {source.location}: {errors}")
