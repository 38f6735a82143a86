# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of make bench: what was measured, and what docs/benchmarks.md says of it."""

import json
from copy import deepcopy
from typing import Any

import pytest
import report
import targets

from testing.paths import PROJECT


@pytest.fixture
def data() -> dict[str, Any]:
    """The raw data that are kept in bench/."""
    return json.loads((PROJECT / "bench/store.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("run", ["store", "rounds", "scattered"])
def test_the_report_is_that_of_the_data(run: str) -> None:
    raw = json.loads((PROJECT / f"bench/{run}.json").read_text())
    assert (PROJECT / f"bench/{run}.md").read_text() == report.report(raw)


@pytest.mark.parametrize("section", ["Figures", "Targets"])
def test_what_the_page_says(data: dict[str, Any], section: str) -> None:
    """Each row of these tables is a row of the report, and no target is left out."""
    text = (PROJECT / "docs/benchmarks.md").read_text().partition(f"\n## {section}\n")[2]
    rows = [row for row in text.partition("\n## ")[0].splitlines() if row.startswith("| ")]
    assert len(rows) > 10
    reported = report.report(data).splitlines()
    assert not set(rows) - set(reported)
    if section == "Targets":
        assert {row for row in reported if row.endswith((" met |", " MISSED |"))} <= set(rows)


def test_a_missed_target_is_told(data: dict[str, Any]) -> None:
    worse = deepcopy(data)
    for row in worse["rounds"]:
        row["ours-borg"]["size_unchanged"] = 2 * row["ours-borg"]["size_first"]
    verdicts = {line.what: line for line in targets.lines(worse)}
    line = verdicts["growth of an unchanged backup, borg"]
    assert line.cells()[1:] == ["100.000 %", "0.005 %", "MISSED"]


def test_what_was_not_measured_is_told(data: dict[str, Any]) -> None:
    less = deepcopy(data)
    less["scattered"].pop("wyng", None)
    less["official"] = {}
    assert len(_missing(less)) == len(_missing(data)) + 6
    assert "| - |" in report.report(less)


def _missing(data: dict[str, Any]) -> set[str]:
    return {line.what for line in targets.lines(data) if line.verdict == "not measured"}
