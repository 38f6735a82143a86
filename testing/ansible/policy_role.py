# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the role `qrexec_policy` for real, on a folder that stands for dom0's root."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

from testing.ansible.policy_table import BACKUP
from testing.paths import PROJECT

NAME = "75-dedup-backup.policy"


def _run(
    root: Path, storage: str, repositories: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    for folder in ("etc/qubes/policy.d", "run/qubes/policy.d"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [entry.partition("+") for entry in repositories]
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_become": False, "ansible_python_interpreter": sys.executable},
        "module_defaults": {
            "qrexec_policy": {
                "root": str(root),
                "owner": pwd.getpwuid(os.getuid()).pw_name,
                "group": grp.getgrgid(os.getgid()).gr_name,
            }
        },
        "roles": [
            {
                "role": "qrexec_policy",
                "qrexec_policy_backup_qube": BACKUP,
                "qrexec_policy_storage_qube": storage,
                "qrexec_policy_repositories": [
                    {"engine": engine, "name": name} for engine, _, name in names
                ],
            }
        ],
    }
    playbook = root / "playbook.json"
    playbook.write_text(json.dumps([play]))
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", playbook],
        env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )


def apply(root: Path, storage: str, repositories: tuple[str, ...]) -> Path:
    """Apply the role, which must succeed, and return the policy file.

    Args:
        root: an empty folder.
        storage: the storage qube, or empty.
        repositories: each as ENGINE+NAME.
    """
    done = _run(root, storage, repositories)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return root / "etc/qubes/policy.d" / NAME


def refused(root: Path, storage: str, repositories: tuple[str, ...]) -> str:
    """Apply the role, which must fail, and return what Ansible printed."""
    done = _run(root, storage, repositories)
    assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())
