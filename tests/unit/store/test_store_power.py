# SPDX-License-Identifier: GPL-3.0-or-later
"""A power cut, at any moment: no run that put reported is lost, none looks whole and isn't."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.store import power
from testing.store.driver import Store
from testing.store.power import Machine


@pytest.fixture
def machine(tmp_path: Path, store: Store) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    made = Machine(tmp_path, store)
    yield made
    made.remove()


@pytest.mark.sampled(3)
def test_what_put_reported_outlives_a_power_cut(machine: Machine, store: Store) -> None:
    run, data = power.cut_after_a_report(machine, store)
    assert store.put(data)["status"] == "whole"
    assert store.get(run) == data


@pytest.mark.thorough
def test_power_cut(machine: Machine, store: Store) -> None:
    run, data = power.cut_after_a_report(machine, store)
    power.cut_during_a_put(machine, store)
    assert store.get(run) == data
    power.cut_during_a_prune(machine, store)
    assert store.get(run) == data
    again = store.put(data)
    result = store.run("prune")
    assert result.returncode == 0, result.stderr
    assert {stored["run"] for stored in store.runs()} == {run, again["run"]}
    assert store.get(run) == store.get(again["run"]) == data


@pytest.mark.thorough
def test_power_cut_as_a_put_ends(machine: Machine, store: Store) -> None:
    run, data = power.cut_after_a_report(machine, store)
    for tenths in (0, 3, 6, 10, 15):
        power.cut_at_the_end_of_a_put(machine, store, tenths / 10)
        assert store.get(run) == data
    result = store.run("prune")
    assert result.returncode == 0, result.stderr
    assert store.get(run) == data
