# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code=misc
"""The lab's stand-in for the connection `qubesos.core.qubes`: into a qube by qvm-run.

Behaves as QubesOS/qubes-ansible
ansible_collections/qubesos/core/plugins/connection/qubes.py (class Connection) does: the command is
the first line on the stdin of qubes.VMShell (or qubes.VMRootShell for root), data follows it; whole
files and outputs are held in memory; fetching a file runs as the qube's default user.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: qubes
short_description: Run tasks in a qube by qvm-run
description:
  - The lab's stand-in for the connection that Qubes OS ships in dom0.
author: The qubes-dedup-backup authors (@qubes-dedup-backup)
options:
  remote_addr:
    description: Name of the qube.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
  remote_user:
    description: The user to run as in the qube.
    choices: [user, root]
    default: user
    vars:
      - name: ansible_user
"""

QVM_RUN = ("qvm-run", "--no-gui", "--pass-io")


class Connection(ConnectionBase):
    """A connection without a lasting part: each call is one qvm-run."""

    transport = "qubesos.core.qubes"
    has_pipelining = True

    def _connect(self) -> Connection:
        """Note that calls may start; the qube answers, or not, at the first one."""
        self._connected = True
        return self

    def exec_command(
        self,
        cmd: str,
        in_data: bytes | None = None,
        sudoable: bool = True,  # noqa: ARG002 - part of Ansible's interface
    ) -> tuple[int, bytes, bytes]:
        """Run a shell command and return exit status, stdout and stderr."""
        self._connect()
        return self._in_qube(cmd, in_data or b"")

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from here into the qube."""
        status, _, stderr = self._in_qube(f'cat > "{out_path}"', Path(in_path).read_bytes())
        if status != 0:
            raise AnsibleError(f"can't write {out_path} in {self._qube}: {stderr!r}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the qube to here, as the qube's default user."""
        done = self._run([*QVM_RUN, self._qube, f"cat {in_path}"], b"")
        if done.returncode != 0:
            raise AnsibleError(f"can't read {in_path} in {self._qube}: {done.stderr!r}")
        Path(out_path).write_bytes(done.stdout)

    def close(self) -> None:
        """There is nothing to close."""
        self._connected = False

    @property
    def _qube(self) -> str:
        return str(self._play_context.remote_addr)

    def _in_qube(self, command: str, data: bytes) -> tuple[int, bytes, bytes]:
        root = self._play_context.remote_user == "root"
        service = "qubes.VMRootShell" if root else "qubes.VMShell"
        argv = [*QVM_RUN, "--service", self._qube, service]
        done = self._run(argv, command.rstrip("\n").encode() + b"\n" + data)
        return done.returncode, done.stdout, done.stderr

    @staticmethod
    def _run(argv: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(argv, input=data, capture_output=True, check=False)
        except OSError as error:
            raise AnsibleError(f"can't run {argv[0]}: {error.strerror}") from error
