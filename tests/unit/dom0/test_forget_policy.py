# SPDX-License-Identifier: GPL-3.0-or-later
"""forget --keep-...: the command, with a dedup-store that is real, or that lies."""

import json
from pathlib import Path

import pytest
from dom0_system import PROFILE, QUBE, Dom0
from real_backup import make_backup
from store_profile import Store

DAYS = ("20260101T101500-1", "20260102T101500-1", "20260102T201500-1", "20990101T101500-1")
LIE = "99990101T000000Z-20260103T000000-1-ffff"


@pytest.fixture
def at(shared_dom0: Dom0) -> Dom0:
    shared_dom0.forget()
    return shared_dom0


def record(dom0: Dom0, backup_id: str) -> str:
    """Record a run as confirmed, as `confirm` does; return its name."""
    run = f"20260101T000000Z-{backup_id}-0a1b"
    what = {"run": run, "backup_id": backup_id, "qube": QUBE, "store_profile": PROFILE}
    dom0.confirmed.mkdir(parents=True, exist_ok=True)
    text = json.dumps(what | {"confirmed": "2026-01-03T00:00:00Z"})
    (dom0.confirmed / f"{run}.json").write_text(text)
    return run


def serve(dom0: Dom0, *runs: str) -> None:
    """Be a store that tells of these runs, and removes nothing."""
    rows = [json.dumps({"run": run, "status": "whole", "reason": ""}) for run in runs]
    dom0.store(f"[ $1 = list ] || exit 9; printf '%s\\n' {' '.join(map(repr, rows))}")


def test_a_real_store(at: Dom0, tmp_path: Path) -> None:
    store = Store(tmp_path, "borg")
    store.configure()
    store.make()
    at.real_store(store.environment)
    backups = [make_backup(at.root, backup_id) for backup_id in DAYS]
    stored = [store.put(backup.stream(), code=3) for backup in backups]
    first, second, third, future = (row["run"] for row in stored)
    for run in (first, second, future):
        assert at("confirm", run).returncode == 0
    words = ("forget", "--keep-last", "1", "--keep-monthly", "1")
    told = at.json(*words, "--dry-run", code=0)
    assert told == {
        "would_forget": [first],
        "maintenance": False,
        "keep": [{"run": second, "made": "2026-01-02T10:15:00", "rules": ["last", "monthly"]}],
        "left": [
            {"run": run, "reason": reason}
            for run, reason in sorted(
                (
                    (third, "not confirmed"),
                    (future, "confirmed, but dated in the future by dom0: 2099-01-01 10:15:00"),
                ),
                reverse=True,
            )
        ],
    }
    text = at(*words, "--dry-run").stdout.decode()
    assert f"keep {second}, of 2026-01-02 10:15:00: last, monthly\n" in text
    assert f"would forget {first}, of 2026-01-01 10:15:00\n" in text
    assert at("forget", "--dry-run", first).stdout == f"would forget {first}\n".encode()
    assert store.runs() == stored  # nothing is changed
    assert len(list(at.confirmed.iterdir())) == 3
    done = at.json(*words, code=0)
    assert done == {"forgotten": told.pop("would_forget")} | told
    assert store.runs() == [row for row in stored if row["run"] != first]
    assert {path.stem for path in at.confirmed.iterdir()} == {second, future}
    assert not (at.root.ledgers / DAYS[0]).exists()
    assert at.json(*words, code=0)["forgotten"] == []


def test_a_store_that_invents_and_loses_runs(at: Dom0) -> None:
    runs = [record(at, backup_id) for backup_id in DAYS[:3]]
    serve(at, *runs[:2], LIE)
    told = at.json("forget", "--keep-last", "1", "--dry-run", code=1)
    assert told["would_forget"] == [runs[0]]
    assert [row["run"] for row in told["keep"]] == [runs[1]]
    reasons = {row["run"]: row["reason"] for row in told["left"]}
    assert reasons == {LIE: "not confirmed", runs[2]: "confirmed, but the store has lost it"}
    done = at("forget", "--keep-last", "9")  # nothing goes, so the store isn't asked to
    assert done.returncode == 1
    assert f"has lost 1 confirmed run(s): {runs[2]}".encode() in done.stderr
    assert done.stdout.splitlines()[-1] == b"2 kept, 2 left alone, forgot 0"
    assert at("forget", "--keep-last", "1").returncode == 4  # the store fails
    assert len(list(at.confirmed.iterdir())) == 3


def test_other_stores_records_do_not_count(at: Dom0) -> None:
    runs = [record(at, backup_id) for backup_id in DAYS[:2]]
    path = at.confirmed / f"{runs[1]}.json"
    path.write_text(path.read_text().replace(QUBE, "another"))
    serve(at, *runs)
    told = at.json("forget", "--keep-last", "1", "--dry-run", code=0)
    assert [row["run"] for row in told["keep"]] == [runs[0]]
    assert told["left"] == [{"run": runs[1], "reason": "not confirmed"}]


@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1.5", "9999999", "\u0663", "all"])
def test_values_that_make_no_sense(at: Dom0, value: str) -> None:
    serve(at)
    done = at("forget", f"--keep-daily={value}")
    assert done.returncode == 2
    assert b"argument --keep-daily: " in done.stderr
    assert b"is no number from 1 to 100000" in done.stderr


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--keep-last=1", LIE)])
def test_it_takes_names_or_a_policy(at: Dom0, words: tuple[str, ...]) -> None:
    serve(at, LIE)
    done = at("forget", *words)
    assert done.returncode == 2
    assert b"either the names of runs, or --keep-" in done.stderr
