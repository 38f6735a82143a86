# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that can't be right: the playbooks refuse them before all else.

tests/unit/salt/test_pillar.py has the same table for the formula.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.dedup_settings import wrong

from testing.paths import PROJECT

TABLE: list[dict[str, str]] = yaml.safe_load(
    (PROJECT / "tests/unit/wrong_settings.yml").read_text()
)
# Salt's YAML reads it as text.
DATE = "backup_qube_repositories: [{name: disk, engine: restic, device: 2025-01-01}]"
DATE_MESSAGE = (
    "backup_qube_repositories:0:device must be text: write it in quotes, as YAML reads it as"
    " 2025-01-01."
)
# In the table, these are names of settings, as in the pillar; here, of the inventory's groups.
QUBES = {"backup_template": "t", "backup_qube": "dedup-backup", "storage_qube": ""}


SPECS = [PROJECT / "playbooks/vars/groups.yml", *PROJECT.glob("roles/*/meta/argument_specs.yml")]
OPTIONS: dict[str, Any] = {}
for path in SPECS:
    OPTIONS |= yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
DEFAULTS = {name: option["default"] for name, option in OPTIONS.items() if "default" in option}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["settings"])
def test_message(row: dict[str, str]) -> None:
    assert wrong(yaml.safe_load(row["settings"]), OPTIONS, DEFAULTS) == row["message"]


def test_what_is_no_mapping() -> None:
    assert wrong(["shim_mode"], OPTIONS) == "The settings must be names with values."


def test_what_is_shown_of_a_value_is_short_and_on_one_line() -> None:
    said = wrong({"backup_qube": "x\n\x1b[31m" + "y" * 50}, OPTIONS)
    assert said.startswith("backup_qube can't be 'x ?[31m" + "y" * 33 + "...': use ")


def test_defaults_are_right() -> None:
    assert wrong(DEFAULTS, OPTIONS) == ""


def play(playbook: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook, as dom0 does."""
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", *arguments, playbook],
        cwd=PROJECT,
        env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("playbook", ["site.yml", "backup_qube.yml", "backup_profile.yml"])
def test_refused_before_anything_is_changed(playbook: str, tmp_path: Path) -> None:
    settings = tmp_path / "settings.yml"
    settings.write_text(TABLE[0]["settings"])
    result = play(PROJECT / "playbooks" / playbook, "-i", "inventory.example", "-e", f"@{settings}")
    assert result.returncode != 0
    assert TABLE[0]["message"] in result.stdout + result.stderr
    recap = result.stdout.splitlines()[-2]
    assert "changed=0" in recap
    assert "failed=1" in recap
    tasks = [line for line in result.stdout.splitlines() if line.startswith("TASK [")]
    assert not any("backup_qube :" in task or "shim :" in task for task in tasks), tasks


def messages(inventories: dict[str, dict[str, Any]], tmp_path: Path) -> dict[str, str]:
    """Check settings, each those of a host, in one play; return the messages of those refused."""
    hosts = {
        host: {
            **{key: value for key, value in settings.items() if key not in QUBES},
            "qubes": {key: settings.get(key, name) for key, name in QUBES.items()},
            "ansible_connection": "local",
        }
        for host, settings in inventories.items()
    }
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    tasks = str(PROJECT / "playbooks/tasks/check_settings.yml")
    check = {"ansible.builtin.import_tasks": tasks, "vars": {"check_settings_qubes": "{{ qubes }}"}}
    playbook = tmp_path / "playbooks/play.yml"
    playbook.parent.mkdir()
    (playbook.parent / "vars").symlink_to(PROJECT / "playbooks/vars")
    (tmp_path / "roles").symlink_to(PROJECT / "roles")
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [check]}]))
    result = play(playbook, "-i", str(inventory))
    fatal = [
        line.split("fatal: [", 1)[1]
        for line in result.stdout.splitlines() + result.stderr.splitlines()
        if "fatal: [" in line
    ]
    assert fatal, result.stdout + result.stderr
    return {line.split("]", 1)[0]: json.loads(line.partition("=> ")[2])["msg"] for line in fatal}


def test_each_kind(tmp_path: Path) -> None:
    hosts = {f"h{number}": yaml.safe_load(row["settings"]) for number, row in enumerate(TABLE)}
    hosts["date"] = yaml.safe_load(DATE)
    hosts["example"] = yaml.safe_load((PROJECT / "group_vars/all.example.yml").read_text())
    hosts["nothing"] = {}
    expected = {f"h{number}": row["message"] for number, row in enumerate(TABLE)}
    assert messages(hosts, tmp_path) == {**expected, "date": DATE_MESSAGE}
