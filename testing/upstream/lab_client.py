# SPDX-License-Identifier: GPL-3.0-or-later
"""A dom0 with upstream's client library and qvm-* tools, whose qubesd is the lab's.

The lab is that of testing/lab/harness.py: the real daemon, with processes and folders in place of
containers. It runs outside the machine (machine.py); in there its socket, its two services that
take data on stdin and its qrexec-client are where upstream's have theirs.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testing.lab.harness import Lab
from testing.upstream.dom0 import Dom0
from testing.upstream.sources import PYTHON, Sources

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class LabDom0:
    """The machine, and the lab that is its qubesd.

    Attributes:
        dom0: the machine.
        lab: the lab.
        client: upstream's client library, as a folder for PYTHONPATH.
    """

    dom0: Dom0
    lab: Lab
    client: Path

    def upstream(self, *words: str, data: str = "") -> Done:
        """Run one of upstream's tools."""
        return self._run(*words, data=data)

    def ours(self, *words: str, data: str = "") -> Done:
        """Run the lab's stand-in for a tool."""
        return self._run(*self.lab.dom0_command(*words), data=data)

    def python(self, program: str) -> str:
        """Run a program that uses upstream's client library, and return what it prints."""
        done = self._run(str(PYTHON), "-", data=program)
        assert done.returncode == 0, done.stderr + self.lab.log()
        return str(done.stdout)

    def _run(self, *words: str, data: str) -> Done:
        # Without the `qubesdb` of qubes-core-admin's test-packages, which isn't like the real one.
        path = f"PYTHONPATH={self.client}"
        return self.dom0.machine.run("env", path, *words, check=False, input=data)


@contextlib.contextmanager
def lab_dom0(dom0: Dom0, sources: Sources) -> Iterator[LabDom0]:
    """Start a lab, and let it be the qubesd of a dom0 that hasn't started one."""
    # pytest's own folders have names too long for a socket's path.
    state = Path(tempfile.mkdtemp(prefix="lab"))
    lab = Lab(state)
    links = {
        "/run/qubesd.sock": lab.socket("dom0", "qubesd.sock"),
        "/run/qubesd.internal.sock": lab.socket("dom0", "qubesd.internal.sock"),
        "/usr/lib/qubes/qrexec-client": state / "dom0bin/qrexec-client",
        "/etc/qubes-rpc/admin.vm.volume.Import": state / "dom0bin/admin.vm.volume.Import",
        "/etc/qubes-rpc/admin.vm.volume.ImportWithSize": (
            state / "dom0bin/admin.vm.volume.ImportWithSize"
        ),
    }
    try:
        for path, target in links.items():
            link = dom0.machine.path(path)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        # Cloning a qube calls it; it is part of qubes-desktop-linux-common.
        dom0.machine.run("ln", "-s", "/bin/true", "/usr/bin/qvm-appmenus")
        yield LabDom0(dom0, lab, sources.copies / "qubes-core-admin-client")
    finally:
        lab.close()
        shutil.rmtree(state)
