# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance of a restic repository that doesn't end in order."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from testing.server.maintenance import opened
from testing.server.storage_qube import QrexecStore, StorageQube
from testing.store import archives
from testing.store.power import Machine


def stream(data: bytes) -> bytes:
    made = archives.Qube("work", 7, volumes={"private": data})
    return archives.join(archives.members([made]))


def put_two(restic: QrexecStore) -> tuple[bytes, str, Path]:
    """Store two runs, the second with most of the first; give its data, the first, and a pack.

    The pack has data of both, so `restic prune` copies the second's out of it and removes it. All
    is in one, as restic fills them up to 16 MiB.
    """
    noise = archives.noise(12_000_000)
    first = restic.put(stream(noise))["run"]
    pack = max((restic.files / "data").rglob("*/*"), key=lambda path: path.stat().st_size)
    data = stream(noise[:9_000_000])
    restic.put(data)
    return data, first, pack


def hold_flush(qube: StorageQube, pack: Path, machine: Machine | None = None) -> Path:
    """Have flushes wait once that pack is gone, as long as a file is there; give that file."""
    script, here = qube.folder / "engines/sync", qube.folder / "here"
    if machine:
        script, here = outside(machine, script), outside(machine, here)
    script.write_text(
        f"#!/bin/sh\nhere={qube.folder}/here\n[ -e {pack} ] || : >$here\n"
        'while [ -e $here ]; do sleep 0.1; done\nexec /usr/bin/sync "$@"\n'
    )
    script.chmod(0o755)
    return here


def prune(restic: QrexecStore, here: Path) -> None:
    """Prune, and wait until the flush at the end is held; restic doesn't wait for it."""
    result = restic.run("prune")
    assert result.returncode == 0, result.stderr
    while not here.exists():
        time.sleep(0.01)


def outside(machine: Machine, path: Path) -> Path:
    """A file of the machine, as the test sees it."""
    return machine.disk / path.relative_to(machine.folder)


def kept(qube: StorageQube) -> list[str]:
    """What is there for a power cut's sake."""
    return names(qube.data / "main.kept")


def names(place: Path) -> list[str]:
    others = ("held.", "unheld", "reserve", "made")  # test_held_back and others
    return sorted(path.name for path in place.iterdir() if not path.name.startswith(others))


@pytest.mark.thorough
def test_power_cut_when_old_files_are_gone_and_new_ones_not_written(
    tmp_path: Path, restic: QrexecStore, qube: StorageQube
) -> None:
    """The journal has it that the old pack is removed; the new one's data were never written."""
    data, first, pack = put_two(restic)
    machine = Machine(tmp_path, restic)
    try:
        qube.prefix = machine.prefix
        with opened(qube, "restic+main"):
            assert restic.run("forget", first).returncode == 0
            here = hold_flush(qube, pack, machine)
            prune(restic, here)
            with outside(machine, qube.folder / "other").open("w") as file:
                file.write("x")
                os.fsync(file.fileno())
            machine.cut_power()
        machine.start()
        outside(machine, qube.folder / "engines/sync").unlink()
        assert restic.get() == data
        assert restic.run("check", "--read-data").returncode == 0
        place = outside(machine, qube.data / "main.kept")
        assert {name[:5] for name in names(place)} == {"lock", "torn."}
        assert list(place.glob("torn.*/data/*/*"))
        qube.prefix = machine.prefix
        with opened(qube, "restic+main"):
            assert restic.run("prune").returncode == 0
        assert not outside(machine, pack).exists()
        assert restic.get() == data
    finally:
        machine.remove()


@pytest.mark.thorough
def test_an_interrupted_session_is_ended(restic: QrexecStore, qube: StorageQube) -> None:
    """Links of another boot are put back, also when that was begun; unfinished ones are removed."""
    data = stream(archives.noise(300_000))
    restic.put(data)
    place, boot = qube.data / "main.kept", "00000000-0000-4000-8000-000000000000"
    shutil.copytree(restic.files, place / f"before.{boot}", copy_function=os.link)
    (place / "before.new/data").mkdir(parents=True)
    pack, other = sorted((restic.files / "data").glob("*/*"))[:2]
    pack.unlink()
    other.unlink()
    other.write_bytes(b"torn")
    stray = pack.with_name(f"{pack.name}.back")
    stray.write_bytes(b"")
    (restic.files / "index" / ("0" * 64)).write_bytes(b"")
    assert restic.get() == data
    assert restic.run("check", "--read-data").returncode == 0
    assert kept(qube) == ["lock", f"torn.{boot}"]
    assert [path.name for path in (place / f"torn.{boot}").glob("*/*") if path.is_file()] == [
        "0" * 64
    ]


@pytest.mark.thorough
def test_a_killed_session_keeps_what_it_did(restic: QrexecStore, qube: StorageQube) -> None:
    """Nothing is lost without a power cut; the next session, a backup's or a restore's, goes on."""
    data, first, pack = put_two(restic)
    with opened(qube, "restic+main"):
        assert restic.run("forget", first).returncode == 0
        here = hold_flush(qube, pack)
        prune(restic, here)
        assert len(kept(qube)) == 2
        os.kill(maintainer(qube), signal.SIGKILL)
        here.unlink()
    (qube.folder / "engines/sync").unlink()
    assert restic.get() == data
    assert kept(qube) == ["lock"]
    assert not pack.exists()


def maintainer(qube: StorageQube) -> int:
    """The process of the only session of maintenance in it."""
    found = subprocess.run(
        ["pgrep", "--full", "dedup-server maintain "], check=True, capture_output=True
    )
    own = f"DEDUP_SERVER_RUN_DIR={qube.folder}/run".encode()
    pids = [int(pid) for pid in found.stdout.split()]
    [pid] = [pid for pid in pids if own in Path(f"/proc/{pid}/environ").read_bytes()]
    return pid


@pytest.mark.thorough
def test_no_hard_links(tmp_path: Path, restic: QrexecStore, qube: StorageQube) -> None:
    """A repository that is a mount point can have none to beside it; this is told."""
    data, first, _ = put_two(restic)
    bound = tmp_path / "bound"
    bound.write_text(f'#!/bin/sh\nmount --bind {restic.files} {restic.files} && exec "$@"\n')
    bound.chmod(0o755)
    qube.prefix = ("unshare", "--mount", str(bound))
    with opened(qube, "restic+main"):
        with qube.start("dedupbackup.Maintenance", "restic+main") as session:
            _, errors = session.communicate()
        assert b"has no hard links, so a power cut during this maintenance can lose data" in errors
        qube.prefix = ()
    assert kept(qube) == ["lock"]
    assert restic.get() == data
    assert first in {run["run"] for run in restic.runs()}
