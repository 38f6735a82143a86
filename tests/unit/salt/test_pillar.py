# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings in the pillar, or where they have no effect: the formula, rendered by Salt itself."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[3]
VERSION = "3007.15"
CALL = "from salt.scripts import salt_call; salt_call()"


class Formula:
    """A dom0 that has the formula, in a mount namespace with a /srv of its own."""

    def __init__(self, folder: Path) -> None:
        """Lay it out."""
        self.folder = folder
        subprocess.run([PROJECT / "tools/salt.sh", VERSION], check=True)
        subprocess.run([PROJECT / "tools/salt-tree.sh", folder / "root"], check=True)
        config = {
            "root_dir": str(folder / "salt"),
            "file_client": "local",
            "id": "dom0",
            "file_roots": {"base": [str(folder / "root")]},
            "pillar_roots": {"base": [str(folder / "pillar")]},
        }
        (folder / "config").mkdir()
        (folder / "pillar").mkdir()
        (folder / "config/minion").write_text(yaml.safe_dump(config))

    def render(
        self, pillar: dict[str, Any], files: dict[str, str] | None = None, state: str = "create"
    ) -> subprocess.CompletedProcess[str]:
        """Render a state with a pillar, and with files in /srv that aren't enabled."""
        (self.folder / "pillar/top.sls").write_text("base: {'*': [settings]}\n")
        (self.folder / "pillar/settings.sls").write_text(yaml.safe_dump(pillar))
        srv = self.folder / "srv"
        srv.mkdir(exist_ok=True)
        for path, text in (files or {}).items():
            (srv / path).parent.mkdir(parents=True, exist_ok=True)
            (srv / path).write_text(text)
        argv = [sys.executable, "-c", CALL, f"--config-dir={self.folder}/config", "--local"]
        argv += ["--retcode-passthrough", "--out=json", "state.show_sls", f"dedup-backup.{state}"]
        script = f"mount --bind {srv} /srv && exec {shlex.join(argv)}"
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(PROJECT / ".cache/salt" / VERSION),
                "PYTHONWARNINGS": "ignore",
            },
        )
        subprocess.run(["rm", "-r", srv], check=True)
        return done

    def states(self, pillar: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401
        """Give the states, of which there must be some."""
        done = self.render(pillar, **more)
        assert done.returncode == 0, done.stderr[-2000:]
        return dict(json.loads(done.stdout)["local"])

    def refusal(self, pillar: dict[str, Any], **more: Any) -> str:  # noqa: ANN401
        """Give the message, instead of states."""
        done = self.render(pillar, **more)
        assert done.returncode != 0
        (message,) = json.loads(done.stdout)["local"]
        return str(message)


@pytest.fixture(scope="module")
def formula(tmp_path_factory: pytest.TempPathFactory) -> Formula:
    if os.geteuid() != 0:
        pytest.skip("only root can make a mount namespace")
    return Formula(tmp_path_factory.mktemp("formula"))


def test_defaults_are_told(formula: Formula) -> None:
    for state in ("create", "configure"):
        states = formula.states({"other": {"a": 1}}, state=state)
        told = json.dumps(states[f"dedup-backup-{state}-settings"])
        assert "the pillar has none under the key dedup-backup" in told


def test_settings_are_not_told(formula: Formula) -> None:
    pillar = {"dedup-backup": {"backup_qube": "my-own"}}
    files = {"user_pillar/dedup-backup.sls": yaml.safe_dump(pillar)}
    states = formula.states(pillar, files=files)
    assert "dedup-backup-create-my-own" in states
    assert "dedup-backup-create-settings" not in states


@pytest.mark.parametrize("place", ["user_pillar/dedup-backup.sls", "pillar/mine/x.sls"])
def test_a_file_that_is_not_enabled(formula: Formula, place: str) -> None:
    files = {place: "dedup-backup:\n  backup_qube: my-own\n"}
    message = formula.refusal({}, files=files)
    assert f"/srv/{place} has settings, and the pillar has none of them: enable it" in message


DISK = {"name": "disk", "engine": "restic"}


@pytest.mark.parametrize(
    ("pillar", "told"),
    [
        ({"dedup_backup": {"backup_qube": "x"}}, "key dedup_backup has no effect: write it"),
        ({"Dedup-Backup": {}}, "key Dedup-Backup has no effect: write it dedup-backup"),
        ({"backup_qube": "x"}, "key backup_qube has no effect: it belongs below the key"),
        (
            {
                "dedup-backup": {
                    "shim_mode": False,
                    "backup_qube_profiles": [
                        {"name": "disk", "engine": "restic", "device": 202501, "pack_size": True}
                    ],
                }
            },
            "pillar key dedup-backup:backup_qube_profiles:0:device must be text, in quotes where"
            " YAML sees something else in it, as here: 202501. pillar key dedup-backup:"
            "backup_qube_profiles:0:pack_size must be a whole number. pillar key"
            " dedup-backup:shim_mode must be text, in quotes where YAML sees something else in it,"
            " as here: False.",
        ),
        (
            {"dedup-backup": {"backup_qube_profiles": [{**DISK, "pack_size": 16.5}]}},
            "backup_qube_profiles:0:pack_size must be a whole number.",
        ),
    ],
    ids=["underscore", "capitals", "no-key", "types", "fraction"],
)
def test_what_has_no_effect_is_refused(formula: Formula, pillar: dict[str, Any], told: str) -> None:
    assert told in formula.refusal(pillar)
