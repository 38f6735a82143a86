# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole lab without containers: each qube is a process and a folder on this machine.

Run as `python3 -m testing.lab.harness STATE`, it is the real daemon with such qubes.
"""

from __future__ import annotations

import faulthandler
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from qubeslab.containers import QubeSpec
from qubeslab.daemon import serve
from qubeslab.domains import create_initial
from qubeslab.paths import LabError
from qubeslab.qrexec_run import Paths

from testing.paths import LAB, PYTHONPATH

TEMPLATE = "debian-13-minimal"
USERS = ("user", "root", "mallory")
SECONDS = 20


class ProcessMachines:
    """Machines that run commands on this machine, with a clean environment."""

    def __init__(self, state: Path) -> None:
        """Take the lab's state folder."""
        self.state = state

    def _record(self, name: str) -> Path:
        return self.state / "running" / name

    def start(self, qube: QubeSpec) -> None:
        """Start a process that stands for the qube."""
        if (self.root(qube.name) / "refuses-to-start").exists():
            raise LabError("it refuses to start")
        if not qube.root.exists() or not qube.private.exists():
            raise LabError("an image is missing")
        self._record(qube.name).parent.mkdir(exist_ok=True)
        process = subprocess.Popen(["sleep", "infinity"], start_new_session=True)
        self._record(qube.name).write_text(str(process.pid))

    def stop(self, name: str) -> None:
        """Kill it."""
        if self.is_running(name):
            os.kill(int(self._record(name).read_text()), signal.SIGKILL)
        self._record(name).unlink(missing_ok=True)

    def is_running(self, name: str) -> bool:
        """Tell whether it is alive; dom0 always is."""
        if name == "dom0":
            return True
        try:
            pid = self._record(name).read_text()
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    def root(self, name: str) -> Path:
        """Return the qube's folder."""
        return self.state / "roots" / name

    def enter(self, name: str, user: str | None) -> list[str]:
        """Return an argv prefix that tells the command, by its environment, where it is."""
        if not self.is_running(name):
            raise LabError(f"{name} is not running")
        root = self.root(name)
        services = ":".join(
            f"{root}/{part}" for part in ("usr/local/etc/qubes-rpc", "etc/qubes-rpc")
        )
        home = root / "home" / (user or "nobody")
        home.mkdir(parents=True, exist_ok=True)
        return [
            *("env", "-i", f"PATH={self.state}/bin:{os.environ['PATH']}", f"HOME={home}"),
            *(f"QREXEC_SERVICE_PATH={services}", f"QUBES_RPC_CONFIG_PATH={root}/rpc-config"),
            *(f"LAB_QUBE={name}", f"LAB_USER={user}", f"LAB_ROOT={root}"),
            f"QUBES_API={LAB / 'dom0/lib/qubesd-call' if name == 'dom0' else ''}",
            f"QUBESD_SOCKET={self.state}/run/dom0/qubesd.sock",
        ]


class Lab:
    """A lab in a folder of its own, with its daemon."""

    def __init__(self, state: Path) -> None:
        """Make and start a lab in an empty folder."""
        self.state = state
        images = state / "qubes" / "vm-templates" / TEMPLATE
        images.mkdir(parents=True)
        for name in ("root", "private"):
            with (images / f"{name}.img").open("wb") as image:
                image.truncate(2**20)
        create_initial(state, TEMPLATE)
        self.dom0 = state / "roots" / "dom0"
        self.policy_dir = self.dom0 / "etc" / "qubes" / "policy.d"
        self.policy_dir.mkdir(parents=True)
        (self.dom0 / "etc" / "qubes" / "backup").mkdir()
        self._write_commands()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the daemon and wait until it serves."""
        self.socket("dom0", "qubesd.sock").unlink(missing_ok=True)
        with (self.state / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "testing.lab.harness", str(self.state)],
                env=os.environ | {"PYTHONPATH": PYTHONPATH},
                stderr=log,
            )
        self.until(lambda: self.socket("dom0", "qubesd.sock").exists())

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon and return its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(SECONDS)

    def close(self) -> None:
        """End everything."""
        self.stop()
        for record in (self.state / "running").glob("*"):
            os.kill(int(record.read_text()), signal.SIGKILL)

    def until(self, condition: object) -> None:
        """Wait until a condition holds."""
        assert callable(condition)
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log()
            assert self.process is None or self.process.poll() is None, self.log()
            time.sleep(0.01)

    def log(self) -> str:
        """Return what the daemon logged."""
        return (self.state / "daemon.log").read_text()

    def socket(self, name: str, file: str = "qrexec.sock") -> Path:
        """Return a socket's path."""
        return self.state / "run" / name / file

    def raw(self, data: bytes, file: str = "qubesd.sock") -> bytes:
        """Send bytes to a socket of dom0 and return the answer."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket("dom0", file)))
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as answer:
                    return answer.read()
            except (BrokenPipeError, ConnectionResetError):
                return b""

    def service(self, qube: str, name: str, script: str, folder: str = "etc/qubes-rpc") -> Path:
        """Install a service in a qube."""
        path = self.state / "roots" / qube / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def config(self, qube: str, name: str, text: str) -> None:
        """Configure a service in a qube."""
        path = self.state / "roots" / qube / "rpc-config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def policy(self, text: str, name: str = "30-test.policy") -> None:
        """Write a policy file."""
        path = self.policy_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def dom0_command(self, *words: str) -> list[str]:
        """Return the argv of one of dom0's commands, told where this lab is."""
        return [str(self.state / "dom0bin" / words[0]), *words[1:]]

    def from_qube(self, qube: str, *words: str) -> list[str]:
        """Return the argv of qrexec-client-vm in a qube."""
        program = LAB / "qube" / "bin" / "qrexec-client-vm"
        return [str(program), f"--agent-socket={self.socket(qube)}", *words]

    def _write_commands(self) -> None:
        folder = self.state / "dom0bin"
        folder.mkdir()
        config = {
            "QUBESD_SOCKET": self.socket("dom0", "qubesd.sock"),
            "QREXEC_CLIENT": folder / "qrexec-client",
            "QREXEC_SERVICES_DIR": folder,
        }
        settings = "".join(f"config.{key} = {str(value)!r}\n" for key, value in config.items())
        tool = (
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(LAB / 'dom0')!r})\n"
            f"from qubesadmin import config, tools\n{settings}sys.exit(tools.main(sys.argv))\n"
        )
        for link in (LAB / "dom0" / "bin").iterdir():
            if link.is_symlink():
                self._command(folder / link.name, tool)
        client = shlex.join([str(LAB / "dom0/bin/qrexec-client")])
        self._command(
            folder / "qrexec-client",
            f'#!/bin/sh\nexec {client} --socket-dir={self.socket("dom0").parent} "$@"\n',
        )
        internal = self.socket("dom0", "qubesd.internal.sock")
        for name in ("Import", "ImportWithSize"):
            program = LAB / "dom0" / "rpc" / f"admin.vm.volume.{name}"
            self._command(
                folder / program.name,
                f'#!/bin/sh\nQUBESD_INTERNAL_SOCKET={internal} exec {program} "$@"\n',
            )
        (self.state / "bin").mkdir()
        # This machine needn't have the qubes' users.
        self._command(
            self.state / "bin" / "id",
            f'#!/bin/sh\n[ "$2" = -- ] || exec /usr/bin/id "$@"\n'
            f"case $3 in {'|'.join(USERS)}) exit 0 ;; esac\nexit 1\n",
        )

    @staticmethod
    def _command(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


def main(state: Path) -> None:
    """Be the daemon."""
    paths = Paths(
        multiplexer=str(LAB / "qube/lib/qubes-rpc-multiplexer"),
        config=str(LAB / "qube/lib/qrexec-service-config"),
        pool=str(state / "qubes"),
        backup_program=(sys.executable, str(state / "backup_run.py")),
    )
    faulthandler.register(signal.SIGUSR1)
    serve(state, ProcessMachines(state), paths)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
