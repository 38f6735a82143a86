# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0 for bench/store.py: Qubes' own code, from the checkouts in QUBES_SRC (testing/upstream)."""

import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from corpus import Volume
from debian import MEMORY
from lab_dom0 import GUIDE

from testing.upstream import dom0, sources

SCRYPT = "/usr/bin/scrypt"


class UpstreamDom0:
    """A machine with one qube per volume, which are backed up to its backup qube.

    Volumes are read from files that aren't called private.img, and so by upstream's tarwriter, as
    volumes on LVM or ZFS are. Its folder, and so dom0's /tmp, where chunks wait, is in memory.
    """

    def __init__(self, volumes: list[Volume], shared: Path) -> None:
        """Make and start it.

        Args:
            volumes: of the qubes, below shared.
            shared: what the commands that take backups may write to.

        Raises:
            SystemExit: QUBES_SRC, or the environment for its code, isn't complete.
        """
        if problem := sources.missing():
            raise SystemExit(problem)
        self._ends = ExitStack()
        self._volumes = volumes
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=MEMORY))
        self._ends.callback(shutil.rmtree, folder)
        try:
            checkouts = sources.prepare(folder / "sources")
            machine = dom0.new_dom0(folder / "machine", checkouts, shared)
            self._dom0 = self._ends.enter_context(machine)
            self._make_qubes(folder)
        except BaseException:
            self._ends.close()
            raise

    def _make_qubes(self, folder: Path) -> None:
        qubes = []
        for volume in self._volumes:
            blank = folder / "machine" / volume.image.name
            with blank.open("wb") as file:
                file.truncate(volume.size)
            qubes.append(dom0.Qube(volume.name, volumes={"private": str(blank)}))
        self._dom0.make(qubes)
        self._dom0.start()
        for volume in self._volumes:
            self._dom0.export(volume.name, str(volume.image))

    def backup(
        self,
        scrypt: str,
        destination: str,
        volumes: list[Volume],
        *,
        compress: str | bool = False,
    ) -> float:
        """Back up qubes; see LabDom0."""
        names = [volume.name for volume in volumes]
        with ExitStack() as ends:
            if scrypt != "ours":
                self._dom0.remove_shim()
                ends.callback(self._dom0.install_shim)
            if scrypt == "guide":
                self._dom0.machine.run("mount", "--bind", GUIDE, SCRYPT)
                ends.callback(self._dom0.machine.run, "umount", SCRYPT)
            # A repository belongs to who runs the benchmark.
            where = f"sudo {destination}"
            start = time.perf_counter()
            self._dom0.backup(*names, to=where, qube=dom0.QUBE, compress=compress)
            return time.perf_counter() - start

    def close(self) -> None:
        """Stop it and remove its folder."""
        self._dom0.stop()
        self._ends.close()


def asked_for() -> bool:
    """Return whether Qubes' own code makes the backups."""
    return bool(os.environ.get(sources.VARIABLE))


def version() -> str:
    """Return the version of Qubes' code."""
    name = sources.NAMES[0]
    found = Path(os.environ[sources.VARIABLE], name, "version").read_text()
    return f"{name} {found.strip()}"
