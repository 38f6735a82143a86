# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings in the pillar, or where they have no effect: the formula, rendered by Salt itself."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.paths import PROJECT

VERSION = "3007.15"
CALL = "from salt.scripts import salt_call; salt_call()"
# Renders a state with each of many pillars, in one process: salt-call takes seconds to start.
RENDER_ALL = """
import json, sys
import salt.client, salt.config, salt.utils.yaml
caller = salt.client.Caller(mopts=salt.config.minion_config(sys.argv[1] + "/minion"))
for text in json.load(sys.stdin):
    pillar = {"dedup-backup": salt.utils.yaml.safe_load(text)}
    rendered = caller.cmd("state.show_sls", "dedup-backup.reconcile", pillar=pillar)
    print(json.dumps(rendered))
"""
TABLE: list[dict[str, str]] = yaml.safe_load(
    (PROJECT / "tests/unit/wrong_settings.yml").read_text()
)


class Formula:
    """A dom0 that has the formula, in a mount namespace with a /srv of its own."""

    def __init__(self, folder: Path, synced: bool = True) -> None:
        """Lay it out; `synced`: Salt knows its modules."""
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
        if synced:
            self.run("-c", CALL, *self.arguments(), "saltutil.sync_modules")

    def arguments(self) -> list[str]:
        """Return those of each salt-call."""
        return [f"--config-dir={self.folder}/config", "--local", "--retcode-passthrough"]

    def run(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run Salt's Python, with a /srv that is the folder's."""
        srv = self.folder / "srv"
        srv.mkdir(exist_ok=True)
        script = f"mount --bind {srv} /srv && exec {shlex.join([sys.executable, *argv])}"
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
            capture_output=True,
            text=True,
            input=text,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(PROJECT / ".cache/salt" / VERSION),
                "PYTHONWARNINGS": "ignore",
            },
        )
        shutil.rmtree(srv)
        return done

    def set_pillar(self, pillar: dict[str, Any]) -> None:
        """Replace the pillar."""
        (self.folder / "pillar/top.sls").write_text("base: {'*': [settings]}\n")
        (self.folder / "pillar/settings.sls").write_text(yaml.safe_dump(pillar))

    def render(
        self, pillar: dict[str, Any], files: dict[str, str] | None = None, state: str = "create"
    ) -> subprocess.CompletedProcess[str]:
        """Render a state with a pillar, and with files in /srv that aren't enabled."""
        self.set_pillar(pillar)
        srv = self.folder / "srv"
        for path, text in (files or {}).items():
            (srv / path).parent.mkdir(parents=True, exist_ok=True)
            (srv / path).write_text(text)
        more = ["--out=json", "state.show_sls", f"dedup-backup.{state}"]
        return self.run("-c", CALL, *self.arguments(), *more)

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


@pytest.mark.parametrize(
    ("pillar", "told"),
    [
        ({"dedup_backup": {"backup_qube": "x"}}, "key dedup_backup has no effect: write it"),
        ({"Dedup-Backup": {}}, "key Dedup-Backup has no effect: write it dedup-backup"),
        ({"backup_qube": "x"}, "key backup_qube has no effect: it belongs below the key"),
    ],
    ids=["underscore", "capitals", "no-key"],
)
def test_what_has_no_effect_is_refused(formula: Formula, pillar: dict[str, Any], told: str) -> None:
    assert told in formula.refusal(pillar)


def test_wrong_settings_are_refused_as_by_the_playbooks(formula: Formula) -> None:
    """tests/unit/ansible/test_wrong_settings.py has the same table."""
    formula.set_pillar({})
    pillars = [row["settings"] for row in TABLE] + ["[shim_mode]", "{}", "shim_mode: 'off'"]
    done = formula.run("-c", RENDER_ALL, str(formula.folder / "config"), text=json.dumps(pillars))
    *refused, no_mapping, empty, right = map(json.loads, done.stdout.splitlines())
    said = [message.partition("Jinja error: ")[2].splitlines()[0] for (message,) in refused]
    assert said == [row["message"] for row in TABLE]
    assert "Jinja error: The settings must be names with values.\n" in no_mapping[0]
    for states in (empty, right):
        assert "dedup-backup-reconcile-shim" in states


def test_modules_that_salt_has_not_got_are_asked_for(tmp_path: Path, formula: Formula) -> None:
    assert formula.folder
    message = Formula(tmp_path, synced=False).refusal({})
    assert "run `sudo qubesctl saltutil.sync_all saltenv=base,user` first" in message
