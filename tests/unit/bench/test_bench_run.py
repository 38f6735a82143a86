# SPDX-License-Identifier: GPL-3.0-or-later
"""make bench as a program, on a corpus of some tens of MB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testing.paths import PROJECT


@pytest.mark.thorough
def test_a_small_run(tmp_path: Path) -> None:
    """All stages for all contenders but wyng and the real scrypt; nothing is left mounted."""
    pytest.importorskip("matplotlib", reason="only make bench installs it")
    if not (PROJECT / ".cache/bench-root/made").exists():
        pytest.skip("only make bench makes the root of Debian 13")
    chosen = {"BENCH_GB": "0.1", "BENCH_ROUNDS": "1", "BENCH_DAYS": "1", "BENCH_REAL": "0"}
    chosen |= {"BENCH_QUBES": "3", "BENCH_PARTS": ""}
    done = subprocess.run(
        [sys.executable, PROJECT / "bench/store.py"],
        env={**os.environ, **chosen, "BENCH_DIR": str(tmp_path), "WYNG": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "store.json").read_text())
    assert len(data["rounds"]) == 1
    names = data["rounds"][0].keys()
    assert names == data["days"].keys()
    assert data["last"].keys() == {name for name in names if not name.startswith("raw-")}
    for engine in ("restic", "borg"):
        assert len(data["small"]["one"][engine]) == 1
        assert data["engines"][engine]["ours"]["cpu"] > [0]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["store.json", "store.md", "store.png", "store.svg"]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    text = (tmp_path / "store.md").read_text()
    again = [sys.executable, PROJECT / "bench/store.py", "--report", tmp_path / "store.json"]
    subprocess.run(again, check=True, capture_output=True)
    assert (tmp_path / "store.md").read_text() == text
