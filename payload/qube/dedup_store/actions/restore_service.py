# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `restore-service`: sends members to dom0, for the service dedupbackup.Restore.

For `qvm-backup-restore -d QUBE --location-is-service dedupbackup.Restore+RUN`. Protocol
(qubes-core-admin-client qubesadmin/backup/restore.py _start_retrieval_process): one line with the
beginnings of the wanted names comes on stdin, separated by spaces; stdout is the qfile stream that
upstream's tar2qfile makes; the unpacker's answer to it comes on stdin, and is tar2qfile's to read.

Upstream's qubes.Restore ignores how its command ended. Here, when not all could be read, tar2qfile
is killed before it can end the stream properly, and dom0 sees the exit code.
"""

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from dedup_store.config import Config
from dedup_store.errors import StoreError, UsageError
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.runs.reader import RunReader

_MAX_LINE = 64 * 1024
_MAX_PREFIXES = 8000
# members: `backup-header`, `qubes.xml.000.enc`, `vm7/`, `dom0-home/USER`
_PREFIX = re.compile(r"[A-Za-z0-9_][!-~]{0,254}")
_STDIN = 0
_UPSTREAM = "/usr/lib/qubes"


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Send the members of a run that dom0 names."""
    _require_dom0()
    prefixes = _read_prefixes(_STDIN)
    repository = open_repository(settings, Purpose.READ).engine
    with RunReader(repository, arguments.run, prefixes) as reader:
        reader.warn_unless_whole()
        return _send(reader, prefixes)


def _read_prefixes(fd: int) -> list[str]:
    """Read the line with the names, and nothing behind it.

    Raises:
        UsageError: when it isn't one.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        if len(line) > _MAX_LINE:
            raise UsageError("the list of wanted members is too long")
        byte = os.read(fd, 1)
        if not byte:
            raise UsageError("the list of wanted members is cut")
        line += byte
    prefixes = line[:-1].decode("ascii", errors="replace").split(" ")
    if len(prefixes) > _MAX_PREFIXES:
        raise UsageError("too many members are wanted")
    for prefix in prefixes:
        if not _PREFIX.fullmatch(prefix) or ".." in prefix.split("/"):
            raise UsageError("a wanted member has a name that no member has")
    return prefixes


def _require_dom0() -> None:
    """Refuse a call from another qube, as policy does.

    Raises:
        UsageError: when it is from another, or from none.
    """
    if os.environ.get("QREXEC_REMOTE_DOMAIN") != "dom0":
        raise UsageError("only dom0 may call this service")


def _send(reader: RunReader, prefixes: Sequence[str]) -> int:
    """Send the wanted members of a run.

    Args:
        reader: the run, opened for these members.
        prefixes: beginnings of the wanted names.

    Returns:
        The exit code of tar2qfile.

    Raises:
        StoreError: when not all could be read.
    """
    program = shutil.which("tar2qfile", path=f"{_UPSTREAM}:{os.environ.get('PATH', os.defpath)}")
    if program is None:
        raise StoreError(f"tar2qfile is not installed here (not found in {_UPSTREAM})")
    source, sink = os.pipe()
    try:
        command = [program, f"/dev/fd/{source}", *prefixes]
        with subprocess.Popen(command, pass_fds=(source,)) as sender:
            os.close(source)
            source = -1
            try:
                reader.write(sink)
            except BrokenPipeError:
                pass  # it has all that it wants, or its exit code says why not
            except BaseException:
                sender.kill()
                raise
            os.close(sink)
            sink = -1
            return sender.wait()
    finally:
        for fd in (source, sink):
            if fd >= 0:
                os.close(fd)
