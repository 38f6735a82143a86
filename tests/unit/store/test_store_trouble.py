# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full, read-only or broken: no waiting, the right disk is named, reading works."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.store import archives, disks
from testing.store.driver import PAYLOAD, Filled, Store, copy
from testing.store.puts import fake_engine, small_backup

ENGINES = ("restic", "directory")
PLAIN = pytest.mark.parametrize("filled", ENGINES, indirect=True)
pytestmark = [pytest.mark.engines, disks.NEEDS_ROOT]


def noisy() -> bytes:
    """A backup of which nothing is stored yet."""
    volumes = {"private": archives.noise(3_000_000, 99)}
    return archives.join(archives.members([archives.Qube("new", 9, volumes=volumes)]))


def reads(filled: Filled) -> None:
    """All commands that only read work, and as ever."""
    store = filled.store
    assert [run["run"] for run in store.runs()] == filled.runs
    for run, stream in zip(filled.runs, filled.streams, strict=True):
        assert store.get(run) == stream
    for words in (["show", "latest"], ["check"], ["stats"]):
        result = store.run(*words)
        assert result.returncode == 0, result.stderr


def refuses(store: Store, state: str, *words: str, data: bytes = b"") -> str:
    """A command that fails, with one line that names the state of a disk; give that."""
    result = store.run(*words, data=data)
    assert result.returncode == 1, result
    text = result.stderr.decode()
    assert f"{state}: " in text, text
    assert text.count("\n") == 1, text
    assert ".go:" not in text
    return text


@pytest.mark.sampled(2)
@PLAIN
def test_read_only(filled: Filled) -> None:
    store = filled.store
    with disks.space(disks.read_only(store.repository)) as space:
        store.prefix = space.prefix
        for words in (["put"], ["forget", filled.runs[0]]):
            text = refuses(store, "is read-only", *words, data=small_backup())
            assert str(store.repository) in text
        reads(filled)
    store.prefix = ()
    assert store.run("prune").returncode == 0
    reads(filled)


@pytest.mark.sampled(2)
@PLAIN
def test_full(filled: Filled) -> None:
    """Not one byte is left; a forget that fails changes nothing for those that read."""
    store = filled.store
    with disks.space(disks.small(store.repository, "120m")) as space:
        store.prefix = space.prefix
        space.fill(store.repository)
        text = refuses(store, "is full", "put", data=small_backup())
        assert str(store.repository) in text
        reads(filled)


@pytest.mark.sampled(2)
@PLAIN
def test_way_back_from_a_full_disk(filled: Filled) -> None:
    """Though not one byte is left, forget and prune make room."""
    store = filled.store
    store.put(small_backup())
    with disks.space(disks.small(store.repository, "100m")) as space:
        store.prefix = space.prefix
        space.fill(store.repository)
        refuses(store, "is full", "put", data=noisy())
        makes_room(filled)


def makes_room(filled: Filled) -> None:
    store = filled.store
    for words in (["forget", filled.runs[1]], ["prune"]):
        result = store.run(*words)
        assert result.returncode == 0, result.stderr
    assert store.get(filled.runs[0]) == filled.streams[0]
    more = store.put(small_backup())
    assert store.get(more["run"]) == small_backup()
    assert store.run("check").returncode == 0


@pytest.mark.thorough
def test_way_back_with_borg(filler: Callable[[str, Path], Filled], tmp_path: Path) -> None:
    """It wants 545 MB free to prune: a repository of a gigabyte has them kept."""
    filled = filler("borg", tmp_path)
    store = filled.store
    image, place = tmp_path / "image", store.repository
    large = place / "data" / "0" / "other"  # that borg doesn't look at
    script = (
        f"truncate -s 6G {image}; mkfs.ext4 -q -m 0 -O ^has_journal {image};"
        f" cp -a {place} {place}.kept; device=$(losetup --find --show {image});"
        # it may be as its last user left it; and it goes as it is unmounted
        f" blockdev --setrw $device; mount $device {place}; losetup --detach $device;"
        f" cp -a {place}.kept/. {place}; fallocate -l 1G {large}"
    )
    with disks.space(script) as space:
        store.prefix = space.prefix
        for _ in range(6):  # then more than ten segments have something to move
            store.put(small_backup())
        gone = [run["run"] for run in store.runs() if run["run"] not in filled.runs]
        assert store.run("forget", *gone).returncode == 0
        space.path(large).unlink()
        status = os.statvfs(space.path(place))
        most = status.f_bavail * status.f_frsize - (64 << 20)
        space.run("fallocate", "-l", str(most), place / "most")
        space.fill(place)
        makes_room(filled)


def test_reserve(restic_store: Store) -> None:
    """It is made by the first put, isn't counted, and without room for it put refuses."""
    store = restic_store
    store.put(small_backup())
    reserve = store.repository / "dedup-store.reserve"
    size = reserve.stat().st_size
    assert reserve.stat().st_blocks * 512 >= size >= 4 << 20
    files = [path for path in store.repository.rglob("*") if path.is_file()]
    stored = sum(path.stat().st_size for path in files) - size
    assert json.loads(store.run("stats", "--json").stdout)["stored_bytes"] == stored
    reserve.unlink()
    with disks.space(disks.small(store.repository, "60m")) as space:
        store.prefix = space.prefix
        space.fill(store.repository)
        text = refuses(
            store, "forget and prune need 4.2 MB to make room", "put", data=small_backup()
        )
        assert "has 0 B left" in text


@pytest.mark.sampled(2)
@pytest.mark.parametrize("filled", ["restic", "borg"], indirect=True)
def test_reserve_after_a_forget_that_fails(filled: Filled) -> None:
    """A run's name with a mistake in it costs no room; what it had taken is taken again."""
    store = filled.store
    store.put(small_backup())
    with disks.space(disks.small(store.repository, "120m")) as space:
        store.prefix = space.prefix
        space.fill(store.repository)
        size = space.path(store.repository / "dedup-store.reserve").stat().st_size
        result = store.run("forget", filled.runs[0][:-1] + "x")
        assert result.returncode == 4, result.stderr
        assert space.path(store.repository / "dedup-store.reserve").stat().st_size == size
        store.run("forget", filled.runs[0])  # borg demands more than this disk has
        assert space.path(store.repository / "dedup-store.reserve").stat().st_size >= size // 2


def test_what_borg_demands(borg_store: Store) -> None:
    """On a small disk it soon neither writes nor removes: forgetting is no way out then."""
    store = borg_store
    with disks.space(disks.small(store.repository, "200m")) as space:
        store.prefix = space.prefix
        for _ in range(5):
            result = store.run("put", data=noisy())
            said = result.stderr.decode()
            assert "left, and borg demands 571.5 MB to write or remove anything" in said
            if result.returncode:
                break
        removal = store.run("prune")
    assert removal.returncode == result.returncode == 1
    for text in (said, removal.stderr.decode()):
        assert "is too small for borg: borg demands that much free room" in text
        assert "anything: enlarge it, " in text
        assert "Insufficient free space to complete transaction (required: 5" in text
        assert "forget" not in text


@pytest.mark.parametrize("filled", ["restic"], indirect=True)
def test_removing_without_room_is_no_way_out_of_itself(filled: Filled) -> None:
    store = filled.store
    (store.repository / "dedup-store.reserve").unlink()
    with disks.space(disks.small(store.repository, "120m")) as space:
        store.prefix = space.prefix
        space.fill(store.repository)
        for words in (["forget", filled.runs[0]], ["prune"]):
            text = refuses(store, "is full", *words)
            assert "is full: enlarge it, " in text


@pytest.mark.parametrize("command", ["forget", "prune"])
def test_removing_without_room_in_a_storage_qube(restic_store: Store, command: str) -> None:
    store = restic_store
    store.configure(location="qrexec:sys-far/main")
    variables = fake_engine(store, "echo 'Fatal: no space left on device' >&2; exit 1")
    words = [command, "20261130T130000Z-20261130T080000-1234-abcd"][
        : 2 if command == "forget" else 1
    ]
    command_line = [PAYLOAD / "dedup-store", *words]
    result = subprocess.run(
        command_line, env=variables, capture_output=True, text=True, check=False
    )
    assert (
        "the disk of the repository main in the qube sys-far is full: in sys-far" in result.stderr
    )
    assert "`dedup-server discard main`" in result.stderr
    assert "qvm-volume extend sys-far:private" in result.stderr


@pytest.mark.sampled(4)
@pytest.mark.parametrize("how", ["full", "read-only"])
@PLAIN
def test_home(filled: Filled, how: str) -> None:
    """The engine's cache and our own lock are there; the repository's disk is another one."""
    store = filled.store
    home = store.folder / "home"
    shutil.rmtree(home)  # nothing was there before
    home.mkdir()
    script = disks.small(home, "200k") if how == "full" else disks.read_only(home)
    with disks.space(script) as space:
        store.prefix = (*space.prefix, "env", f"TMPDIR={store.folder}")
        if how == "full":
            space.fill(home)
        reads(filled)
        store.put(small_backup())
        assert store.run("forget", filled.runs[0]).returncode == 0
        assert store.run("prune").returncode == 0
        assert store.get(filled.runs[1]) == filled.streams[1]


def test_temporary_folder(restic_store: Store) -> None:
    """The engine has its files there, and we the recipe; the disk isn't the repository's."""
    store, folder = restic_store, restic_store.folder / "temporary"
    folder.mkdir()
    with disks.space(disks.small(folder, "100k")) as space:
        store.prefix = (*space.prefix, "env", f"TMPDIR={folder}")
        text = refuses(store, "is full", "put", data=small_backup())
        assert f"the disk of this qube's temporary folder {folder}, not the repository's," in text


def test_cache_that_fills_its_disk(restic_store: Store) -> None:
    """What restic 0.18 says then, word by word; the disk that it names isn't the repository's."""
    line = "Fatal: unable to save snapshot: Copy: write $HOME/.cache/restic/46/data/ad/tmp-28:"
    script = f'echo "{line} no space left on device" >&2; exit 1'
    command = [PAYLOAD / "dedup-store", "list"]
    variables = fake_engine(restic_store, script)
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    home = restic_store.folder / "home"
    wanted = f"this qube's own volume (home folder {home}; not the repository's disk) is full: make"
    assert wanted in result.stderr


def broken(store: Store, path: Path) -> None:
    """Have each read of a file fail for restic, as on a disk with a bad sector."""
    program = store.folder / "bin" / "restic"
    program.parent.mkdir()
    calls = "read,pread64"
    program.write_text(
        f"#!/bin/sh\nexec strace -D -f -o /dev/null -P {path} -e trace={calls}"
        f' -e inject={calls}:error=EIO {shutil.which("restic")} "$@"\n'
    )
    program.chmod(0o755)


def test_bad_sector(filler: Callable[[str, Path], Filled], tmp_path: Path) -> None:
    """It is told at once; check goes on, and tells which run and qube are hit."""
    filled = filler("restic", tmp_path)
    store = filled.store
    broken(store, filled.new[0])
    path = f"{store.folder}/bin:{os.environ['PATH']}"
    store.prefix = ("env", f"PATH={path}")
    refuses(store, "doesn't answer as a disk should", "get", filled.runs[1])
    assert store.get(filled.runs[0]) == filled.streams[0]
    result = store.run("check", "--read-data")
    assert result.returncode == 5
    text = result.stdout.decode()
    assert "input/output error" in text
    assert f"{filled.runs[0]} (whole): ok" in text
    # qubes that share a chunk of restic's with it are hit, too
    line = rf"{filled.runs[1]} \(whole\): damaged: (.+?); can still be restored: \w"
    found = re.search(line, text)
    assert found, text
    assert "work" in found[1].split(", ")


COMMANDS = (["list"], ["get", "latest"], ["put"], ["forget", "x"], ["prune"], ["check"], ["init"])


def test_silence_is_told(fresh: dict[str, Store], tmp_path: Path) -> None:
    """An engine that does nothing at all: each command says so, after ten seconds."""
    started = []
    (tmp_path / "data").write_bytes(archives.join([*archives.members(archives.small_qubes())]))
    for words in COMMANDS:
        folder = tmp_path / words[0]
        folder.mkdir()
        store = copy(fresh["restic"], folder)
        if words == ["init"]:
            shutil.rmtree(store.repository)
        os.mkfifo(folder / "go")
        script = f"echo 'a last word' >&2; read -r line <{folder / 'go'}; exit 1"
        variables = fake_engine(store, script)
        with (tmp_path / "data").open("rb") as data:
            process = subprocess.Popen(
                [PAYLOAD / "dedup-store", *words],
                stdin=data,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=variables,
            )
        started.append((folder, process))
    for folder, process in started:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(b"dedup-store: still waiting for restic "), (folder, line)
        assert b"(a last word): nothing for 1" in line
    for _, process in started:
        process.terminate()
        process.communicate()
