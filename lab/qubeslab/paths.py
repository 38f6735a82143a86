# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps things: a cache for all labs of a checkout, a state folder for each lab."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LAB_DIR = PROJECT / "lab"
LABS = PROJECT / ".lab"
CACHE = LABS / "cache"

DOM0 = "dom0"
BASE_TEMPLATE = "debian-13-minimal"

_LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,20}\Z")


class LabError(Exception):
    """Something the lab can't do; the message says what, where, and what to do next."""


@dataclass(frozen=True)
class LabPaths:
    """The files of one lab.

    Attributes:
        state: the folder that holds everything this lab changes.
    """

    state: Path

    @classmethod
    def named(cls, name: str) -> LabPaths:
        """Return the paths of the lab called `name`.

        Raises:
            LabError: the name isn't a small identifier.
        """
        if not _LAB_NAME.match(name) or name == CACHE.name:
            raise LabError(f"bad lab name {name!r}: use a-z, 0-9 and -, at most 21 characters")
        return cls(LABS / name)

    @property
    def ident(self) -> str:
        """Six hex digits that keep the containers of two checkouts or labs apart."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:6]

    @property
    def qubes(self) -> Path:
        """The volumes; dom0 sees them at /var/lib/qubes."""
        return self.state / "qubes"

    @property
    def debian(self) -> Path:
        """The packages that templates can install."""
        return self.state / "debian"

    @property
    def mounts(self) -> Path:
        """Mount points of the images of running qubes."""
        return self.state / "mnt"

    @property
    def records(self) -> Path:
        """One JSON file per running container."""
        return self.state / "containers"

    def disks(self, name: str) -> Path:
        """The disks attached to qube `name`: links to their images."""
        return self.state / "disks" / name

    @property
    def containers_conf(self) -> Path:
        """Podman settings for machines where its defaults don't work; absent elsewhere."""
        return self.state / "containers.conf"

    @property
    def dom0_image(self) -> Path:
        """dom0's root image."""
        return self.state / "dom0.img"

    @property
    def daemon_pid(self) -> Path:
        """The daemon's process id."""
        return self.state / "daemon.pid"

    @property
    def daemon_log(self) -> Path:
        """What the daemon prints."""
        return self.state / "daemon.log"

    def run_dir(self, name: str) -> Path:
        """The folder with the sockets of qube `name`, seen inside as /run/qubes-lab."""
        return self.state / "run" / name

    def container(self, name: str) -> str:
        """The podman name of qube `name`'s container."""
        return f"qubeslab-{self.ident}-{name}"
