# SPDX-License-Identifier: GPL-3.0-or-later
"""A power cut of a machine with a backup qube and a storage qube."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server.maintenance import opened
from testing.server.storage_qube import QrexecStore, StorageQube
from testing.store import power
from testing.store.power import Machine


@pytest.fixture
def machine(tmp_path: Path, store: QrexecStore) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    made = Machine(tmp_path, store)
    yield made
    made.remove()


@pytest.mark.parametrize(
    "store", ["restic", pytest.param("borg", marks=pytest.mark.thorough)], indirect=True
)
def test_what_put_reported_outlives_a_power_cut(machine: Machine, store: QrexecStore) -> None:
    """The service flushes what rclone writes."""
    run, data = power.cut_after_a_report(machine, store)
    assert store.get(run) == data


@pytest.mark.thorough
def test_power_cut(machine: Machine, store: QrexecStore, qube: StorageQube) -> None:
    run, data = power.cut_after_a_report(machine, store)
    power.cut_during_a_put(machine, store)
    assert store.get(run) == data
    qube.prefix = machine.prefix
    with opened(qube, f"{store.engine}+main"):
        power.cut_during_a_prune(machine, store)
    assert store.get(run) == data
    again = store.put(data)
    prune(machine, store, qube)
    assert {stored["run"] for stored in store.runs()} == {run, again["run"]}
    assert store.get(run) == store.get(again["run"]) == data


@pytest.mark.thorough
def test_power_cut_as_a_put_ends(machine: Machine, store: QrexecStore, qube: StorageQube) -> None:
    run, data = power.cut_after_a_report(machine, store)
    for tenths in (0, 4, 8, 12, 20):
        power.cut_at_the_end_of_a_put(machine, store, tenths / 10)
        assert store.get(run) == data
    prune(machine, store, qube)
    assert store.get(run) == data


def prune(machine: Machine, store: QrexecStore, qube: StorageQube) -> None:
    qube.prefix = machine.prefix
    with opened(qube, f"{store.engine}+main"):
        result = store.run("prune")
    assert result.returncode == 0, result.stderr
