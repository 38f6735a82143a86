# SPDX-License-Identifier: GPL-3.0-or-later
"""init: a password that dom0 makes, a repository in the backup qube."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.dom0.system import QUBE, REPOSITORY, Dom0
from testing.store.driver import Store

NAMED = ("--qube", QUBE, "--repository", REPOSITORY)


@pytest.fixture
def running(shared_dom0: Dom0) -> Iterator[Dom0]:
    """dom0, with a running backup qube, and no backup profile: it is made later."""
    shared_dom0.start_over()
    profile = shared_dom0.root.path / "etc/qubes/backup/dedup-backup.conf"
    profile.unlink()
    shared_dom0.qvm("qvm-start", "--skip-if-running", QUBE)
    yield shared_dom0
    shared_dom0.forget()


@pytest.fixture(params=("restic", "borg"))
def store(request: pytest.FixtureRequest, tmp_path: Path, running: Dom0) -> Store:
    """A store that is configured, and nothing more."""
    made = Store(tmp_path, request.param)
    made.configure()
    running.real_store(made.environment)
    return made


@pytest.mark.sampled(2)
def test_init_once(running: Dom0, store: Store) -> None:
    expected = {
        "changed": True,
        "new_password": True,
        "new_repository": True,
        "engine": store.engine,
        "location": str(store.repository),
    }
    assert running.json("init", *NAMED, "--check", code=0) == expected
    assert sorted(path.name for path in store.folder.rglob("*") if path.is_file()) == [
        store.config.name
    ]
    assert b"would be made" in running("init", *NAMED, "--check").stdout
    assert running.json("init", *NAMED, code=0) == expected
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", store.password.read_text())
    nothing = expected | dict.fromkeys(("changed", "new_password", "new_repository"), False)
    assert running.json("init", *NAMED, "--check", code=0) == nothing
    assert running.json("init", *NAMED, code=0) == nothing
    assert store.runs() == []
    assert b"made" not in running("init", *NAMED).stdout


def test_the_password_is_only_in_its_file(running: Dom0, store: Store, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    done = running(
        *("init", *NAMED, "--json"),
        prefix=("strace", "-f", "-qq", "-s", "4096", "-e", "trace=execve", "-o", str(trace)),
    )
    assert done.returncode == 0, done.stderr
    password = store.password.read_bytes().strip()
    assert b"execve" in trace.read_bytes()
    for text in (trace.read_bytes(), done.stdout, done.stderr, running.lab.log().encode()):
        assert password not in text
    folders = (running.root.path, running.lab.state, store.folder)
    found = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size < 1 << 20 and password in path.read_bytes()
    ]
    assert found == [store.password]


@pytest.mark.thorough
def test_an_engine_without_a_password(running: Dom0, tmp_path: Path) -> None:
    store = Store(tmp_path, "directory")
    store.configure()
    running.real_store(store.environment)
    for words, new in ((["--check"], True), ([], True), (["--check"], False), ([], False)):
        report = running.json("init", *NAMED, *words, code=0)
        assert (report["new_password"], report["new_repository"]) == (False, new)
        assert (report["changed"], report["engine"]) == (new, "directory")
    for words in ([], ["--json"]):  # Salt runs the latter, and shows stderr
        done = running("init", *NAMED, *words)
        assert b"it is not encrypted: whoever can read its file system" in done.stderr
    done = running("init", *NAMED)
    assert b"password" not in done.stdout
    assert not store.password.exists()
    assert store.runs() == []


@pytest.mark.sampled(2)
def test_it_goes_on_after_half_of_it(running: Dom0, store: Store) -> None:
    store.set_password()
    before = store.password.read_bytes()
    result = running.json("init", *NAMED, code=0)
    assert (result["new_password"], result["new_repository"]) == (False, True)
    assert store.password.read_bytes() == before


@pytest.mark.sampled(2)
def test_a_repository_without_its_password(running: Dom0, store: Store) -> None:
    assert running("init", *NAMED).returncode == 0
    store.password.rename(store.folder / "kept")
    for words in ((), ("--check",)):
        result = running.json("init", *NAMED, *words, code=4)
        assert "brought back with `dedup-store set-password`" in result["error"]
    assert not store.password.exists()


@pytest.mark.sampled(2)
def test_no_new_repository_where_dom0_has_confirmed_runs(running: Dom0, store: Store) -> None:
    """The backup qube knows nothing of it: it is new, or what it had is gone."""
    run = "20261124T101600Z-20261124T101500-4711-0a1b"
    record = {
        "run": run,
        "backup_id": "20261124T101500-4711",
        "qube": QUBE,
        "repository": REPOSITORY,
        "confirmed": "2026-11-24T10:17:00Z",
    }
    running.confirmed.mkdir(parents=True)
    (running.confirmed / f"{run}.json").write_text(json.dumps(record))
    for words in ((), ("--check",)):
        error = running.json("init", *NAMED, *words, code=4)["error"]
        assert "dom0 has confirmed 1 run(s) in it" in error
        assert "`sudo qubes-dedup-backup init --new`" in error
        assert b"the repository " + bytes(store.repository) in running("init", *NAMED).stderr
    assert not store.password.exists()
    assert not store.repository.exists()
    other = ("--qube", QUBE, "--repository", "another")
    assert "confirmed" not in running.json("init", *other, code=4)["error"]
    assert running.json("init", *NAMED, "--new", "--check", code=0)["new_repository"]
    assert not store.repository.exists()
    assert running.json("init", *NAMED, "--new", code=0)["new_repository"]
    assert not running.json("init", *NAMED, code=0)["changed"]


@pytest.mark.sampled(2)
def test_a_repository_that_the_qube_misses(running: Dom0, store: Store) -> None:
    """It says what is wrong; with --new it makes another one, under the same password."""
    assert running("init", *NAMED).returncode == 0
    password = store.password.read_bytes()
    store.repository.rename(store.folder / "away")
    error = running.json("init", *NAMED, code=4)["error"]
    assert f"{store.repository.name}, in use here since 20" in error
    assert "`dedup-store init --new --repository default`" in error
    assert not store.repository.exists()
    result = running.json("init", *NAMED, "--new", code=0)
    assert (result["new_password"], result["new_repository"]) == (False, True)
    assert store.password.read_bytes() == password
    assert store.runs() == []


def test_a_qube_that_is_off(running: Dom0) -> None:
    running.store("exit 0")
    running.qvm("qvm-shutdown", "--wait", QUBE)
    for words in ((), ("--check",)):
        result = running.json("init", *NAMED, *words, code=4)
        assert result["error"] == f"{QUBE} is not running: start it with `qvm-start {QUBE}`"
    assert not running.is_running(QUBE)


def test_a_store_that_is_not_configured(running: Dom0, tmp_path: Path) -> None:
    store = Store(tmp_path, "borg")
    store.configure()
    store.config.unlink()
    running.real_store(store.environment)
    done = running("init", *NAMED)
    assert done.returncode == 4
    assert b"default.toml does not exist: write it" in done.stderr


GOOD = {"changed": True, "has_password": True, "engine": "borg", "location": "/x"}
ANSWERS = [
    "",
    "x",
    "[]",
    "{}",
    "nothing" * 10_000,
    json.dumps(GOOD | {"changed": 1}),
    json.dumps(GOOD | {"has_password": None}),
    json.dumps(GOOD | {"engine": "tar"}),
    json.dumps(GOOD | {"location": ["/x"]}),
    json.dumps(GOOD | {"location": "x" * 9000}),
    json.dumps(GOOD) + "\n" + json.dumps(GOOD),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_make_no_sense(running: Dom0, tmp_path: Path, answer: str) -> None:
    file = tmp_path / "answer"
    file.write_text(answer + "\n" if answer else "")
    running.store(f"exec cat {file}")
    done = running("init", *NAMED, "--json")
    assert done.returncode == 4
    assert b"Traceback" not in done.stderr
    # the warning: this dom0 has ledgers, and no shim
    lines = [line for line in done.stderr.splitlines() if b"warning: " not in line]
    assert len(lines) == 1


def test_what_a_hostile_store_says_is_cleaned(running: Dom0, tmp_path: Path) -> None:
    file = tmp_path / "answer"
    file.write_text(json.dumps(GOOD | {"location": "/x\x1b[2J\u202e"}) + "\n")
    running.store(f"exec cat {file}")
    done = running("init", *NAMED, "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().isascii()
    assert b"\x1b" not in done.stdout
    assert "\x1b" not in running.json("init", *NAMED, code=0)["location"]
    running.store("printf 'a\\033[2Jb' >&2; exit 2")
    assert "\x1b" not in running.json("init", *NAMED, code=4)["error"]


def test_a_store_that_does_not_read(running: Dom0) -> None:
    answer = json.dumps(GOOD | {"has_password": False})
    running.store(f"[ $1 = set-password ] && exit 7; echo '{answer}'")
    done = running("init", *NAMED)
    assert done.returncode == 4
    assert b"dedup-store set-password in dedup-backup failed with 7" in done.stderr
