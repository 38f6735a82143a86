# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes and pools; qubesadmin/storage.py."""

from __future__ import annotations

from typing import IO

from qubesadmin import exc
from qubesadmin.base import Value


class Volume:
    """A volume of a qube."""

    def __init__(self, app: Value, vm: str, vm_name: str) -> None:
        """Take the app, the qube's and the volume's name."""
        self.app, self.vm, self.name = app, vm, vm_name

    def _call(
        self, verb: str, payload: bytes | None = None, stream: IO[bytes] | None = None
    ) -> bytes:
        answer: bytes = self.app.qubesd_call(
            self.vm, f"admin.vm.volume.{verb}", self.name, payload, stream
        )
        return answer

    def info(self) -> dict[str, str]:
        """Return everything that qubesd tells about the volume."""
        lines = self._call("Info").decode("ascii").splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def pool(self) -> str:
        """Its pool's name."""
        return self.info()["pool"]

    @property
    def vid(self) -> str:
        """Its name in the pool."""
        return self.info()["vid"]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return int(self.info()["size"])

    @property
    def usage(self) -> int:
        """How many bytes it takes on the disk."""
        return int(self.info()["usage"])

    @property
    def source(self) -> str | None:
        """The volume that it is a snapshot of."""
        return self.info()["source"] or None

    @property
    def save_on_stop(self) -> bool:
        """Whether it outlives the qube's session."""
        return self.info()["save_on_stop"] == "True"

    @property
    def snap_on_start(self) -> bool:
        """Whether it starts as a snapshot of its source."""
        return self.info()["snap_on_start"] == "True"

    @property
    def rw(self) -> bool:
        """Whether the qube may write to it."""
        return self.info()["rw"] == "True"

    @rw.setter
    def rw(self, value: bool) -> None:
        self._call("Set.rw", str(value).encode())

    @property
    def ephemeral(self) -> bool:
        """Whether it is encrypted with a throw-away key."""
        return self.info().get("ephemeral") == "True"

    @ephemeral.setter
    def ephemeral(self, value: bool) -> None:
        self._call("Set.ephemeral", str(value).encode())

    @property
    def revisions_to_keep(self) -> int:
        """How many revisions are kept."""
        return int(self.info()["revisions_to_keep"])

    @revisions_to_keep.setter
    def revisions_to_keep(self, value: int) -> None:
        self._call("Set.revisions_to_keep", str(value).encode())

    @property
    def revisions(self) -> list[str]:
        """The revisions' names, oldest first."""
        return self._call("ListSnapshots").decode("ascii").splitlines()

    def is_outdated(self) -> bool:
        """Tell whether its source has changed since the start."""
        return self.info().get("is_outdated") == "True"

    def resize(self, size: int, *, allow_shrink: bool = False) -> None:
        """Change the size, in bytes.

        Raises:
            StoragePoolException: it would shrink.
        """
        current = self.size
        if size < current and not allow_shrink:
            raise exc.StoragePoolException(
                f"Refusing to shrink volume {self.vm}:{self.name} from {current} to {size} bytes."
            )
        self._call("Resize", str(size).encode())

    def revert(self, revision: str) -> None:
        """Go back to a revision."""
        self._call("Revert", revision.encode())

    def import_data(self, stream: IO[bytes]) -> None:
        """Replace the data by what the stream holds: exactly the volume's size; closes it."""
        self._call("Import", stream=stream)

    def import_data_with_size(self, stream: IO[bytes], size: int) -> None:
        """Replace the data by `size` bytes of a stream; closes it."""
        self._call("ImportWithSize", payload=f"{size}\n".encode(), stream=stream)

    def clear_data(self) -> None:
        """Make it empty."""
        self._call("Clear")

    def clone(self, source: Volume) -> None:
        """Replace the data by that of another qube's volume."""
        self._call("CloneTo", payload=source._call("CloneFrom"))

    def __lt__(self, other: Volume) -> bool:
        """Order by qube and name."""
        return (self.vm, self.name) < (other.vm, other.name)

    def __eq__(self, other: object) -> bool:
        """Compare what the volumes are in their pool."""
        if not isinstance(other, Volume):
            return NotImplemented
        return (self.pool, self.vid) == (other.pool, other.vid)

    def __hash__(self) -> int:
        """Hash qube and name."""
        return hash((self.vm, self.name))


class Pool:
    """A storage pool."""

    def __init__(self, app: Value, name: str) -> None:
        """Take the app and the name."""
        self.app, self.name = app, name

    @property
    def config(self) -> dict[str, str]:
        """Its configuration."""
        answer = self.app.qubesd_call("dom0", "admin.pool.Info", self.name).decode()
        return dict(line.split("=", 1) for line in answer.splitlines())

    @property
    def driver(self) -> str:
        """Its driver's name."""
        return self.config["driver"]

    def __str__(self) -> str:
        """Return the name."""
        return self.name
