# SPDX-License-Identifier: GPL-3.0-or-later
"""The recovery of a restic repository when the power fails during maintenance.

`restic prune` copies what is still needed into new files and removes the old ones; rclone flushes
nothing. So maintenance begins with hard links to all files, in FOLDER/NAME.kept/before.BOOT, and
ends with a flush and their removal. A session that finds such links knows that the one before was
interrupted. With another boot since, new files may be torn: the repository is set back to the
links, and what is new is moved to FOLDER/NAME.kept/torn.BOOT. In the same boot nothing was
lost, and it is flushed.

The links that held_back.py makes can't serve for this: they show the repository as dom0's opening
found it, and runs that were stored between two sessions of that opening would be lost.
"""

import os
import re
import shutil
from pathlib import Path

from dedup_server.errors import StorageError
from dedup_server.folder.files import sync_folder
from dedup_server.folder.links import NO_LINKS, LinkRules, link_tree, list_files
from dedup_server.folder.repository_folder import RepositoryFolder
from dedup_server.notify import notify

_BOOT = Path("/proc/sys/kernel/random/boot_id")  # drivers/char/random.c random_table
_BEFORE = re.compile(r"before\.([0-9a-f-]{36})")
_NEW = "before.new"


def link_all(folder: RepositoryFolder, rules: LinkRules) -> Path | None:
    """Link all files.

    Returns:
        The folder that has them; None where there are no hard links.
    """
    new = folder.state_folder / _NEW
    try:
        link_tree(folder.path, new, rules)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.rmtree(new)
        notify(
            f"{folder.parent} has no hard links, so a power cut during this maintenance can lose"
            " data"
        )
        return None
    folder.flush()
    links = new.with_name(f"before.{_boot()}")
    new.rename(links)
    sync_folder(links.parent)
    return links


def remove(links: Path) -> None:
    """Remove links; what is left when this is interrupted isn't taken for all of them."""
    new = links.with_name(_NEW)
    links.rename(new)
    sync_folder(new.parent)
    shutil.rmtree(new)


def settle(folder: RepositoryFolder, rules: LinkRules) -> None:
    """End maintenance that was interrupted; nobody else may use the repository.

    Raises:
        StorageError: the repository can't be put back as it was.
    """
    if not folder.state_folder.exists():
        return
    if (folder.state_folder / _NEW).exists():
        shutil.rmtree(folder.state_folder / _NEW)
    for links in list(folder.state_folder.iterdir()):
        if match := _BEFORE.fullmatch(links.name):
            if match[1] != _boot():
                _recover(folder, links, folder.state_folder / f"torn.{match[1]}", rules)
            folder.flush()
            remove(links)


def _boot() -> str:
    return _BOOT.read_text(encoding="ascii").strip()


def _recover(folder: RepositoryFolder, links: Path, away: Path, rules: LinkRules) -> None:
    name = folder.repository.name
    try:
        _put_back(links, folder.path, away, rules)
    except OSError as error:
        raise StorageError(
            f"a boot ended maintenance of {name}, and it can't be put back as it was before:"
            f" {error.strerror}"
        ) from None
    notify(f"{name} is as before the maintenance that a boot ended ({away})")


def _put_back(links: Path, path: Path, away: Path, rules: LinkRules) -> None:
    """Make a repository what its links are, and move what else it has away.

    This can be repeated after it was interrupted.
    """
    old, now = _inodes(links, rules), _inodes(path, rules)
    for name in sorted(old):
        if now.get(name) != old[name]:
            new = path / f"{name}.back"
            new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            os.link(links / name, new)
            new.rename(path / name)
    for name in _inodes(path, rules).keys() - old.keys():
        (away / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / name).rename(away / name)


def _inodes(top: Path, rules: LinkRules) -> dict[str, int]:
    return {name: info.st_ino for name, info in list_files(top, rules, strict=True).items()}
