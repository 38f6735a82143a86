# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine directory: what it says of encryption, damage, kills, holes, shared blocks."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import PASSWORD, PAYLOAD, Store, refusal

OTHER_RUN = "20200101T000000Z-other-0000"


@functools.cache
def small() -> bytes:
    """One payload object of some blocks."""
    qubes = [Qube("one", 1, volumes={"private": archives.noise(1_000_000, 3)})]
    return archives.join(archives.members(qubes))


def volumes(*seeds: int) -> list[Qube]:
    return [Qube(f"q{n}", n, volumes={"private": archives.noise(17 << 20, n)}) for n in seeds]


@functools.cache
def large(*seeds: int) -> bytes:
    """A payload object for each seed."""
    return archives.join(archives.members(volumes(*seeds)))


@pytest.fixture
def bare_store(tmp_path: Path) -> Store:
    """A configuration, without a repository."""
    store = Store(tmp_path, "directory")
    store.configure()
    return store


def test_init_says_that_nothing_is_encrypted(bare_store: Store) -> None:
    assert "no repository" in refusal(bare_store, "list")
    for words, changed in ((["--check"], True), ([], True), ([], False), (["--check"], False)):
        result = bare_store.run("init", "--json", *words)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == {
            "changed": changed,
            "has_password": False,
            "engine": "directory",
            "location": str(bare_store.repository),
            "password_file": None,
        }
        warned = result.stderr.startswith(b"dedup-store: warning: the engine directory encrypts")
        assert warned is changed
        assert bare_store.repository.exists() == (words == [] or not changed)
    for path in (bare_store.repository, bare_store.stored):
        assert path.stat().st_mode & 0o7777 == 0o700
    bare_store.put(small())
    files = [path for path in bare_store.stored.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o7777 for path in files} == {0o600}


def test_there_is_no_password(directory_store: Store) -> None:
    line = PASSWORD.encode() + b"\n"
    assert "encrypts nothing" in refusal(directory_store, "set-password", data=line)
    assert "encrypts nothing" in refusal(directory_store, "export-keys")
    report = json.loads(directory_store.run("export-keys", "--names", "--json").stdout)
    assert report["secrets"] == []
    assert b"encrypts nothing" in directory_store.run("export-keys", "--names").stdout
    assert [path.name for path in directory_store.config.parent.iterdir()] == ["default.toml"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(1_000_000))


def take_the_place(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)  # opening it must not wait for a writer


def link_elsewhere(path: Path) -> None:
    path.symlink_to(path.rename(path.parents[3] / path.name))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("harm", [flip, cut, lengthen, take_the_place, link_elsewhere])
@pytest.mark.parametrize("name", ["0", "manifest", "objects.json"])
def test_damage(directory_store: Store, name: str, harm: Callable[[Path], None]) -> None:
    """What comes back isn't called right, and the next backup isn't disturbed."""
    run = directory_store.put(small())["run"]
    harm(directory_store.stored / run / name)
    result = directory_store.run("get", run)
    if name == "objects.json" and harm is flip:  # that hit the summary, which only list needs
        assert (result.returncode, result.stdout, result.stderr) == (0, small(), b"")
    else:
        assert result.returncode == (5 if harm in (flip, cut, lengthen) else 1), result.stderr
    assert b"Traceback" not in result.stderr
    (listed,) = directory_store.runs()
    assert listed["run"] == run
    assert (listed["status"] == "whole") is (name != "objects.json")
    again = directory_store.put(small())["run"]
    assert directory_store.get(again) == small()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"format": 2}', '{"format": 1, "run": "x"}', "[" * 100_000]
    + [
        json.dumps({"format": 1, "run": OTHER_RUN, "summary": summary, "objects": objects})
        for summary, objects in (
            (3, {}),
            ("x", []),
            ("x", {"0": {"length": "1", "sha256": "0" * 64}}),
            ("x", {"../0": {"length": 1, "sha256": "0" * 64}}),
            ("x", {"0": {"length": 1, "sha256": 5}}),
        )
    ],
)
def test_index_that_makes_no_sense(directory_store: Store, text: str) -> None:
    run = directory_store.put(small())
    (directory_store.stored / OTHER_RUN).mkdir()
    (directory_store.stored / OTHER_RUN / "objects.json").write_text(text)
    assert [row["status"] for row in directory_store.runs()] == ["partial", "whole"]
    result = directory_store.run("get", OTHER_RUN)
    assert result.returncode == 5, result.stderr
    assert b"Traceback" not in result.stderr
    assert b"is kept" in directory_store.run("prune").stderr
    assert directory_store.runs()[1] == run


def test_what_is_no_run_is_left_alone(directory_store: Store) -> None:
    others = ["mine", f"{OTHER_RUN}.mine", ".snapshots"]
    for name in others:
        (directory_store.stored / name).mkdir()
    (directory_store.stored / OTHER_RUN).write_text("a file")
    (directory_store.repository / ".snapshots").mkdir()
    directory_store.put(small())
    assert len(directory_store.runs()) == 1
    assert directory_store.run("prune").stdout == b"there was nothing to remove\n"
    for name in (*others, OTHER_RUN):
        assert (directory_store.stored / name).exists()


def test_only_what_is_wanted_is_read(directory_store: Store) -> None:
    run = directory_store.put(large(1, 2))["run"]
    (directory_store.stored / run / "0").unlink()
    result = directory_store.run("get", run, "--members", "vm2/")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 17 << 20
    assert directory_store.run("get", run, "--members", "vm1/").returncode == 1


def test_zeros_are_holes(directory_store: Store) -> None:
    stream = bytes(3_000_000) + b"x" + bytes(5_000_001)
    run = directory_store.put(stream, code=3)["run"]
    file = directory_store.stored / run / "0"
    assert file.stat().st_size == len(stream)
    assert file.stat().st_blocks * 512 < 600_000
    assert directory_store.get(run) == stream


def killed_at(store: Store, call: str, number: int, *words: str, data: bytes = b"") -> bool:
    """Run a command that is killed when it makes this call for the nth time, if it does."""
    inject = f"inject={call}:signal=KILL:when={number}"
    trace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    result = subprocess.run(
        [*trace, PAYLOAD / "dedup-store", *words],
        input=data,
        capture_output=True,
        check=False,
        env=store.environment,
    )
    assert result.returncode in (0, -9, 137), result.stderr
    return result.returncode != 0


def test_init_killed_at_each_step(bare_store: Store) -> None:
    """No repository is left without an id, and the making can be repeated."""
    for call in ("mkdir", "fsync"):
        number, is_killed = 1, True
        while is_killed:
            shutil.rmtree(bare_store.repository, ignore_errors=True)
            shutil.rmtree(bare_store.folder / "home" / ".config", ignore_errors=True)
            is_killed = killed_at(bare_store, call, number, "init")
            identity = bare_store.repository / "dedup-store-id"
            if bare_store.stored.exists():
                assert len(identity.read_text()) == 32
            if bare_store.repository.exists():
                result = bare_store.run("init")
                assert result.returncode == 0, (call, number, result.stderr)
                assert len(identity.read_text()) == 32
            number += 1
        assert number > 2, call


def test_init_killed_while_it_writes_the_id(bare_store: Store) -> None:
    for written in ("", "0123"):
        shutil.rmtree(bare_store.repository, ignore_errors=True)
        shutil.rmtree(bare_store.folder / "home" / ".config", ignore_errors=True)
        bare_store.repository.mkdir()
        identity = bare_store.repository / "dedup-store-id"
        identity.write_text(written)
        assert "no repository" in refusal(bare_store, "list")
        bare_store.make()
        assert len(identity.read_text()) == 32


def test_put_killed_at_each_step(directory_store: Store) -> None:
    """Nothing has a run's name that isn't whole; what is left goes at the next prune."""
    kills = 0
    for call in ("mkdir", "ftruncate", "fsync", "rename"):
        number = 1
        while killed_at(directory_store, call, number, "put", data=small()):
            number += 1
        assert number > 1, call
        kills += number - 1
    left = [path for path in directory_store.stored.iterdir() if path.suffix]
    runs = directory_store.runs()
    assert len(left) > 4
    # one run of each call that went through, and two that were killed after its rename: before
    # its folder was flushed, and before the lock's note that all went well
    assert len(runs) == 4 + 2
    for run in runs:
        assert run["status"] == "whole"
        assert directory_store.get(run["run"]) == small()
    report = json.loads(directory_store.run("prune", "--json").stdout)
    assert {row["was"] for row in report["removed"]} == {"unfinished"}
    assert len(report["removed"]) == len(left)
    assert {path.name for path in directory_store.stored.iterdir()} == {r["run"] for r in runs}


@pytest.mark.thorough
def test_forget_killed_at_each_step(directory_store: Store) -> None:
    kept = directory_store.put(small())
    for call in ("rename", "fsync", "unlinkat"):
        number = 0
        while True:
            gone, number = directory_store.put(small())["run"], number + 1
            if not killed_at(directory_store, call, number, "forget", gone):
                break
            for run in directory_store.runs():
                assert run["status"] == "whole"
                assert directory_store.get(run["run"]) == small()
            directory_store.run("forget", gone)
        assert number > 1, call
    assert directory_store.run("prune").returncode == 0
    assert directory_store.runs() == [kept]
    assert [path.name for path in directory_store.stored.iterdir()] == [kept["run"]]


def test_shared_blocks(bare_store: Store) -> None:
    """A real Btrfs: an unchanged backup grows it by next to nothing, and a new qube by itself."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("needs mkfs.btrfs (btrfs-progs)")
    image, changed = bare_store.folder / "image", bytearray(large(1, 2))
    with image.open("wb") as file:
        file.truncate(256 << 20)
    changed[len(changed) // 4] ^= 1  # in the middle of the first volume
    streams = {"first": large(1, 2), "same": large(1, 2), "changed": changed, "new": large(9, 1, 2)}
    for name, data in streams.items():
        (bare_store.folder / name).write_bytes(data)
    place = bare_store.repository
    place.mkdir()
    program = PAYLOAD / "dedup-store"
    script = f"""
        mkfs.btrfs -q {image} >&2 && mount -o loop {image} {place} || exit 77
        set -e
        {program} init >&2
        for name in {" ".join(streams)}; do
            stored=$({program} put <{bare_store.folder}/$name)
            sync -f {place}
            echo $(($(stat -f -c '(%b - %f) * %S' {place})))
            run=${{stored#stored }}
            {program} get "${{run%% *}}" | cmp - {bare_store.folder}/$name
        done
        filefrag -v {place}/dedup-store-runs/*/0 | grep -c shared
    """
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=bare_store.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 77:
        pytest.skip(f"no Btrfs can be mounted here: {result.stderr}")
    assert result.returncode == 0, result.stderr
    first, same, changed_size, new, extents = map(int, result.stdout.split())
    assert first > 34 << 20
    assert same - first < 1 << 20
    assert changed_size - same < 2 << 20
    assert 17 << 20 < new - changed_size < 19 << 20
    assert extents > 0


def test_backup_of_the_qube_that_keeps_it(directory_store: Store) -> None:
    """Told by its name, which is the host name in Qubes."""
    directory_store.prefix = ("unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', "work")
    result = directory_store.run(
        "put", data=archives.join(archives.members(archives.small_qubes()))
    )
    assert result.returncode == 0
    assert b"leave work out of the next one" in result.stderr
    directory_store.prefix = (*directory_store.prefix[:-1], "elsewhere")
    result = directory_store.run(
        "put", data=archives.join(archives.members(archives.small_qubes()))
    )
    assert (result.returncode, result.stderr) == (0, b"")
