# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables that YAML understands otherwise than they were meant: refused before all else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from module_runner import PROJECT

# As people write them, and what is said of it.
WRONG = {
    "backup_qube_profiles: [{name: disk, engine: restic, device: 2025_01}]": (
        "backup_qube_profiles:0:device must be text, in quotes where YAML sees something else in"
        " it, as here: 202501."
    ),
    "backup_qube_profiles: [{name: disk, engine: restic, device: 2025-01-01}]": (
        "backup_qube_profiles:0:device must be text"
    ),
    "backup_qube_profiles: [{name: on, engine: restic}]": "profiles:0:name must be text",
    "backup_qube_profiles: [{name: a, engine: tar}]": "0:engine must be one of: restic, borg",
    "backup_qube_profiles: [{name: a, engine: borg, pack_size: on}]": "must be a whole number",
    "backup_qube_profiles: [{name: a, engine: borg, pack_size: 16.5}]": "must be a whole number",
    "backup_qube_profiles: [{name: a, engine: borg, pack_size: 16.0}]": "must be a whole number",
    "backup_qube_profiles: [{name: a, engine: borg, pack_size: 1.0e+99}]": "must be a whole number",
    "backup_qube_profiles: [{name: a, engine: borg, pack_size: .inf}]": "must be a whole number",
    "backup_qube_profiles: [{name: a, engine: borg, pack_size: 1e99}]": "must be a whole number",
    "backup_qube_profiles: [{name: a}]": "backup_qube_profiles:0:engine is missing",
    "backup_qube_profiles: {name: a}": "backup_qube_profiles must be a list",
    "backup_qube_profils: []": "backup_qube_profils is no setting; there are: backup_qube_label",
    "backup_qube_private_size: 20000000000": "backup_qube_private_size must be text",
    "shim_mode: off": "shim_mode must be text, in quotes where YAML sees something else",
    "shim_mode:": "shim_mode must be text",
    "backup_template_packages: restic": "backup_template_packages must be a list",
    "backup_profile_profiles: [{name: 1_0, store_profile: a}]": "0:name must be text",
    "backup_profile_profiles: [{name: a, store_profile: a, include: [007]}]": (
        "backup_profile_profiles:0:include:0 must be text"
    ),
    "storage_qube_repositories: [{name: 1.5, engine: borg}]": "repositories:0:name must be text",
    "storage_qube_netvm: yes": "storage_qube_netvm must be text",
    "qrexec_policy_file: 30": "qrexec_policy_file must be text",
}


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
    settings.write_text(f"{next(iter(WRONG))}\n")
    result = play(PROJECT / "playbooks" / playbook, "-i", "inventory.example", "-e", f"@{settings}")
    assert result.returncode != 0
    assert next(iter(WRONG.values())) in result.stdout + result.stderr
    recap = result.stdout.splitlines()[-2]
    assert "changed=0" in recap
    assert "failed=1" in recap
    tasks = [line for line in result.stdout.splitlines() if line.startswith("TASK [")]
    assert not any("backup_qube :" in task or "shim :" in task for task in tasks), tasks


def test_each_kind(tmp_path: Path) -> None:
    """One play for all: a host for each."""
    hosts: dict[str, Any] = {}
    wrong = dict(enumerate(WRONG.items()))
    for number, (text, _) in wrong.items():
        hosts[f"h{number}"] = {"ansible_connection": "local", **yaml.safe_load(text)}
    example = yaml.safe_load((PROJECT / "group_vars/all.example.yml").read_text())
    hosts["right"] = {"ansible_connection": "local", **example}
    hosts["nothing"] = {"ansible_connection": "local"}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    playbook = tmp_path / "playbooks/play.yml"
    playbook.parent.mkdir()
    (tmp_path / "roles").symlink_to(PROJECT / "roles")
    tasks = str(PROJECT / "playbooks/tasks/check_settings.yml")
    playbook.write_text(
        json.dumps(
            [
                {
                    "hosts": "all",
                    "gather_facts": False,
                    "tasks": [{"ansible.builtin.import_tasks": tasks}],
                }
            ]
        )
    )
    result = play(playbook, "-i", str(inventory))
    told = {
        line.split("fatal: [", 1)[1].split("]", 1)[0]: line
        for line in result.stdout.splitlines() + result.stderr.splitlines()
        if "fatal: [" in line
    }
    assert set(told) == {f"h{number}" for number in wrong}, result.stdout
    for number, (_, message) in wrong.items():
        assert message in told[f"h{number}"]
