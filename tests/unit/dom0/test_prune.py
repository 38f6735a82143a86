# SPDX-License-Identifier: GPL-3.0-or-later
"""prune: through the lab's qrexec, with the real dedup-store and dedup-server."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testing.dom0.backup import Backup, make_backup
from testing.dom0.system import QUBE, REPOSITORY, Dom0
from testing.lab.harness import TEMPLATE
from testing.paths import LAB
from testing.server.storage_qube import QUBE as STORAGE
from testing.server.storage_qube import QrexecStore, StorageQube, make_store
from testing.store import archives
from testing.store.driver import Store, mostly

RUN = "20200101T000000Z-20200101T000000-1-0a1b"


@pytest.fixture
def at(shared_dom0: Dom0) -> Iterator[Dom0]:
    """dom0, which knows of no storage qube."""
    shared_dom0.start_over()
    yield shared_dom0
    server_toml(shared_dom0).unlink(missing_ok=True)


@pytest.fixture
def qube(at: Dom0, tmp_path: Path) -> StorageQube:
    """A storage qube of the lab, and dom0's file that names it."""
    lab, folder = at.lab, tmp_path / "storage"
    folder.mkdir()
    made = StorageQube(folder)
    if STORAGE not in at.qvm("qvm-ls", "--raw-list").split():
        at.qvm("qvm-create", "--label", "gray", "--template", TEMPLATE, STORAGE)
    variables = " ".join(f"{key}='{value}'" for key, value in made.environment.items())
    for service in (folder / "rpc").iterdir():
        lab.service(STORAGE, service.name, f'exec env {variables} {service} "$@"')
    return made


@pytest.fixture(params=("restic", "borg"))
def store(request: pytest.FixtureRequest, at: Dom0, qube: StorageQube, tmp_path: Path) -> Store:
    """A repository in the storage qube, which the backup qube reaches by the lab's qrexec."""
    engine = request.param
    made = make_store(tmp_path / "backup", qube, engine)
    client = f"{LAB}/qube/bin/qrexec-client-vm --agent-socket={at.lab.socket(QUBE)}"
    (qube.folder / "bin/qrexec-client-vm").write_text(f'#!/bin/sh\nexec {client} "$@"\n')
    at.lab.policy(
        f"dedupbackup.Repository +{engine}+main {QUBE} {STORAGE} allow\n"
        f"dedupbackup.Maintenance +{engine}+main {QUBE} {STORAGE} allow\n"
    )
    at.real_store(made.environment)
    configure(at, engine=engine)
    at.qvm("qvm-start", "--skip-if-running", QUBE)
    at.qvm("qvm-start", "--skip-if-running", STORAGE)
    return made


def server_toml(dom0: Dom0) -> Path:
    return dom0.root.path / "etc/qubes-dedup-backup/server.toml"


def configure(dom0: Dom0, text: str | None = None, **more: object) -> None:
    values = {"qube": STORAGE, "engine": "borg", "repository": "main"} | more
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    server_toml(dom0).parent.mkdir(exist_ok=True)
    server_toml(dom0).write_text(text or f'["{QUBE}"."{REPOSITORY}"]\n{lines}')


def is_closed(qube: StorageQube, argument: str) -> bool:
    result = qube.call("dedupbackup.Maintenance", argument)
    return result.returncode == 3 and b"is not open: dom0 must open it" in result.stderr


def stream() -> bytes:
    made = archives.Qube("work", 7, volumes={"private": archives.image(300_000, 1)})
    return archives.join(archives.members([made]))


# The end-to-end tests see the same, in the lab.
@pytest.mark.thorough
def test_with_a_storage_qube(at: Dom0, store: QrexecStore, qube: StorageQube) -> None:
    data = stream()
    whole, partial = store.put(data), store.put(data[:-20_000], code=3)
    refused = store.run("prune")  # dom0 didn't open it
    assert refused.returncode == 1
    assert b"`sudo qubes-dedup-backup prune`" in refused.stderr
    assert store.runs() == [whole, partial]
    assert at.json("prune", code=0) == {
        "removed": [{"run": partial["run"], "was": "partial"}],
        "maintenance": True,
        "dropped_ledgers": [],
    }
    assert list((qube.folder / "run").iterdir()) == []
    assert is_closed(qube, f"{store.engine}+main")
    assert store.runs() == [whole]
    assert store.get() == data
    assert store.put(data)["status"] == "whole"
    again = at("prune")
    assert again.stdout == f"the store {REPOSITORY} in {QUBE} is pruned\n".encode()
    assert re.search(rb"holds back [0-9]+\.[0-9] MB of what was removed", again.stderr)
    assert b"`dedup-server discard main`" in again.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize("engine", ["restic", "borg", "directory"])
def test_with_a_local_repository(at: Dom0, tmp_path: Path, engine: str) -> None:
    store = Store(tmp_path, engine)
    store.configure()
    store.make()
    at.real_store(store.environment)
    configure(at, text='["other"."default"]\nqube = "x"\n["dedup-backup"."other"]\nqube = "x"\n')
    partial = store.put(stream()[:-20_000], code=3)
    removed = [{"run": partial["run"], "was": "partial"}]
    report = {"removed": removed, "maintenance": False, "dropped_ledgers": []}
    assert at.json("prune", code=0) == report
    assert store.runs() == []


def test_what_dom0_confirmed_is_kept(at: Dom0, backup: Backup, tmp_path: Path) -> None:
    store = Store(tmp_path, "borg")
    store.configure()
    store.make()
    at.real_store(store.environment)
    # an older version confirmed what the store calls partial
    run = store.put(backup.stream()[:-2_000], code=3)
    what = {"run": run["run"], "backup_id": backup.backup_id, "confirmed": "2026-01-03T00:00:00Z"}
    at.confirmed.mkdir(parents=True)
    path = at.confirmed / f"{run['run']}.json"
    path.write_text(json.dumps(what | {"qube": QUBE, "repository": REPOSITORY}))
    cut = store.put(stream()[:-20_000], code=3)
    assert [row["run"] for row in at.json("prune", code=0)["removed"]] == [cut["run"]]
    assert store.runs() == [run]


@contextmanager
def waiting(dom0: Dom0, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A prune, at the point where maintenance is open and the store works."""
    os.mkfifo(folder / "go")
    dom0.store(f"[ $1 = list ] && exit; echo >{folder}/here; exec cat {folder}/go")
    with dom0.begin("prune") as pruner:
        while not (folder / "here").exists():
            assert pruner.poll() is None
        try:
            yield pruner
        finally:
            pruner.kill()
            if (folder / "go").exists():
                # whoever still waits in the backup qube
                os.close(os.open(folder / "go", os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_is_closed_when_dom0_is_killed(
    at: Dom0, qube: StorageQube, tmp_path: Path, how: signal.Signals
) -> None:
    qube.configure("main", "borg")
    (qube.data / "main").mkdir()
    configure(at)
    with waiting(at, tmp_path) as pruner:
        assert not is_closed(qube, "borg+main")
        mark = qube.data / "main.kept" / "maintenance"
        mark.unlink()  # of that look
        with qube.start("dedupbackup.Maintenance", "borg+main") as session:
            while not mark.exists():
                assert session.poll() is None
            pruner.send_signal(how)
            assert pruner.wait() != 0
            assert session.wait() == 3
            assert session.stderr is not None
            assert b"maintenance was closed" in session.stderr.read()
        assert is_closed(qube, "borg+main")


@pytest.mark.thorough
def test_it_is_closed_when_the_store_fails(at: Dom0, qube: StorageQube) -> None:
    qube.configure("main", "borg")
    configure(at)
    for answer in ("exit 7", "echo '{}'", f"echo '{json.dumps({'run': RUN, 'was': 'whole'})}'"):
        at.store(f"[ $1 = list ] && exit; {answer}")
        assert at("prune").returncode == 4
        at.lab.until(lambda: is_closed(qube, "borg+main"))


@pytest.mark.thorough
@pytest.mark.usefixtures("qube")
def test_storage_qube_that_refuses(at: Dom0, tmp_path: Path) -> None:
    configure(at)
    at.store(f"[ $1 = list ] || echo >{tmp_path}/called")
    done = at("prune")
    assert done.returncode == 4
    text = f"opening maintenance in {STORAGE} failed with 2: dedup-server: there is no repository"
    assert text.encode() in done.stderr
    for script in ("printf opera", "printf op", "exit 0", "echo '\033[2J' >&2; exit 3"):
        at.lab.service(STORAGE, "dedupbackup.MaintenanceOpen", f"{script}")
        done = at("prune")
        assert done.returncode == 4
        assert b"\x1b" not in done.stderr
    assert not (tmp_path / "called").exists()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", b"can't read"),
        ("\n" * 70_000, b"is too large"),
        (f"{QUBE} = 1\n", b"must have the keys qube, engine, repository, and no others"),
        (f'["{QUBE}".default]\nqube = "a"\n', b"must have the keys"),
        (f'["{QUBE}"]\ndefault = "a"\n', b"must have the keys"),
    ],
    ids=["toml", "size", "qube", "keys", "table"],
)
def test_files_that_make_no_sense(at: Dom0, text: str, reason: bytes) -> None:
    configure(at, text=text)
    at.store("[ $1 = list ]")
    done = at("prune")
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qube", "-x"),
        ("qube", 3),
        ("qube", "a b"),
        ("engine", "tar"),
        ("repository", "a+b"),
        ("repository", "x" * 33),
        ("more", "x"),
    ],
)
def test_values_that_make_no_sense(at: Dom0, key: str, value: object) -> None:
    configure(at, **{key: value})
    at.store("[ $1 = list ]")
    done = at("prune")
    assert done.returncode == 2
    assert b"server.toml" in done.stderr


def test_a_file_that_others_could_write(at: Dom0) -> None:
    configure(at)
    server_toml(at).chmod(0o664)
    at.store("[ $1 = list ]")
    done = at("prune")
    assert (done.returncode, b"others could write" in done.stderr) == (2, True)


def test_a_store_that_removed_what_was_confirmed(at: Dom0, backup: Backup) -> None:
    at.serve(backup.stream())
    at.succeed(backup.backup_id)
    assert at.json("confirm", at.run, code=0)["verdict"] == "confirmed"
    (at.answers / "prune").write_text(json.dumps({"run": at.run, "was": "partial"}) + "\n")
    done = at("prune")
    assert done.returncode == 1
    assert f"has removed 1 confirmed run(s): {at.run}".encode() in done.stderr


@pytest.mark.thorough
@mostly("store", "restic")
def test_forget_with_a_storage_qube(at: Dom0, store: QrexecStore, qube: StorageQube) -> None:
    data = stream()
    first, second = store.put(data), store.put(data)
    assert at.json("forget", first["run"], code=0) == {
        "forgotten": [first["run"]],
        "maintenance": True,
    }
    assert is_closed(qube, f"{store.engine}+main")
    assert store.runs() == [second]
    assert store.get() == data


@pytest.mark.thorough
def test_forget_drops_the_records_of_that_run_alone(at: Dom0, tmp_path: Path) -> None:
    backup = make_backup(
        at.root, "20261128T101500-4711", chunk=100 << 20
    )  # its own: its ledger goes
    store = Store(tmp_path, "restic")
    store.configure()
    store.make()
    at.real_store(store.environment)
    at.succeed(backup.backup_id)
    first, second = (store.put(backup.stream())["run"] for _ in range(2))
    records = at.root.path / "var/lib/qubes-dedup-backup/confirmed"
    for run in (first, second):
        assert at("confirm", run).returncode == 0
    assert at("forget", first).stdout == f"forgot {first}\n".encode()
    assert [path.stem for path in records.iterdir()] == [second]
    assert (at.root.ledgers / backup.backup_id).exists()  # the second one needs it
    assert at("verify").returncode == 0
    damaged = records / f"{RUN}.json"
    damaged.write_text("{")
    assert at("forget", second).returncode == 0
    assert list(records.iterdir()) == [damaged]
    damaged.unlink()
    assert not (at.root.ledgers / backup.backup_id).exists()
    assert store.runs() == []


@pytest.mark.thorough
@pytest.mark.usefixtures("qube")
def test_forget_that_was_killed_before_it_dropped_the_records(at: Dom0, tmp_path: Path) -> None:
    """The store has removed the run already; the storage qube isn't needed any more."""
    backup = make_backup(
        at.root, "20261129T101500-4711", chunk=100 << 20
    )  # its own: its ledger goes
    store = Store(tmp_path, "restic")
    store.configure()
    store.make()
    at.real_store(store.environment)
    at.succeed(backup.backup_id)
    run = store.put(backup.stream())["run"]
    assert at("confirm", run).returncode == 0
    assert store.run("forget", run).returncode == 0
    configure(at)  # with a storage qube, in which there is no such repository
    assert at("list").returncode == 1
    done = at("forget", run)
    assert done.returncode == 0
    # This root has no shim beside its ledgers, which is told.
    assert [b"isn't installed" in line for line in done.stderr.splitlines()] == [True]
    text = f"forgot {run} (dom0's record of it: the store no longer had it)\n"
    assert done.stdout.decode() == text
    assert not (at.root.ledgers / backup.backup_id).exists()
    assert at("list").returncode == 0
    assert at("forget", run).returncode == 2


def test_forget_of_what_is_not_there(at: Dom0, tmp_path: Path) -> None:
    store = Store(tmp_path, "restic")
    store.configure()
    store.make()
    at.real_store(store.environment)
    kept = store.put(stream())
    for run, reason in ((RUN, b"has no run"), ("latest", b"isn't a run's name")):
        done = at("forget", kept["run"], run)
        assert done.returncode == 2
        assert reason in done.stderr
    assert store.runs() == [kept]


def test_forget_of_a_store_that_lies(at: Dom0) -> None:
    row = json.dumps({"run": RUN, "status": "whole", "reason": ""})
    lie = json.dumps({"forgotten": [RUN + "x"]})
    at.store(f"[ $1 = list ] && {{ echo '{row}'; exit; }}; echo '{lie}'")
    done = at("forget", RUN)
    assert done.returncode == 4
    assert b"malformed reply" in done.stderr
