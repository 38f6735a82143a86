# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0 for bench/store.py: the lab's qvm-backup, without containers, and one of three scrypts."""

import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from corpus import Volume
from debian import CHECKOUT, MEMORY

for part in (".", "lab", "lab/dom0"):
    sys.path.insert(0, str(CHECKOUT / part))

from qubesadmin import config  # noqa: E402

from testing.lab.system import System  # noqa: E402 -- needs the path
from testing.shim.driver import Root, real_scrypt  # noqa: E402

GUIDE = CHECKOUT / "lab/guide-scrypt"


class LabDom0:
    """A lab with one qube per volume, which are backed up to its qube `backup`.

    Its folder, and so dom0's /tmp, where chunks wait, is in memory as in Qubes.
    """

    def __init__(self, volumes: list[Volume]) -> None:
        """Make and start it; its qubes' private images are links to the volumes' files."""
        self.folder = folder = Path(tempfile.mkdtemp(prefix="bench-", dir=MEMORY))
        config.QUBESD_SOCKET = str(folder / "run/dom0/qubesd.sock")
        config.QREXEC_CLIENT = str(folder / "dom0bin/qrexec-client")
        config.QREXEC_SERVICES_DIR = str(folder / "dom0bin")
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = MEMORY
        try:
            self.system = System(folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before
        root = Root(folder / "shim")
        self.scrypts = {"guide": GUIDE, "ours": root.scrypt, "official": real_scrypt()}
        for volume in volumes:
            qube = self.system.add_qube(volume.name)
            qube.volumes["private"].resize(volume.size)
            image = folder / "qubes/appvms" / volume.name / "private.img"
            image.unlink()
            image.symlink_to(volume.image)

    def backup(
        self,
        scrypt: str,
        destination: str,
        volumes: list[Volume],
        *,
        compress: str | bool = False,
    ) -> float:
        """Back up qubes.

        Args:
            scrypt: `guide`, `ours` or `official`.
            destination: command line that takes the backup.
            volumes: those of the qubes.
            compress: as in a backup profile.

        Returns:
            Seconds.
        """
        self.system.program("scrypt", f'exec {shlex.quote(str(self.scrypts[scrypt]))} "$@"\n')
        names = [volume.name for volume in volumes]
        self.system.profile(destination_path=destination, compression=compress, include=names)
        start = time.perf_counter()
        self.system.backup()
        return time.perf_counter() - start

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.system.close()
