# SPDX-License-Identifier: GPL-3.0-or-later
"""A borg repository isn't as this qube saw it last: what is told, and what can be accepted."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from dedup_store.config import Config
from dedup_store.engines.borg import questions
from dedup_store.errors import EngineError

from testing.store import archives
from testing.store.borg_blocks import overlaps, pieces
from testing.store.driver import Store, refusal

pytestmark = pytest.mark.engines


def backup(seed: int) -> bytes:
    data = archives.noise(300_000, seed)
    return archives.join(archives.members([archives.Qube("work", 7, volumes={"private": data})]))


def told(store: Store, *arguments: str, data: bytes = b"") -> str:
    """Run what must fail with one line; give it."""
    result = store.run(*arguments, data=data)
    assert result.returncode == 1, result
    assert result.stderr.count(b"\n") == 1
    return result.stderr.decode()


def accept(store: Store, *arguments: str) -> dict[str, object]:
    result = store.run("accept", "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def accepted(store: Store) -> list[tuple[str, str]]:
    """What is recorded."""
    path = store.folder / "home/.config/dedup-store/accepted"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["accepted"], row["location"]) for row in rows]


@pytest.mark.thorough
def test_repository_that_was_moved(borg_store: Store) -> None:
    store, data = borg_store, backup(1)
    run = store.put(data)["run"]
    old, new = store.repository, store.folder / "a bigger disk" / "repo"
    new.parent.mkdir()
    old.rename(new)
    store.configure(location=str(new))
    for command in (["list"], ["init"], ["put"]):
        text = told(store, *command, data=backup(2))
        assert f"the repository {new} was at {old}" in text
        assert f"`dedup-store accept moved '{new}'`" in text
    assert f"at {old}" in told(store, "accept", "older", str(new))
    assert "not /elsewhere" in refusal(store, "accept", "moved", "/elsewhere")
    assert accept(store, "moved", str(new))["changed"] is True
    assert accepted(store) == [("moved", str(new))]
    assert store.get(run) == data
    store.put(backup(2))
    assert len(store.runs()) == 2
    assert accept(store, "moved", str(new))["changed"] is False
    assert len(accepted(store)) == 1


@pytest.mark.thorough
def test_two_disks_that_are_used_in_turns(borg_store: Store) -> None:
    """The second is a copy; what is stored on both is encrypted at different counts."""
    store, place = borg_store, str(borg_store.repository)
    first = store.put(backup(1))
    other = store.folder / "other"
    shutil.copytree(store.repository, other)

    def swap() -> None:
        third = store.folder / "third"
        for source, target in ((store.repository, third), (other, store.repository)):
            source.rename(target)
        third.rename(other)

    store.put(backup(2))
    swap()
    for command in (["get", "latest"], ["put"]):
        text = told(store, *command, data=backup(3))
        assert f"the repository {place} is older than" in text
        assert text.endswith(f"`dedup-store accept older {place}`\n")
    assert accept(store, "older", place)["changed"] is True
    assert store.runs() == [first]
    store.put(backup(3))
    swap()
    assert "is older than" in told(store, "list")
    assert accept(store, "older", place)["changed"] is True
    store.put(backup(4))
    assert len(store.runs()) == 3
    assert accepted(store) == [("older", place)] * 2
    mine, others = pieces(store.repository), pieces(other)
    assert overlaps(mine - others, others - mine) == []


def test_copy_at_another_place_that_is_older(borg_store: Store) -> None:
    """Each of the two questions is asked, and answered by itself."""
    store, copied = borg_store, borg_store.folder / "copy"
    shutil.copytree(store.repository, copied)
    store.put(backup(1))
    store.configure(location=str(copied))
    text = told(store, "accept", "moved", str(copied))
    assert f"the repository {copied} is older than" in text
    assert text.endswith(f"`dedup-store accept older {copied}`\n")
    assert accept(store, "older", str(copied))["changed"] is True
    assert accepted(store) == [("moved", str(copied)), ("older", str(copied))]
    assert store.runs() == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "on a new machine"])
def test_repository_that_is_not_encrypted(borg_store: Store, is_known: bool) -> None:
    """Anybody can make one, with the id of the right one; it is never used."""
    store, place = borg_store, borg_store.repository
    store.put(backup(1))
    right = (place / "config").read_text()
    shutil.rmtree(place)
    if not is_known:
        shutil.rmtree(store.folder / "home")
        (store.folder / "home").mkdir()
    other = {"HOME": str(store.folder), "PATH": store.environment["PATH"]}
    subprocess.run(["borg", "init", "-e", "none", place], env=other, check=True)
    wrong = (place / "config").read_text().splitlines()
    lines = [line for line in right.splitlines() if line.startswith("id = ")] if is_known else []
    config = [lines[0] if lines and line.startswith("id = ") else line for line in wrong]
    (place / "config").write_text("\n".join(config) + "\n")
    before = pieces_of(place)
    for command in (["put"], ["accept", "older", str(place)]):
        text = told(store, *command, data=backup(2))
        assert f"the repository {place} is not encrypted" in text
        assert "Bring the right one back" in text
    assert pieces_of(place) == before


def pieces_of(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (place / "data").glob("*/*")}


@pytest.mark.parametrize("engine", ["restic", "directory"])
def test_other_engines_ask_nothing(engine: str, fresh: dict[str, Store], tmp_path: Path) -> None:
    """Moved, and put back to an earlier state: they work, and don't notice."""
    store = fresh[engine]
    place = tmp_path / "new"
    shutil.copytree(store.repository, place)
    moved = Store(tmp_path, engine)
    moved.configure(location=str(place))
    if engine == "restic":
        shutil.copy(store.password, moved.password)
    kept = tmp_path / "kept"
    shutil.copytree(place, kept)
    moved.put(backup(1))
    shutil.rmtree(place)
    kept.rename(place)
    assert moved.runs() == []
    moved.put(backup(2))
    assert "has no such questions" in refusal(moved, "accept", "older", str(place))


def test_places_in_a_storage_qube_are_told_as_the_configuration_has_them(tmp_path: Path) -> None:
    bare_store = Config("other", "borg", "qrexec:sys-storage/new", tmp_path / "password")
    said = (
        "Warning: The repository at location ssh://sys-storage/./new was previously located at"
        " ssh://sys-usb/./old\nDo you want to continue? [yN] no (from X)\nAborting.\n"
    )
    question = questions.find(EngineError("", said), bare_store)
    assert question is not None
    assert "qrexec:sys-storage/new was at qrexec:sys-usb/old when" in str(question)
    assert "`dedup-store accept --repository other moved qrexec:sys-storage/new`" in str(question)
