# SPDX-License-Identifier: GPL-3.0-or-later
"""forget and prune: what they remove, what they leave, and what a kill in the middle leaves."""

import functools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import ENCRYPTED, Store, lock_files, mostly

ABSENT = "20200101T000000Z-absent-0000"
REMOVING = {"restic": "forget", "borg": "delete"}
PRUNING = {"restic": "prune", "borg": "compact"}


@functools.cache
def stream(seed: int, size: int = 300_000) -> bytes:
    qube = archives.Qube("work", 7, volumes={"private": archives.image(size, seed)})
    return archives.join(archives.members([qube]))


def names(store: Store) -> list[str]:
    """All that the repository lists: borg's archives, tags of restic's snapshots, folders."""
    if store.engine == "directory":
        return sorted(path.name for path in store.stored.iterdir())
    if store.engine == "borg":
        out = store.native("list", "--short", "--consider-checkpoints")
        return sorted(out.decode().split())
    found = json.loads(store.native("snapshots", "--json"))
    return sorted(",".join(snapshot.get("tags") or ["none"]) for snapshot in found)


def in_order(*runs: dict[str, int]) -> list[dict[str, int]]:
    """As `list` has them."""
    return sorted(runs, key=lambda run: run["order"])


def size_of(store: Store) -> int:
    """Without the room that is kept for removing (dedup_store/repository/reserve.py)."""
    files = (path for path in store.repository.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if path.name != "dedup-store.reserve")


def run_json(store: Store, *words: str) -> dict[str, object]:
    result = store.run(*words, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return report


def failed_put(store: Store) -> None:
    """Begin a put, and have it killed when some of its payload is in the repository."""
    with store.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        data = stream(9, 12_000_000)
        putter.stdin.write(data[: len(data) - 20_000])
        putter.stdin.flush()
        putter.send_signal(signal.SIGKILL)
    # the engines of the volumes before were through; borg's whole archive is rolled back
    if store.engine == "borg":
        config = ["--comment", "x", f"::{ABSENT}.payload.checkpoint.1", "-"]
        store.native("create", *config, data=b"what a checkpoint keeps" * 1000)
    elif store.engine == "directory":
        (left,) = store.stored.glob("*.unfinished")
        assert (left / "0").stat().st_size > 1_000_000
        left.rename(store.stored / f"{ABSENT}.unfinished")
    else:
        tag = f"run={ABSENT},payload"
        store.native("backup", "--stdin", "--host=dedup-store", "--tag", tag, data=b"x" * 1000)


@mostly("store", "restic", "directory")
def test_forget_removes_its_run_alone(store: Store) -> None:
    first, second, third = (store.put(stream(seed)) for seed in (1, 2, 3))
    if store.engine == "borg":
        store.native("create", f"::{first['run']}.mine", "-", data=b"another's")
    elif store.engine == "directory":
        (store.stored / f"{first['run']}.mine").mkdir()
    else:
        store.native("backup", "--stdin", "--tag", f"run={first['run']}", data=b"another's")
    before = names(store)
    report = run_json(store, "forget", first["run"], third["run"], first["run"])
    assert report == {"forgotten": [first["run"], third["run"]]}
    assert store.runs() == [second]
    assert store.get() == stream(2)
    kept = [name for name in before if second["run"] in name or "mine" in name]
    kept += [f"run={first['run']}"] if store.engine == "restic" else []
    assert names(store) == sorted(kept)
    assert store.run("get", first["run"]).returncode == 4
    assert store.run("prune").stdout == b"there was nothing to remove\n"
    assert names(store) == sorted(kept)
    assert store.get() == stream(2)


@mostly("store", "restic", "directory")
def test_forget_refuses_what_it_does_not_know(store: Store) -> None:
    run = store.put(stream(1))
    before = names(store)
    for name in (ABSENT, "latest", "*", "", "work", "-a", "\x1b[2J"):
        result = store.run("forget", run["run"], "--", name)
        assert result.returncode == 4, result.stderr
        assert b"\x1b" not in result.stderr
    assert names(store) == before
    assert store.runs() == [run]


@pytest.mark.sampled(3)
def test_prune_removes_what_is_not_whole(store: Store) -> None:
    whole = store.put(stream(1))
    qube = archives.Qube("work", 7, volumes={"private": b"x"})
    opaque = store.put(archives.join(archives.members([qube], kind="scrypt")))
    assert opaque["status"] == "opaque"
    partial = store.put(stream(2, 8_000_000)[:-20_000], code=3)
    kept = store.put(stream(3)[:-20_000], code=3)
    failed_put(store)
    before = size_of(store)
    report = run_json(store, "prune", "--keep", kept["run"])
    removed = report["removed"]
    assert isinstance(removed, list)
    assert {"run": partial["run"], "was": "partial"} in removed
    assert {"run": ABSENT, "was": "unfinished"} in removed
    assert {row["was"] for row in removed} == {"partial", "unfinished"}
    assert store.runs() == in_order(whole, opaque, kept)
    assert store.get() == stream(1)
    assert size_of(store) < before / 2
    left = {whole["run"], opaque["run"], kept["run"]}
    assert all(any(run in name for run in left) for name in names(store))
    lines = store.run("prune", "--lines")
    assert json.loads(lines.stdout) == {"run": kept["run"], "was": "partial"}
    assert store.runs() == in_order(whole, opaque)


@pytest.mark.sampled(3)
def test_a_summary_that_makes_no_sense_is_kept(store: Store) -> None:
    """It may be of a later version of dedup-store."""
    if store.engine == "borg":
        store.native("create", "--comment", "?", f"::{ABSENT}.manifest", "-", data=b"x")
    elif store.engine == "directory":
        (store.stored / ABSENT).mkdir()
        (store.stored / ABSENT / "objects.json").write_text('{"format": 2}')
    else:
        tags = f"run={ABSENT},summary=?"
        store.native("backup", "--stdin", "--host=dedup-store", "--tag", tags, data=b"x")
    assert [run["status"] for run in store.runs()] == ["partial"]
    result = store.run("prune")
    assert result.returncode == 0
    assert f"warning: {ABSENT} is kept".encode() in result.stderr
    assert len(store.runs()) == 1


@contextmanager
def engine_that(store: Store, script: str) -> Iterator[None]:
    """Have a shell script in the engine's place; $real is the engine."""
    program = store.folder / "bin" / store.engine
    program.parent.mkdir(exist_ok=True)
    real = shutil.which(store.engine)
    program.write_text(f"#!/bin/sh\nreal={real}; folder={store.folder}\n{script}\n")
    program.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{program.parent}:{path}"
    try:
        yield
    finally:
        os.environ["PATH"] = path
        program.unlink()


# Before the second step is after the first.
@pytest.mark.thorough
@pytest.mark.parametrize(("number", "when"), [(1, "before"), (1, "after"), (2, "after")])
@pytest.mark.parametrize("command", ["forget", "prune"])
@ENCRYPTED
def test_killed_between_two_steps(store: Store, command: str, number: int, when: str) -> None:
    """No run is listed that isn't whole, and the next prune completes it."""
    kept = store.put(stream(1))
    gone = store.put(stream(2)[:-20_000], code=3)
    kill = "kill -9 $PPID"
    script = f"""
        case "$*" in
        *{REMOVING[store.engine]}*)
            echo >>$folder/count
            if [ $(wc -l <$folder/count) = {number} ]; then
                {kill if when == "before" else '"$real" "$@"; ' + kill}; exit 1
            fi ;;
        esac
        exec "$real" "$@"
    """
    words = [command, gone["run"]] if command == "forget" else [command]
    with engine_that(store, script):
        assert store.run(*words).returncode == -signal.SIGKILL
    untouched = (number, when) == (1, "before")
    assert store.runs() == ([kept, gone] if untouched else [kept])
    for run in store.runs():
        assert store.run("get", run["run"]).returncode == 0
    again = store.run("forget", gone["run"])
    assert again.returncode == (0 if untouched else 4)
    assert store.run("prune").returncode == 0
    assert not any(gone["run"] in name for name in names(store))
    assert store.runs() == [kept]
    assert store.get() == stream(1)


@mostly("store", "restic")
def test_an_engine_that_is_killed_while_it_prunes(store: Store) -> None:
    """Its lock stays in the repository, and must not stop the next backup."""
    kept = store.put(stream(1))
    run_json(store, "forget", store.put(stream(2))["run"])
    calls = "unlink,unlinkat,rmdir"
    traced = (
        f'strace -f -o $folder/trace -e trace={calls} -e inject={calls}:signal=KILL "$real" "$@"'
    )
    pruning = PRUNING[store.engine]
    with engine_that(store, f'case "$*" in *{pruning}*) {traced};; *) exec "$real" "$@";; esac'):
        result = store.run("prune")
    assert result.returncode == 1, result
    if store.engine == "restic":
        assert lock_files(store.repository)
    more = store.put(stream(3))
    assert store.runs() == [kept, more]
    assert store.get() == stream(3)
    assert store.run("prune").returncode == 0
    assert store.get(kept["run"]) == stream(1)


@pytest.mark.sampled(3)
def test_prune_waits_for_a_put(store: Store) -> None:
    data = stream(1, 2_000_000)
    with store.start("put", "--json", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(data[:-1000])
        putter.stdin.flush()
        with store.start("prune", "--json") as pruner:
            assert pruner.stderr is not None
            assert b"waiting for another command" in pruner.stderr.readline()
            store.configure(lock_wait=0)
            result = store.run("forget", ABSENT)
            assert result.returncode == 1
            assert b"another command uses the repository: try again later" in result.stderr
            putter.stdin.write(data[-1000:])
            putter.stdin.close()
            assert putter.stdout is not None
            assert json.loads(putter.stdout.read())["status"] == "whole"
            assert pruner.stdout is not None
            assert json.loads(pruner.stdout.read()) == {"removed": []}
    assert store.get() == data


@mostly("store", "restic")
def test_others_wait_for_prune_and_its_engine(store: Store) -> None:
    """Also when prune itself was killed, and its engine goes on."""
    run = store.put(stream(1))
    os.mkfifo(store.folder / "go")
    script = (
        f'case "$*" in *{PRUNING[store.engine]}*) trap "" INT TERM; echo >$folder/here;'
        ' read -r line <$folder/go;; esac; exec "$real" "$@"'
    )
    with engine_that(store, script), store.start("prune") as pruner:
        while not (store.folder / "here").exists():
            assert pruner.poll() is None
        with store.start("list", "--json") as lister:
            assert lister.stderr is not None
            assert b"waiting for a forget or prune" in lister.stderr.readline()
            pruner.kill()
            pruner.wait()
            store.configure(lock_wait=0)
            result = store.run("put", data=stream(2))
            assert result.returncode == 1
            assert b"a forget or prune uses the repository" in result.stderr
            (store.folder / "go").write_text("go\n")
            assert lister.stdout is not None
            assert json.loads(lister.stdout.read()) == {"runs": [run]}
    assert store.get() == stream(1)


def test_forget_in_an_absent_repository(borg_store: Store) -> None:
    shutil.rmtree(borg_store.repository)
    for words in (["forget", ABSENT], ["prune"]):
        result = borg_store.run(*words)
        assert result.returncode == 2
        assert b"there is no repository" in result.stderr


def folder_of_locks(store: Store) -> Path:
    return store.folder / "home" / ".config" / "dedup-store"


def test_two_names_of_one_repository_share_the_lock(borg_store: Store) -> None:
    for name in ("toml", "password"):
        path = borg_store.config.with_suffix(f".{name}")
        shutil.copy(path, path.with_stem("second"))
    for words in ([], ["--repository", "second"]):
        assert borg_store.run("list", *words).returncode == 0
    assert len(list(folder_of_locks(borg_store).glob("*.lock"))) == 1
