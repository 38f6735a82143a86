# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command on a repository of many runs: of 30, and of three years of nights."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.store.driver import Store, copy, mostly
from testing.store.puts import small_backup
from testing.store.years.model import Plan
from testing.store.years.repository import Made, make

WEEKS = Plan(30, qubes=4, members=3, pieces=2500, changed=20), 8000
# 60 qubes, 1,000 nights, a million chunks
YEARS = Plan(1000, qubes=60, members=3, pieces=20_000, changed=100), 1_000_000


def made(fresh: dict[str, Store], engine: str, folder: Path, plan: Plan, chunks: int) -> Made:
    return make(copy(fresh[engine], folder), plan, chunks)


@pytest.fixture
def weeks(
    request: pytest.FixtureRequest, fresh: dict[str, Store], tmp_path: Path
) -> Iterator[Made]:
    return made(fresh, request.param, tmp_path, *WEEKS)


@mostly("weeks", "restic")
def test_weeks(weeks: Made) -> None:
    use_all(weeks, WEEKS[0])


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["restic", "borg"])
def test_years(fresh: dict[str, Store], engine: str, tmp_path: Path) -> None:
    """It takes some 20 minutes with borg, whose check starts for each run."""
    use_all(made(fresh, engine, tmp_path, *YEARS), YEARS[0])


def use_all(many: Made, plan: Plan) -> None:
    """Run every command, and compare what it gives."""
    store, runs = many.store, many.runs
    put = [store.put(small_backup()) for _ in range(2)]
    assert [row["order"] for row in put] == [plan.runs + 1, plan.runs + 2]
    runs = [*runs, *(row["run"] for row in put)]
    listed = store.runs()
    assert [row["run"] for row in listed] == runs
    assert {row["status"] for row in listed} == {"whole"}
    assert [len(row["qubes"]) for row in listed] == [plan.qubes] * plan.runs + [1, 1]
    check_reads(many, plan)
    assert json.loads(store.run("stats", "--json").stdout)["runs"]["whole"] == len(runs)

    gone = [runs[plan.runs // 4], runs[-1]]
    unknown = store.run("forget", *gone, "20200101T000000Z-x-0000")
    assert unknown.returncode == 4
    assert len(store.runs()) == len(runs)
    assert store.run("forget", *gone).returncode == 0
    assert store.run("prune").returncode == 0
    left = [run for run in runs if run not in gone]
    checked = store.run("check", "--json")
    assert checked.returncode == 0, checked
    report = json.loads(checked.stdout)
    assert report["repository"] == {"ok": True, "message": "ok"}
    assert [(row["run"], row["ok"]) for row in report["runs"]] == [(run, True) for run in left]
    check_reads(many, plan)
    assert store.get("latest") == small_backup()


def check_reads(many: Made, plan: Plan) -> None:
    """Read runs that were kept: their members, one qube, all."""
    store = many.store
    for run, stream in many.streams.items():
        assert store.get(run) == stream
    members = store.run("show", "--lines", run).stdout.splitlines()
    assert json.loads(members[0])["members"] == len(members) - 1
    one = store.run("get", run, "--members", f"vm{plan.qubes}/")
    assert one.returncode == 0, one.stderr
    assert one.stdout in stream
    names = subprocess.run(["tar", "-it"], input=one.stdout, capture_output=True, check=True)
    expected = [f"vm{plan.qubes}/private.img.{n:03}.enc" for n in range(plan.members)]
    assert names.stdout.decode().split() == expected
