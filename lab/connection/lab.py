# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible connection into a qube of the lab, for molecule; users' plays never need it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = r"""
name: lab
short_description: run tasks in dom0 or in a qube of the lab
description:
  - Runs commands through the C(lab) command, as root unless told otherwise.
author: the qubes-dedup-backup authors
options:
  lab_command:
    description: Path of the C(lab) program.
    type: str
    required: true
    vars:
      - name: lab_command
  lab_qube:
    description: The qube to run in.
    type: str
    default: dom0
    vars:
      - name: lab_qube
  remote_user:
    description: The user to run as.
    type: str
    default: root
    vars:
      - name: ansible_user
"""


class Connection(ConnectionBase):  # type: ignore[misc]  # ansible-core has no type information
    """Run commands by `lab run --user USER QUBE sh -c CMD`."""

    transport = "lab"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _argv(self, command: str) -> list[str]:
        lab = self.get_option("lab_command")
        user = self.get_option("remote_user")
        return [lab, "run", "--user", user, self.get_option("lab_qube"), "/bin/sh", "-c", command]

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a shell command and return its exit code, stdout and stderr."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = subprocess.run(
            self._argv(cmd), input=in_data or b"", capture_output=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the qube."""
        self._copy(f"cat > {shlex.quote(out_path)}", Path(in_path).read_bytes())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file out of the qube."""
        Path(out_path).write_bytes(self._copy(f"cat < {shlex.quote(in_path)}", b""))

    def _copy(self, command: str, data: bytes) -> bytes:
        code, out, err = self.exec_command(command, in_data=data)
        if code != 0:
            raise AnsibleConnectionFailure(f"{command}: {err.decode(errors='replace').strip()}")
        return out

    def close(self) -> None:
        """Nothing is kept open."""
        self._connected = False
