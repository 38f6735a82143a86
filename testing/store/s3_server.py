# SPDX-License-Identifier: GPL-3.0-or-later
"""An S3 server on loopback: `rclone serve s3` over a folder, whose folders are the buckets."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

RCLONE = Path(sys.prefix) / "bin" / "rclone"  # of requirements-tests.txt
BUCKET = "bucket"
_STARTED = b"Starting s3 server on"  # rclone cmd/serve/s3/server.go Serve
_KEY, _SECRET = "access-key", "secret-of-tests"


class S3Server:
    """The server, and rclone's remote `far` for it."""

    def __init__(self, folder: Path, address: str = "", inside: tuple[str, ...] = ()) -> None:
        """Lay it out.

        Args:
            folder: where its data and configurations are to be.
            address: where it listens; else a free port on loopback.
            inside: what puts it where that address is.
        """
        self.folder = folder
        self._address = address or _free_port()
        self._inside = inside
        self.data.mkdir(parents=True)
        self.rclone_config.write_text(
            f"[far]\ntype = s3\nprovider = Rclone\nendpoint = http://{self._address}\n"
            f"access_key_id = {_KEY}\nsecret_access_key = {_SECRET}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The bucket's objects."""
        return self.folder / "data" / BUCKET

    @property
    def rclone_config(self) -> Path:
        """For `rclone --config`."""
        return self.folder / "rclone.conf"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command: list[str | Path] = [
            RCLONE,
            "--config",
            "/dev/null",
            "serve",
            "s3",
            "--addr",
            self._address,
        ]
        command += ["--auth-key", f"{_KEY},{_SECRET}", self.data.parent]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log)
        while _STARTED not in (self.folder / "log").read_bytes():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def serving(folder: Path, address: str = "", inside: tuple[str, ...] = ()) -> Iterator[S3Server]:
    """Start a server, and end it; see S3Server."""
    server = S3Server(folder, address, inside)
    server.start()
    try:
        yield server
    finally:
        server.kill()
