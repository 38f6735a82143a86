# SPDX-License-Identifier: GPL-3.0-or-later
"""forget --keep-...: the command, with a dedup-store that is real, or that lies."""

import json
import re
from pathlib import Path

import pytest

from testing.dom0.backup import make_backup
from testing.dom0.system import QUBE, REPOSITORY, Dom0
from testing.store import archives
from testing.store.driver import Store

DAYS = ("20260101T101500-1", "20260102T101500-1", "20260102T201500-1", "20990101T101500-1")
LIE = "99990101T000000Z-20260103T000000-1-ffff"


@pytest.fixture
def at(shared_dom0: Dom0) -> Dom0:
    shared_dom0.start_over()
    return shared_dom0


def record(dom0: Dom0, backup_id: str) -> str:
    """Record a run as confirmed, as `confirm` does; return its name."""
    run = f"20260101T000000Z-{backup_id}-0a1b"
    what = {"run": run, "backup_id": backup_id, "qube": QUBE, "repository": REPOSITORY}
    dom0.confirmed.mkdir(parents=True, exist_ok=True)
    text = json.dumps(what | {"confirmed": "2026-01-03T00:00:00Z"})
    (dom0.confirmed / f"{run}.json").write_text(text)
    return run


def serve(dom0: Dom0, *runs: str) -> None:
    """Be a store that tells of these runs, and removes nothing."""
    rows = [json.dumps({"run": run, "status": "whole", "reason": ""}) for run in runs]
    dom0.store(f"[ $1 = list ] || exit 9; printf '%s\\n' {' '.join(map(repr, rows))}")


def test_a_real_store(at: Dom0, tmp_path: Path) -> None:
    store = Store(tmp_path, "directory")
    store.configure()
    store.make()
    at.real_store(store.environment)
    content = [archives.Qube("work", 7, volumes={"private": b"w"})]
    for number, backup_id in enumerate(DAYS):  # the last one: dom0's clock is a year ahead
        made = make_backup(at.root, backup_id, content=content, chunk=100 << 20)
        at.backdate(backup_id, 86400 * (3 - number if number < 3 else -400))
        store.put(made.stream())
    stored = store.runs()
    first, second, third, ahead = (row["run"] for row in stored)
    for run, backup_id in ((first, DAYS[0]), (second, DAYS[1]), (ahead, DAYS[3])):
        at.succeed(backup_id, "work")
        assert at("confirm", run).returncode == 0
    words = ("forget", "--keep-last", "1", "--keep-daily", "1")
    told = at.json(*words, "--dry-run", code=0)
    assert told["would_forget"] == [first]
    assert told["left"] == [{"run": third, "reason": "not confirmed"}]
    kept = [(row["run"], row["sure"], row["rules"]) for row in told["keep"]]
    # it is the newest, whatever its date, which takes no day from the one before it
    assert kept == [(ahead, False, ["last", "daily[date unsure]"]), (second, True, ["daily"])]
    done = at(*words, "--dry-run")
    began = told["keep"][1]["made"]
    assert re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z", began)
    assert f"keep {second}, of {began}: daily\n" in done.stdout.decode()
    assert b"a run began later than that" in done.stderr
    listed = {row["run"]: row for row in at.json("list", code=0)["runs"]}
    assert listed[second]["began"] == began  # one moment, one label
    assert at("forget", "--dry-run", first).stdout == f"would forget {first}\n".encode()
    assert store.runs() == stored  # nothing is changed
    assert len(list(at.confirmed.iterdir())) == 3
    done_by_it = at.json(*words, code=0)
    assert done_by_it == {"forgotten": told.pop("would_forget")} | told
    assert store.runs() == [row for row in stored if row["run"] != first]
    assert {path.stem for path in at.confirmed.iterdir()} == {second, ahead}
    assert not (at.root.ledgers / DAYS[0]).exists()
    assert at.json(*words, code=0)["forgotten"] == []


def test_what_the_store_calls_partial_is_no_good_run(at: Dom0) -> None:
    """As confirmed by an older version, which took dom0's ledger alone for a proof."""
    runs = [record(at, backup_id) for backup_id in DAYS[:2]]
    rows = [
        {"run": run, "status": status, "reason": ""}
        for run, status in zip(runs, ("whole", "partial"), strict=True)
    ]
    lines = " ".join(repr(json.dumps(row)) for row in rows)
    at.store(f"[ $1 = list ] || exit 9; printf '%s\\n' {lines}")
    told = at.json("forget", "--keep-last", "1", "--dry-run", code=0)
    assert (told["would_forget"], [row["run"] for row in told["keep"]]) == ([], runs[:1])
    reason = "confirmed, but the store calls it partial"
    assert told["left"] == [{"run": runs[1], "reason": reason}]
    assert f"{runs[1]} is confirmed, but".encode() in at("list").stderr


def test_old_records_come_before_counted_ones(at: Dom0) -> None:
    old = record(at, DAYS[1])
    new = record(at, DAYS[0])  # its clock was behind
    path = at.confirmed / f"{new}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"order": 7, "began": 0}))
    unknown = record(at, DAYS[2])
    path = at.confirmed / f"{unknown}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"order": None}))
    future = record(at, DAYS[3])
    serve(at, old, new, unknown, future)
    told = at.json("forget", "--keep-last", "1", "--dry-run", code=0)
    assert ([row["run"] for row in told["keep"]], told["would_forget"]) == ([new], [old])
    reasons = {row["run"]: row["reason"] for row in told["left"]}
    assert "could not note its place" in reasons[unknown]
    assert "dated in the future" in reasons[future]


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


@pytest.mark.sampled(4)
@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1.5", "9999999", "\u0663", "all"])
def test_values_that_make_no_sense(at: Dom0, value: str) -> None:
    serve(at)
    done = at("forget", f"--keep-daily={value}")
    assert done.returncode == 2
    assert b"argument --keep-daily: " in done.stderr
    assert b"isn't a number from 1 to 100000" in done.stderr


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--keep-last=1", LIE)])
def test_it_takes_names_or_a_policy(at: Dom0, words: tuple[str, ...]) -> None:
    serve(at, LIE)
    done = at("forget", *words)
    assert done.returncode == 2
    assert b"either the names of runs, or --keep-" in done.stderr
