# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's commands with the records of three years of nights."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from testing.dom0.system import QUBE, REPOSITORY, Dom0
from testing.store.years import dom0_records

NIGHTS = 1000


@pytest.fixture
def runs(dom0: Dom0) -> Iterator[list[str]]:
    """Record runs that were confirmed, and the backup, which came after them."""
    kept = {path: path.read_bytes() for path in dom0.root.ledgers.iterdir()}
    counter = dom0.root.ledgers.with_name("order")
    size = counter.stat().st_size
    nights = (datetime.now(UTC) - timedelta(days=NIGHTS + 1 - night) for night in range(NIGHTS))
    dates = [night.strftime("%Y%m%dT%H%M%S") for night in nights]
    names = [f"{date}Z-{date}-{number}-0a1b" for number, date in enumerate(dates, 1000)]
    dom0_records.fill(dom0.root.path, (QUBE, REPOSITORY), names, qubes=60)
    for number, (path, text) in enumerate(sorted(kept.items()), NIGHTS + 1):
        first, rest = text.split(b"\n", 1)
        row = json.loads(first) | {"order": number}
        path.write_bytes(json.dumps(row).encode() + b"\n" + rest)
    counter.write_bytes(b"\n" * (NIGHTS + len(kept)))
    newest = json.loads((dom0.answers / "list").read_text())
    rows = [*({"run": name, "status": "whole", "reason": ""} for name in names), newest]
    (dom0.answers / "list").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    yield names
    for path in dom0.root.ledgers.iterdir():
        path.unlink()
    for path, text in kept.items():
        path.write_bytes(text)
    counter.write_bytes(b"\n" * size)


def test_all_commands(dom0: Dom0, runs: list[str]) -> None:
    assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
    listed = dom0.json("list", code=0)
    assert [row["run"] for row in listed["runs"]] == [*runs, dom0.run]
    assert {row["dom0"] for row in listed["runs"]} == {"confirmed"}
    policy = ("--keep-daily", "14", "--keep-monthly", "12")
    told = dom0.json("forget", *policy, "--dry-run", code=0)
    kept = [row["run"] for row in told["keep"]]
    assert kept[:14] == [dom0.run, *reversed(runs[-13:])]
    assert len(kept) in (25, 26)
    assert sorted([*kept, *told["would_forget"]]) == sorted([*runs, dom0.run])
    assert dom0.json("list", code=0) == listed


def test_forget(dom0: Dom0, runs: list[str]) -> None:
    """The records of what is removed go, those of the others stay."""
    script = 'echo "{\\"forgotten\\": [$(printf \'"%s",\' "$@" | sed s/,$//)]}"'
    dom0.store(f'[ "$1" = forget ] || exec cat {dom0.answers}/"$1"; shift 4; {script}')
    gone = runs[: NIGHTS - 30]
    assert dom0.json("forget", "--keep-last", "30", code=0)["forgotten"][::-1] == gone
    assert {path.stem for path in dom0.confirmed.iterdir()} == set(runs[-30:])
    ledgers = {path.name for path in dom0.root.ledgers.iterdir()}
    assert {run[17:-5] for run in runs[-30:]} <= ledgers
    assert not {run[17:-5] for run in gone} & ledgers
