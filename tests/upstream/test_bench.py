# SPDX-License-Identifier: GPL-3.0-or-later
"""make bench with QUBES_SRC, on a corpus of some tens of MB."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from testing.paths import PROJECT
from testing.upstream.sources import Sources

MEMORY = Path("/dev/shm")  # noqa: S108 - where its machine lies


@pytest.mark.thorough
def test_upstream_makes_the_backups(sources: Sources, tmp_path: Path) -> None:
    """All contenders store them and give them back; nothing is left of its machine."""
    python = PROJECT / ".venv/bin/python"
    pytest.importorskip("matplotlib", reason="only make bench installs it")
    chosen = {"BENCH_GB": "0.1", "BENCH_ROUNDS": "1", "BENCH_DAYS": "1", "BENCH_REAL": "1"}
    chosen |= {"BENCH_DIR": str(tmp_path), "WYNG": "", "QUBES_SRC": str(sources.checkouts)}
    before = set(MEMORY.glob("bench-*"))
    done = subprocess.run(
        [python, PROJECT / "bench/store.py"],
        env=os.environ | chosen,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "store.json").read_text())
    assert data["versions"]["qubes"].startswith("qubes-core-admin ")
    assert "backups made by Qubes' own code." in done.stdout
    assert data["official"]["gzip"]["bytes"] < data["official"]["none"]["bytes"]
    # the shim's containers are as long as what they hold, and a little more
    assert data["stream"] < data["official"]["none"]["bytes"] * 1.01
    assert set(MEMORY.glob("bench-*")) == before
