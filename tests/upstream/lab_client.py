# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's client library and qvm-* tools, connected to the lab's qubesd.

Upstream: qubes-core-admin-client. The lab is that of tests/unit/lab_api: the real daemon, with
processes and folders in place of containers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CLIENT = Path(os.environ["QUBES_SRC"]) / "qubes-core-admin-client"
PYTHON = PROJECT / ".venv-upstream/bin/python"
# The lab's own client library has the same name; in this process it is that one.
sys.path[:0] = [str(PROJECT / path) for path in ("lab", "lab/dom0", "tests/unit/lab_api")]

from lab_harness import Lab  # noqa: E402 -- the path above comes first

# The arguments of a tool's parser include the version, from the package's metadata.
METADATA = """\
Metadata-Version: 2.1
Name: qubesadmin
Version: 0
Summary: Qubes administration package
Author: Invisible Things Lab
License: LGPL2.1+
"""
PROGRAM = """\
#!{python}
import runpy, sys
sys.path[:0] = [{metadata!r}, {client!r}]
import qubesadmin, qubesadmin.app, qubesadmin.config
qubesadmin.Qubes = qubesadmin.app.QubesLocal  # as it chooses where /etc/qubes-release exists
{settings}
{run}
"""


class Upstream:
    """Upstream's tools in a lab."""

    def __init__(self, lab: Lab) -> None:
        """Write a program for each tool into the lab's folder."""
        self.lab = lab
        self.folder = lab.state / "upstream"
        metadata = self.folder / "metadata/qubesadmin-0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(METADATA)
        for path in (CLIENT / "qubesadmin/tools").glob("q*.py"):
            module = f"qubesadmin.tools.{path.stem}"
            run = f"from {module} import main\nsys.exit(main())"
            self._program(path.stem.replace("_", "-"), run)
        self._program("python", "exec(sys.stdin.read())")

    def _program(self, name: str, run: str) -> None:
        settings = {
            "QUBESD_SOCKET": str(self.lab.socket("dom0", "qubesd.sock")),
            "QREXEC_CLIENT": str(self.lab.state / "dom0bin/qrexec-client"),
            "QREXEC_SERVICES_DIR": str(self.lab.state / "dom0bin"),
        }
        text = PROGRAM.format(
            python=PYTHON,
            metadata=str(self.folder / "metadata"),
            client=str(CLIENT),
            settings="\n".join(f"qubesadmin.config.{k} = {v!r}" for k, v in settings.items()),
            run=run,
        )
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run(self, *words: str, data: str = "") -> subprocess.CompletedProcess[str]:
        """Run a tool, or `python` with a program on its stdin that finds `qubesadmin`."""
        return run([str(self.folder / words[0]), *words[1:]], data)

    def python(self, program: str) -> str:
        """Run a program that uses the client library, and return what it prints."""
        done = self.run("python", data=program)
        assert done.returncode == 0, done.stderr + self.lab.log()
        return done.stdout


def run(argv: list[str], data: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of dom0."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        argv, check=False, input=data, capture_output=True, text=True, env=environment
    )
