# SPDX-License-Identifier: GPL-3.0-or-later
"""The command check: what it finds, whom it says is hit, and that the others come back."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.store.driver import PAYLOAD, Filled, Store, lock_files, mostly, refusal

QUBES = ["debian", "work", "vault", "disp", "dom0"]


def flip(path: Path, offset: int | None = None) -> None:
    """Alter one bit, in the middle or where it is said (from the end when negative)."""
    path.chmod(0o600)
    size = path.stat().st_size
    at = size // 2 if offset is None else offset % size
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def checked(store: Store, *arguments: str, code: int) -> dict[str, Any]:
    """Check, and give the report."""
    result = store.run("check", "--json", *arguments)
    assert result.returncode == code, result
    report: dict[str, Any] = json.loads(result.stdout)
    for row in report["runs"]:
        assert row.keys() == {"run", "status", "ok", "damaged", "restorable", "reason"}
    return report


def by_run(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in report["runs"]}


def is_well(filled: Filled, number: int) -> dict[str, Any]:
    """What is reported of a run that is well."""
    row = {"run": filled.runs[number], "status": "whole", "ok": True}
    return row | {"damaged": [], "restorable": QUBES, "reason": ""}


def payload_of_work(filled: Filled) -> Path:
    """Find the file that has the payload which is new in the second run."""
    if filled.store.engine == "directory":
        return filled.store.stored / filled.runs[1] / "1"
    return filled.new[0]


@pytest.mark.sampled(2)
@mostly("filled", "restic", "directory")
def test_all_is_well(filled: Filled) -> None:
    store = filled.store
    expected = [is_well(filled, 0), is_well(filled, 1)]
    whole = {"ok": True, "message": "ok"}
    report = checked(store, code=0)
    assert report == {"repository": whole, "runs": expected}
    lines = store.run("check", "--lines", "--read-data").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"repository": whole}, *expected]


@pytest.mark.sampled(2)
@mostly("filled", "restic", "directory")
def test_flipped_payload(filled: Filled) -> None:
    """The qube that it hits is named, the others and the other run come back."""
    store, (first, second) = filled.store, filled.runs
    flip(payload_of_work(filled))
    report = checked(store, "--read-data", code=5)
    rows = by_run(report)
    assert rows[first] == is_well(filled, 0)
    assert rows[second].items() >= {"ok": False, "damaged": ["work"]}.items()
    assert rows[second]["restorable"] == ["debian", "vault", "disp", "dom0"]
    assert rows[second]["reason"].startswith("payload object 1 of 4: ")
    # each run of the engine directory stands for itself
    assert report["repository"]["ok"] is (store.engine == "directory")
    assert store.get(first) == filled.streams[0]
    assert store.run("get", second).returncode != 0
    result = store.run("get", second, "--members", "vm8/", "dom0-home/user.")
    assert result.returncode == 0, result.stderr
    names = subprocess.run(["tar", "-it"], input=result.stdout, capture_output=True, check=True)
    listed = names.stdout.decode().split()
    assert [name.partition("/")[0] for name in listed] == ["vm8", "dom0-home"]


def harm_manifest(filled: Filled) -> None:
    """Alter the second run's manifest, and leave its summary alone."""
    if filled.store.engine == "directory":
        flip(filled.store.stored / filled.runs[1] / "manifest")
    elif filled.store.engine == "borg":  # the next largest segment, begins with the manifest
        flip(filled.new[1], 3000)
    else:
        for path in filled.new:
            if path.stat().st_size < 200_000:
                flip(path)


@pytest.mark.parametrize(
    "filled",
    ["restic", pytest.param("borg", marks=pytest.mark.thorough), "directory"],
    indirect=True,
)
def test_damaged_manifest(filled: Filled) -> None:
    """What was in the run is still known by its summary."""
    harm_manifest(filled)
    rows = by_run(checked(filled.store, "--read-data", code=5))
    assert rows[filled.runs[0]] == is_well(filled, 0)
    row = rows[filled.runs[1]]
    assert row.items() >= {"status": "whole", "ok": False, "restorable": []}.items()
    assert row["damaged"] == QUBES
    assert row["reason"].startswith("nothing of it can be restored without its manifest: ")
    assert filled.store.get(filled.runs[0]) == filled.streams[0]


@pytest.mark.sampled(3)
def test_unknown_run(filled: Filled) -> None:
    result = filled.store.run("check", filled.runs[0], "20200101T000000Z-x-0000")
    assert result.returncode == 4, result
    assert result.stdout == b""


@pytest.fixture
def borg(filler: Callable[[str, Path], Filled], tmp_path: Path) -> Filled:
    return filler("borg", tmp_path)


@pytest.fixture
def restic(filler: Callable[[str, Path], Filled], tmp_path: Path) -> Filled:
    return filler("restic", tmp_path)


@pytest.fixture
def directory(filler: Callable[[str, Path], Filled], tmp_path: Path) -> Filled:
    return filler("directory", tmp_path)


@pytest.mark.thorough
def test_damaged_summary_hides_no_other(borg: Filled) -> None:
    """With its comment, borg itself then can't list any archive."""
    flip(borg.new[1], -200)
    runs = {run["run"]: run for run in borg.store.runs()}
    assert runs.keys() == set(borg.runs)
    assert runs[borg.runs[0]]["status"] == "whole"
    assert runs[borg.runs[1]]["reason"] == "its summary is malformed"
    assert borg.store.get("latest") == borg.streams[0]
    rows = by_run(checked(borg.store, code=5))
    assert rows[borg.runs[0]] == is_well(borg, 0)
    assert rows[borg.runs[1]].items() >= {"ok": False, "damaged": [], "restorable": []}.items()
    assert "its qubes are unknown" in rows[borg.runs[1]]["reason"]


def test_runs_that_cannot_be_listed(borg: Filled) -> None:
    """Without its own list of archives, borg finds none."""
    segments = sorted((borg.store.repository / "data" / "0").iterdir(), key=lambda p: int(p.name))
    flip(segments[-2], 400)
    result = borg.store.run("check", "--json")
    assert result.returncode == 5, result
    report = json.loads(result.stdout)
    assert report["repository"]["ok"] is False
    assert report["runs"] == []
    assert b"the runs can't be listed" in result.stderr


def run_with(store: Store, script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run dedup-store with a borg that does something before it becomes the real one."""
    program = store.folder / "bin" / "borg"
    program.parent.mkdir()
    engine = shutil.which("borg")
    program.write_text(f'#!/bin/sh\n{script}\nexec {engine} "$@"\n')
    program.chmod(0o755)
    environment = store.environment
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    command = [PAYLOAD / "dedup-store", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


def test_first_complaint_is_told(borg: Filled) -> None:
    """However many follow: borg writes a line for each lost piece."""
    script = (
        'case " $* " in *" check "*) { echo "Data integrity error: Segment 7"\n'
        '  seq -f "ID: %020.0f" 2000; } >&2; exit 1;;\nesac'
    )
    result = run_with(borg.store, script, "check", "--json", borg.runs[0])
    assert result.returncode == 5, result
    message = json.loads(result.stdout)["repository"]["message"]
    assert message.startswith("borg: Data integrity error: Segment 7 ")
    assert message.endswith(" (and 1999 more lines)")


def test_lock_is_waited_for_whatever_borg_says_of_itself(borg: Filled) -> None:
    """Behind its message that it is locked, borg's interpreter may complain of its clean-up."""
    once = borg.store.folder / "once"
    script = (
        f"if mkdir {once} 2>/dev/null; then cat >&2 <<'END'; exit 2; fi\n"
        "Failed to create/acquire the lock /repo/lock.exclusive (timeout).\n"
        "Exception ignored in: <function Repository.__del__ at 0x7f0000000000>\n"
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/python3/dist-packages/borg/repository.py", line 180, in __del__\n'
        '    assert False, "cleanup happened in Repository.__del__"\n'
        "AssertionError: cleanup happened in Repository.__del__\n"
        "END"
    )
    result = run_with(borg.store, script, "show", "--json", borg.runs[0])
    assert result.returncode == 0, result
    assert once.is_dir()
    assert json.loads(result.stdout)["run"] == borg.runs[0]


def test_text(directory: Filled) -> None:
    store, (first, second) = directory.store, directory.runs
    well = store.run("check", second)
    assert well.stdout.decode() == f"repository: ok\n{second} (whole): ok\n"
    assert well.stderr == b""
    flip(payload_of_work(directory))
    harmed = store.run("check", "--read-data", second, first)
    assert harmed.returncode == 5
    assert harmed.stdout.decode() == (
        "repository: ok\n"
        f"{second} (whole): damaged: work; can still be restored: debian, vault, disp, dom0; "
        "payload object 1 of 4: vm7/private.img.000.enc is damaged\n"
        f"{first} (whole): ok\n"
    )


def test_lost_object_is_found_without_reading(directory: Filled) -> None:
    (directory.store.stored / directory.runs[0] / "2").unlink()
    rows = by_run(checked(directory.store, code=5))
    assert rows[directory.runs[0]]["damaged"] == ["vault"]
    assert rows[directory.runs[1]] == is_well(directory, 1)
    assert checked(directory.store, directory.runs[1], code=0)["runs"] == [is_well(directory, 1)]


@pytest.mark.thorough
def test_lost_snapshot(restic: Filled) -> None:
    """A run whose manifest's snapshot can't be read: nobody knows what was in it."""
    tag = f"run={restic.runs[1]}"
    listed = json.loads(restic.store.native("--no-cache", "snapshots", "--json", "--tag", tag))
    manifest = next(item for item in listed if item["paths"] == ["/manifest"])
    flip(restic.store.repository / "snapshots" / manifest["id"])
    assert restic.store.get(restic.runs[0]) == restic.streams[0]
    vault = restic.store.run("get", restic.runs[0], "--members", "vm8/")
    assert (vault.returncode, vault.stderr) == (0, b"")
    assert vault.stdout in restic.streams[0]
    rows = by_run(checked(restic.store, code=5))
    assert rows[restic.runs[0]] == is_well(restic, 0)
    assert rows[restic.runs[1]].items() >= {"status": "unknown", "ok": False}.items()
    assert "its qubes are unknown" in rows[restic.runs[1]]["reason"]


@pytest.mark.thorough
def test_damaged_tree_beside_a_cache(restic: Filled) -> None:
    """What this machine still has in its cache doesn't hide that the repository lost it."""
    store = restic.store
    listed = json.loads(store.native("snapshots", "--json", "--tag", f"run={restic.runs[1]}"))
    snapshot = next(item["id"] for item in listed if "payload" in item["tags"])
    assert store.native("ls", snapshot).strip().endswith(b"/payload")  # now it is in the cache
    small = [p for p in store.repository.glob("data/*/*") if p.stat().st_size < 2000]
    for path in small:
        flip(path)
    rows = by_run(checked(store, code=5))
    assert not any(row["ok"] for row in rows.values())


@pytest.mark.thorough
def test_beside_a_put(restic: Filled) -> None:
    """A backup that goes on neither stops a check nor is stopped by it."""
    store = restic.store
    with store.start("put", "--json", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(restic.streams[0][: 20 << 20])
        putter.stdin.flush()
        while not lock_files(store.repository):
            assert putter.poll() is None
        assert checked(store, code=0)["runs"]
        putter.stdin.write(restic.streams[0][20 << 20 :])
        putter.stdin.close()
        assert putter.wait() == 0


@pytest.mark.thorough
def test_lost_pack(restic: Filled) -> None:
    """It takes long: restic 0.14 tries again and again to read it."""
    restic.new[0].unlink()
    rows = by_run(checked(restic.store, code=5))
    assert rows[restic.runs[0]] == is_well(restic, 0)
    assert rows[restic.runs[1]]["damaged"] == ["work"]


def test_failure_is_no_damage(store: Store) -> None:
    """A wrong password, or no repository."""
    if store.engine != "directory":
        store.password.write_text("wrong horse battery staple\n")
        result = store.run("check", "--json")
        assert result.returncode == 1, result
        assert json.loads(result.stdout)["exit_code"] == 1
    store.repository.rename(store.folder / "elsewhere")
    assert "there is no repository" in refusal(store, "check")
