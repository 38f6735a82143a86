# SPDX-License-Identifier: GPL-3.0-or-later
"""The command stats: figures that can be counted otherwise, too."""

import json
import subprocess

import pytest

from testing.store.driver import Filled, Store


@pytest.mark.sampled(3)
def test_two_runs(filled: Filled) -> None:
    store = filled.store
    result = store.run("stats", "--json")
    assert result.returncode == 0, result
    report = json.loads(result.stdout)
    total = sum(map(len, filled.streams))
    newest = store.runs()[-1]
    assert report["runs"] == {"whole": 2, "partial": 0, "opaque": 0}
    assert report["stream_bytes"] == total
    assert report["newest"] == {"run": newest["run"], "stream_bytes": newest["stream_bytes"]}
    assert report["ratio"] == round(report["stored_bytes"] / total, 4)
    if store.engine == "directory":
        assert report["stored_bytes"] >= total - (1 << 20)
        command = ["du", "-s", "--block-size=1", store.stored]
    else:  # what is in the second run only because it was in the first isn't stored again
        assert report["ratio"] < 0.8
        others = ("!", "-name", "dedup-store.reserve")
        command = ["find", store.repository, "-type", "f", *others, "-printf", "%s+"]
    counted = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    words = counted.split()[0].rstrip("+").split("+")
    assert abs(report["stored_bytes"] - sum(map(int, words))) < 32 << 10  # du counts folders
    text = store.run("stats").stdout.decode()
    assert "runs:             2 whole\n" in text
    assert f"{100 * report['ratio']:.1f} %" in text


def test_nothing_stored(store: Store) -> None:
    report = json.loads(store.run("stats", "--json").stdout)
    assert (report["stream_bytes"], report["newest"], report["ratio"]) == (0, None, None)
    assert "stored / streams: not known\n" in store.run("stats").stdout.decode()
