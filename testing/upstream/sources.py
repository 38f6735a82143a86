# SPDX-License-Identifier: GPL-3.0-or-later
"""The checkouts of Qubes OS that these tests run against, and the Python that runs them."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from testing.paths import PROJECT

PYTHON = PROJECT / ".venv-upstream/bin/python"
VARIABLE = "QUBES_SRC"
NAMES = (
    "qubes-core-admin",
    "qubes-core-admin-client",
    "qubes-core-qrexec",
    "qubes-core-agent-linux",
    "qubes-mgmt-salt-base",
    "qubes-mgmt-salt-dom0-qvm",
    "qubes-ansible",
)


@dataclass(frozen=True)
class Sources:
    """Where upstream's code is.

    Attributes:
        checkouts: the folder that QUBES_SRC names; never written to.
        copies: copies of the two checkouts whose package metadata had to be made.
    """

    checkouts: Path
    copies: Path

    @property
    def python_path(self) -> str:
        """PYTHONPATH for upstream's code: `qubes`, its `test-packages`, `qubesadmin`, `qrexec`."""
        admin = self.copies / "qubes-core-admin"
        folders = (
            admin,
            admin / "test-packages",
            self.copies / "qubes-core-admin-client",
            self.checkouts / "qubes-core-qrexec",
        )
        return ":".join(map(str, folders))

    @property
    def admin(self) -> Path:
        """The checkout of qubes-core-admin."""
        return self.checkouts / "qubes-core-admin"

    @property
    def agent(self) -> Path:
        """The checkout of qubes-core-agent-linux."""
        return self.checkouts / "qubes-core-agent-linux"


def missing() -> str:
    """Return what is wrong with QUBES_SRC, empty if nothing."""
    folder = Path(os.environ[VARIABLE])
    absent = [name for name in NAMES if not (folder / name).is_dir()]
    if absent:
        return f"{VARIABLE}={folder} has no checkout of {', '.join(absent)}: see CONTRIBUTING.md"
    if not PYTHON.exists():
        return f"{PYTHON} is missing: run `make test-upstream {VARIABLE}=...`, which makes it"
    return ""


def prepare(folder: Path) -> Sources:
    """Copy to folder what needs package metadata beside it, and make that.

    Upstream finds its kinds of qubes, its extensions and storage drivers through entry points.
    """
    checkouts = Path(os.environ[VARIABLE]).resolve()
    for name in NAMES[:2]:
        ignored = shutil.ignore_patterns(".git", "doc", "tests")
        shutil.copytree(checkouts / name, folder / name, symlinks=True, ignore=ignored)
        has_setup = (folder / name / "setup.py").exists()
        setup = ["setup.py"] if has_setup else ["-c", "import setuptools; setuptools.setup()"]
        command: list[str | Path] = [PYTHON, "-W", "ignore", *setup, "-q", "egg_info"]
        subprocess.run(command, cwd=folder / name, check=True)
    subprocess.run([PYTHON, "-m", "compileall", "-q", folder], check=True)  # read-only later
    return Sources(checkouts, folder)
