# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup cancelled in the middle, as qvm-backup's Ctrl-C does it: admin.backup.Cancel."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from testing.upstream.dom0 import QUBE, Dom0, complaints
from testing.upstream.machine import child_of

MANY = 4 * 10240  # bytes of a chunk; the backup is then long enough to be cancelled in


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    while not condition():
        time.sleep(0.02)


def start_and_cancel(dom0: Dom0, *, to: str | Path, qube: str | None = None) -> tuple[int, str]:
    """Start a backup, cancel it when five chunks are through; return status and errors."""
    known = dom0.ledger().keys()
    argv = dom0.backup_argv("exact", to=to, qube=qube)
    tool = dom0.machine.popen(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def rows() -> int:
        assert tool.poll() is None, "the backup ended before it could be cancelled"
        return sum(len(rows) for backup, rows in dom0.ledger().items() if backup not in known)

    wait_for(lambda: rows() >= 5)
    os.kill(child_of(tool), signal.SIGINT)
    if qube:
        # Upstream waits for the qube's service while it holds the service's stdin open
        # (qubes/backup.py backup_do); a second Cancel ends that.
        wait_for(lambda: "Finished sending thread" in dom0.log().rpartition("Sending file")[2])
        os.kill(child_of(tool), signal.SIGINT)
    _, errors = tool.communicate()
    return tool.returncode, errors


def assert_nothing_left(dom0: Dom0) -> None:
    """Fail when a scrypt still runs or its files lie about.

    A Cancel that comes while upstream answers scrypt's prompts (qubes/backup.py launch_scrypt) ends
    no scrypt; the terminal's end does, when Python collects what the exception left.
    """
    dom0.collect_garbage()
    wait_for(lambda: dom0.machine.run("pgrep", "-x", "scrypt|tar", check=False).stdout == "")
    assert list((dom0.folder / "tmp").iterdir()) == []


def test_cancelled_backup_to_a_file(old: Dom0, new: Dom0, tmp_path: Path) -> None:
    old.chunk_size(MANY)
    status, errors = start_and_cancel(old, to=tmp_path / "cut")
    assert status == 1
    assert "Backup error" in errors
    assert_nothing_left(old)
    done = new.restore(source=tmp_path / "cut", check=False)
    assert complaints(done), "half an archive was restored without a complaint"
    old.chunk_size()
    old.backup("exact", to=tmp_path / "whole")
    assert complaints(new.restore(source=tmp_path / "whole")) == []


def test_cancelled_backup_to_the_store_is_partial(old: Dom0) -> None:
    old.chunk_size(MANY)
    known = {run["run"] for run in old.runs("restic")}
    status, errors = start_and_cancel(old, to="dedup-store put --repository restic", qube=QUBE)
    assert status == 1
    assert "Backup error" in errors
    assert_nothing_left(old)

    def states() -> list[str]:
        return [run["status"] for run in old.runs("restic") if run["run"] not in known]

    wait_for(lambda: bool(states()))
    assert states() == ["partial"]
