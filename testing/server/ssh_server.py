# SPDX-License-Identifier: GPL-3.0-or-later
"""A real OpenSSH server on loopback, in a network namespace of its own."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PORT = "2222"


@dataclass
class SshServer:
    """The server, and what a client needs to reach it."""

    folder: Path
    namespace: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What a program is started with to be in the namespace."""
        return ("ip", "netns", "exec", self.namespace)

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

    def write(self, path: str) -> None:
        """Write keys and configurations; path is where the server finds programs."""
        self.data.mkdir(parents=True)
        for name in ("host", "user"):
            key = self.folder / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        host_key = (self.folder / "host.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{PORT} {host_key}")
        (self.folder / "sshd_config").write_text(
            f"Port {PORT}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\n"
            f"AuthorizedKeysFile {self.folder}/user.pub\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
            f"Subsystem sftp internal-sftp\nSetEnv PATH={path}\n"
        )
        self.ssh_config.write_text(
            f"IdentityFile {self.folder}/user\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self.folder}/known_hosts\n"
        )
        self.rclone_config.write_text(
            f"[far]\ntype = sftp\nhost = 127.0.0.1\nport = {PORT}\nuser = root\n"
            f"key_file = {self.folder}/user\nknown_hosts_file = {self.folder}/known_hosts\n"
        )


@contextmanager
def running(folder: Path, path: str) -> Iterator[SshServer]:
    """Start a server, and end it."""
    server = SshServer(folder, f"dedup-test-{os.getpid()}")
    server.write(path)
    Path("/run/sshd").mkdir(exist_ok=True)
    subprocess.run(["ip", "netns", "add", server.namespace], check=True)
    try:
        subprocess.run([*server.inside, "ip", "link", "set", "lo", "up"], check=True)
        command: list[str | Path] = ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen([*server.inside, *command], stderr=log)
        try:
            ask: list[str | Path] = [*server.inside, "ssh", "-F", server.ssh_config, "-p", PORT]
            ask += ["root@127.0.0.1", "true"]
            while subprocess.run(ask, capture_output=True, check=False).returncode:
                assert daemon.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield server
        finally:
            daemon.terminate()
            daemon.wait()
    finally:
        subprocess.run(["ip", "netns", "delete", server.namespace], check=True)
