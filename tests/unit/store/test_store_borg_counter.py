# SPDX-License-Identifier: GPL-3.0-or-later
"""An old borg repository is played back: nothing is encrypted twice at the same count.

If something is, and one of the two is known, the other can be read without the key.
"""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from dedup_store.engines.borg import counter

from testing.store import archives
from testing.store.archives import Qube
from testing.store.borg_blocks import Piece, overlaps, pieces, read
from testing.store.driver import Store, boot, replace

pytestmark = pytest.mark.engines

SECRET = b"what another run had in it"
KNOWN = b"A"
YEAR = 31557600
NOW = 1_790_000_000  # in 2026


def backup(data: bytes) -> bytes:
    return archives.join(archives.members([Qube("work", 7, volumes={"private": data})]))


def secret_backup() -> bytes:
    return backup(b"".join(archives.noise(2000, n) + SECRET for n in range(300)))


@pytest.fixture
def store(borg_store: Store) -> Store:
    """What is stored is seen as it is encrypted."""
    borg_store.configure(compression="none")
    return borg_store


def play_back(store: Store, then: Callable[[], None]) -> tuple[set[Piece], set[Piece]]:
    """Store a secret, have the repository and maybe more go back, and store what is known.

    Returns:
        All that was seen before, and what is new.
    """
    store.put(backup(b"x"))
    for name in ("repo", "home"):
        shutil.copytree(store.folder / name, store.folder / f"old-{name}", symlinks=True)
    store.put(secret_backup())
    seen = pieces(store.repository)
    replace(store.repository, store.folder / "old-repo")
    then()
    return seen, pieces(store.repository) - seen


def store_known(store: Store) -> None:
    store.put(backup(KNOWN * 2_000_000))


def test_the_attack(store: Store) -> None:
    """When borg's file goes back and nobody notices: what the tests below are about."""

    def then() -> None:
        replace(store.folder / "home", store.folder / "old-home")
        store_known(store)

    seen, new = play_back(store, then)
    texts = [read(secret, known, KNOWN[0]) for secret, known in overlaps(seen, new)]
    assert any(SECRET in text for text in texts)


def a_new_machine(store: Store) -> None:
    shutil.rmtree(store.folder / "home")
    (store.folder / "home").mkdir()
    store_known(store)


def removed_files(store: Store) -> None:
    """What docs/storage-qube.md once told to do after a rollback."""
    for name in (".cache/borg", ".config/borg/security"):
        shutil.rmtree(store.folder / "home" / name)
    store_known(store)


def accepted(store: Store) -> None:
    result = store.run("accept", "older", str(store.repository))
    assert result.returncode == 0, result.stderr
    store_known(store)


def volume_went_back(store: Store) -> None:
    replace(store.folder / "home", store.folder / "old-home")
    boot(store, 2)
    store_known(store)


def forget_is_first(store: Store) -> None:
    replace(store.folder / "home", store.folder / "old-home")
    boot(store, 2)
    (run,) = store.runs()
    assert store.run("forget", run["run"]).returncode == 0


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "then",
    [
        a_new_machine,
        pytest.param(removed_files, marks=pytest.mark.thorough),
        accepted,
        volume_went_back,
        forget_is_first,
    ],
)
def test_nothing_is_encrypted_at_the_same_count(
    store: Store, then: Callable[[Store], None]
) -> None:
    boot(store, 1)
    seen, new = play_back(store, lambda: then(store))
    assert new
    assert overlaps(seen, new) == []
    for run in store.runs():
        assert store.run("get", run["run"]).returncode == 0


def test_two_puts_at_once_on_a_new_machine(store: Store) -> None:
    shutil.rmtree(store.folder / "home")
    (store.folder / "home").mkdir()
    texts = [backup(archives.noise(300_000, seed)) for seed in (1, 2)]
    threads = [threading.Thread(target=store.put, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.runs()) == 2
    found = pieces(store.repository)
    assert all(one is other for one, other in overlaps(found, found))


def test_forget_has_borg_make_no_checkpoints(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a checkpoint, some half an hour, borg 1.2 and 1.4 encrypt at counts of old objects.

    Seen with `borg delete --checkpoint-interval 1` of three archives of 3000 files.
    """
    runs = [store.put(backup(archives.noise(300_000, seed)))["run"] for seed in (1, 2)]
    program = store.folder / "bin" / "borg"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{store.folder}/calls\nexec {shutil.which("borg")} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    before = pieces(store.repository)
    assert store.run("forget", *runs).returncode == 0
    calls = (store.folder / "calls").read_text().splitlines()
    deletes = [call for call in calls if " delete " in call]
    assert len(deletes) == 2
    assert all(" --checkpoint-interval 0 " in call for call in deletes)
    assert overlaps(before, pieces(store.repository) - before) == []


def count_file(store: Store) -> Path:
    (path,) = (store.folder / "home/.config/borg/security").glob("*/nonce")
    return path


def count(store: Store) -> int:
    return int(count_file(store).read_text(), 16)


@pytest.mark.thorough
def test_count_is_moved_once_in_each_start_and_never_back(store: Store) -> None:
    counts = []
    for number in (1, 2, 2):
        boot(store, number)
        store.put(backup(b"x"))
        counts.append(count(store))
    assert counts[0] > 1 << 60
    assert counts[1] > counts[0]
    assert 0 < counts[2] - counts[1] < 1 << 32  # borg's own steps
    high = (1 << 63) + (1 << 62)
    count_file(store).write_text(f"{high:016x}")
    boot(store, 3)
    data = secret_backup()
    run = store.put(data)["run"]
    assert count(store) > high
    assert store.get(run) == data


@pytest.mark.thorough
def test_borg_works_at_the_end_of_the_room_until_there_is_none(store: Store) -> None:
    """Check and removal too; then nothing is written any more."""
    first = store.put(backup(b"x"))["run"]
    count_file(store).write_text(f"{(1 << 64) - (1 << 41):016x}")
    data = secret_backup()
    run = store.put(data)["run"]
    assert count(store) > (1 << 64) - (1 << 42)
    assert store.run("forget", first).returncode == 0
    result = store.run("check", "--read-data")
    assert result.returncode == 0, result.stdout
    count_file(store).write_text(f"{(1 << 64) - (1 << 39):016x}")
    before = pieces(store.repository)
    result = store.run("put", data=backup(b"y"))
    assert result.returncode == 1
    assert b"counter" in result.stderr
    assert b"at its end" in result.stderr
    assert pieces(store.repository) == before
    assert store.get(run) == data


def test_a_torn_count_is_none(store: Store) -> None:
    """Two machines with the same clock, too: the count of a new one is random."""
    store.put(backup(b"x"))
    before = count(store)
    count_file(store).write_text("")
    data = secret_backup()
    run = store.put(data)["run"]
    assert count(store) >> 60 >= 1
    assert abs(count(store) - before) > 1 << 34
    assert store.get(run) == data


def test_counter_that_can_not_be_kept_stops_a_put(store: Store) -> None:
    store.put(backup(b"x"))
    before = pieces(store.repository)
    count_file(store).unlink()
    (folder,) = (store.folder / "home/.config/borg/security").iterdir()
    (folder / "dedup-store-start").unlink()
    (folder / "dedup-store-start").mkdir()
    result = store.run("put", "--json", data=secret_backup())
    assert result.returncode == 1
    assert "counter" in json.loads(result.stdout)["error"]
    assert pieces(store.repository) == before


def test_later_machines_begin_further_on() -> None:
    """Nothing but the clock is later on a new machine than all that was on the old one."""
    for seconds in (60 * 86400, YEAR, 80 * YEAR):
        counts = [counter.ahead(None, NOW, 0) for _ in range(50)]
        later = [counter.ahead(None, NOW + seconds, 0) for _ in range(50)]
        assert max(counts) + (1 << 36) < min(later)  # a TiB
        assert len({value >> 34 for value in (*counts, *later)}) == 100


def test_the_clock_overtakes_a_volume_that_went_back() -> None:
    """Whatever was stored until some hours ago, from an old state as from the real one."""
    real = old = counter.ahead(None, NOW, 0)
    now = NOW + 100 * 86400
    for day in range(1, 200):
        real = counter.ahead(real, now + day * 86400, real) + (1 << 36)
    now += 199 * 86400
    assert counter.ahead(old, now + 5 * 3600, 0) > real


@pytest.mark.parametrize("clock", [0, NOW, NOW + 10_000 * YEAR])
def test_the_room_suffices(clock: int) -> None:
    """A hundred years with a start and a TiB a day, by any clock."""
    count = counter.ahead(None, clock, 0)
    end = (1 << 64) - (1 << 40)
    for _ in range(100 * 366):
        last, count = count, counter.ahead(count, clock, count)
        assert last <= count < end
        count += (1 << 28) + (1 << 36)
    assert count < end
