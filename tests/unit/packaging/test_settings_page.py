# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/settings.md is what tools/settings.py makes of the argument specifications."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from testing.paths import PROJECT


def tool(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, project / "tools/settings.py", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_page_is_up_to_date() -> None:
    done = tool(PROJECT, "--check")
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_found_and_made_new(tmp_path: Path) -> None:
    specs = [path.relative_to(PROJECT) for path in PROJECT.glob("roles/*/meta/argument_specs.yml")]
    playbooks = [path.relative_to(PROJECT) for path in PROJECT.glob("playbooks/*.yml")]
    others = [Path(name) for name in ("docs/settings.md", "tools/settings.py")]
    for path in (*specs, *playbooks, *others, Path("playbooks/vars/groups.yml")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / path, tmp_path / path)
    assert tool(tmp_path, "--check").returncode == 0

    spec = tmp_path / "roles/shim/meta/argument_specs.yml"
    spec.write_text(
        spec.read_text().replace("choices: [replace, path]", "choices: [replace, link]")
    )
    done = tool(tmp_path, "--check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "docs/settings.md is out of date: run tools/settings.py\n"
    page = tmp_path / "docs/settings.md"
    assert "`link`" not in page.read_text()
    assert tool(tmp_path).returncode == 0
    assert "| `shim_method` | `replace`, `link` | `replace` |" in page.read_text()
    assert tool(tmp_path, "--check").returncode == 0
