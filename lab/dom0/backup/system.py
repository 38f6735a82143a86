# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are in dom0, and what all modules here use.

All paths are under a root: "/" when the package lies anywhere but in a dist-packages folder, else
the folder that holds its `usr/lib/python3/dist-packages`. So a whole dom0 can stand in any folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from qubesadmin.exc import QubesException

_PACKAGES = Path("usr/lib/python3/dist-packages")


def root_of(package: Path) -> Path:
    """Return the root for a package folder such as ROOT/usr/lib/python3/dist-packages/qubes."""
    depth = len(_PACKAGES.parts)
    if len(package.parts) > depth + 1 and package.parent.parts[-depth:] == _PACKAGES.parts:
        return package.parents[depth]
    return Path("/")


ROOT = root_of(Path(__file__).absolute().parent)

# qubes-core-admin qubes/config.py backup_profile_dir.
PROFILE_DIR = ROOT / "etc/qubes/backup"
# qubes-core-admin-client qubesadmin/backup/restore.py _start_retrieval_process.
QFILE_UNPACKER = ROOT / "usr/libexec/qubes/qfile-dom0-unpacker"

Opened = TypeVar("Opened")


def opened(thing: Opened | None) -> Opened:
    """Return something that is known to be there, such as a pipe that was asked for.

    Raises:
        RuntimeError: it isn't.
    """
    if thing is None:
        raise RuntimeError("a pipe or process that should be there isn't")
    return thing


def problem(text: str) -> QubesException:
    """Return the client library's exception with a text that isn't a format."""
    return QubesException(text.replace("%", "%%"))
