# SPDX-License-Identifier: GPL-3.0-or-later
"""A real OpenSSH server, in a network namespace of its own: on loopback, or at a distance."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testing.server.far_link import FAR, NEAR, Link

PORT = "2222"


@dataclass
class SshServer:
    """The server, and what a client needs to reach it."""

    folder: Path
    inside: tuple[str, ...]  # what a client is started with
    address: str = "127.0.0.1"
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """A folder on the server."""
        return self.folder / "far"

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`."""
        return self.folder / "ssh_config"

    @property
    def rclone_config(self) -> Path:
        """For `rclone --config`, with the remote `far`."""
        return self.folder / "rclone.conf"

    def start(self, inside: tuple[str, ...]) -> None:
        """Start it, and wait until it answers.

        Args:
            inside: what puts it where it is to be.
        """
        # its sessions end with it: clients keep connections for the next one
        start = [*inside, "unshare", "--pid", "--fork", "--kill-child", "--"]
        with (self.folder / "log").open("ab") as log:
            command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.daemon = subprocess.Popen([*start, *command], stderr=log)
        ask: list[str | Path] = [*self.inside, "ssh", "-F", self.ssh_config, "-p", PORT]
        ask += [f"root@{self.address}", "true"]
        while subprocess.run(ask, capture_output=True, check=False).returncode:
            assert self.daemon.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it, and all connections."""
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None

    def write(self, path: str) -> None:
        """Write keys and configurations; path is where the server finds programs."""
        self.data.mkdir(parents=True)
        for name in ("host", "user"):
            key = self.folder / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        host_key = (self.folder / "host.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[{self.address}]:{PORT} {host_key}")
        (self.folder / "sshd_config").write_text(
            f"Port {PORT}\nListenAddress {self.address}\nHostKey {self.folder}/host\n"
            f"AuthorizedKeysFile {self.folder}/user.pub\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
            f"Subsystem sftp internal-sftp\nSetEnv PATH={path}\n"
        )
        self.ssh_config.write_text(
            f"IdentityFile {self.folder}/user\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self.folder}/known_hosts\n"
        )
        self.rclone_config.write_text(
            f"[far]\ntype = sftp\nhost = {self.address}\nport = {PORT}\nuser = root\n"
            f"key_file = {self.folder}/user\nknown_hosts_file = {self.folder}/known_hosts\n"
        )


@contextmanager
def running(folder: Path, path: str) -> Iterator[SshServer]:
    """Start a server on loopback, and end it."""
    namespace = f"dedup-test-{os.getpid()}"
    inside = ("ip", "netns", "exec", namespace)
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        with _started(SshServer(folder, inside), path, inside) as server:
            yield server
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


@contextmanager
def far_away(folder: Path, path: str, link: Link) -> Iterator[SshServer]:
    """Start a server at the far end of a line, and end it."""
    with _started(SshServer(folder, link.inside(NEAR), FAR), path, link.inside(FAR)) as server:
        yield server


@contextmanager
def _started(server: SshServer, path: str, inside: tuple[str, ...]) -> Iterator[SshServer]:
    server.write(path)
    Path("/run/sshd").mkdir(exist_ok=True)
    try:
        server.start(inside)
        yield server
    finally:
        server.stop()
