# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a backup holds, and the table that qvm-backup shows of them.

Stands in for get_files_to_backup and get_backup_summary of qubes-core-admin qubes/backup.py.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .inventory import Qube
from .system import problem

COLUMNS = (("VM", 16), ("type", 12), ("size", 12))
DOM0_HOME = "dom0-home/"


@dataclass(frozen=True)
class Item:
    """One file, or dom0's home folder.

    Attributes:
        path: where it is.
        folder: its folder in the archive, with a slash at the end, or "".
        name: its name in the archive.
        size: bytes on disk.
        volume: it is a qube's volume, which isn't archived by GNU tar. In Qubes that is so for
            block devices (LVM thin, the default); the lab does it for its image files.
    """

    path: Path
    folder: str
    name: str
    size: int
    volume: bool = False


@dataclass
class Part:
    """What is stored of one qube.

    Attributes:
        qube: the qube.
        path: its folder as qubes.xml tells it.
        items: its files.
    """

    qube: Qube
    path: str
    items: list[Item] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(item.size for item in self.items)


def disk_usage(path: Path) -> int:
    """Return the bytes a file, or a folder with all in it, takes on disk; 0 if it isn't there.

    Stands in for qubes-core-admin qubes/storage/file.py get_disk_usage.
    """
    try:
        total = os.lstat(path).st_blocks
    except OSError:
        return 0
    for folder, folders, files in os.walk(path):
        total += sum(os.lstat(Path(folder, name)).st_blocks for name in folders + files)
    return total * 512


def _qube_part(qube: Qube, empty: Path) -> Part:
    folder = f"vm{qube.qid}/"
    part = Part(qube, folder)
    for volume in qube.volumes:
        if volume.save_on_stop:
            part.items.append(
                Item(Path(volume.path), folder, f"{volume.name}.img", volume.usage, volume=True)
            )
    for name in ("firewall.xml", "notes.txt"):
        if qube.folder is not None and (path := qube.folder / name).exists():
            part.items.append(Item(path, folder, name, disk_usage(path)))
    if not part.items:
        part.items.append(Item(empty, folder, empty.name, 0))
    return part


def local_user() -> str:
    """Return dom0's user.

    Raises:
        QubesException: there is none.
    """
    try:
        return grp.getgrnam("qubes").gr_mem[0]
    except (KeyError, IndexError) as error:
        raise problem("dom0 has no user: no group qubes with a member") from error


def _dom0_part(qube: Qube) -> Part:
    """Return dom0's home, after giving all in it to its user, as upstream does.

    (Upstream's check that it isn't stored into itself can't match when it is called by qubesd.)
    """
    user = local_user()
    home = Path(pwd.getpwnam(user).pw_dir)
    subprocess.run(["sudo", "chown", "-R", user, str(home)], check=True)
    return Part(qube, DOM0_HOME + home.name, [Item(home, DOM0_HOME, home.name, disk_usage(home))])


def files_to_backup(selected: Iterable[Qube], empty: Path) -> dict[int, Part]:
    """Return what to store, by qid, dom0 last.

    Args:
        selected: the qubes, in the order in which they shall be stored.
        empty: an empty file named `empty`, to stand for a qube without files.

    Raises:
        QubesException: dom0 has no user.
    """
    parts = {}
    dom0 = None
    for qube in selected:
        if qube.qid == 0:
            dom0 = qube
        else:
            parts[qube.qid] = _qube_part(qube, empty)
    if dom0 is not None:
        parts[0] = _dom0_part(dom0)
    return parts


def size_to_human(size: int) -> str:
    """Return a size with one decimal (qubes-core-admin qubes/utils.py size_to_human)."""
    if size < 1024:
        return str(size)
    for exponent, unit in ((1, "KiB"), (2, "MiB")):
        if size < 1024 ** (exponent + 1):
            return f"{round(size / 1024**exponent, 1)} {unit}"
    return f"{round(size / 1024**3, 1)} GiB"


def _row(*cells: str) -> str:
    return "".join(
        f"{cell:>{width + 1}} |" for cell, (_, width) in zip(cells, COLUMNS, strict=True)
    )


def _kind(qube: Qube) -> str:
    if qube.qid == 0:
        return "User home"
    if qube.klass == "TemplateVM":
        return "Template VM"
    return "VM + Sys" if qube.updateable else "VM"


def _remark(qube: Qube) -> str:
    if qube.qid == 0 or not qube.vm.is_running():
        return ""
    if any(volume.snapshots_disabled for volume in qube.volumes):
        return " <-- The VM is running and private volume snapshots are disabled. Backup will fail!"
    return " <-- The VM is running, backup will contain its state from before its start!"


def summary(parts: Mapping[int, Part], qubes: Sequence[Qube], selected: set[int]) -> str:
    """Return the table of what will be stored, and the names of the other qubes.

    Args:
        parts: what to store.
        qubes: all qubes.
        selected: the qids of those that are to be stored.
    """
    rule = "".join(f"{'-':-^{width + 1}}-+" for _, width in COLUMNS)
    lines = [rule, _row(*(name for name, _ in COLUMNS)), rule]
    for part in parts.values():
        row = _row(part.qube.name, _kind(part.qube), size_to_human(part.size))
        lines.append(row + _remark(part.qube))
    (_, first), (_, second), (_, third) = COLUMNS
    total = size_to_human(sum(part.size for part in parts.values()))
    wide = second + 1 + 2 + third + 1
    lines += [rule, f"{'Total size:':>{first + 1}} |{total:>{wide}} |", rule]
    others = sorted(qube.name for qube in qubes if qube.qid not in selected)
    lines.append("VMs not selected for backup:\n - " + "\n - ".join(others))
    return "\n".join(lines) + "\n"
