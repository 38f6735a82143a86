# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of bench/store.py: first backup, unchanged, restore, days of changes, prune.

Each fills its place in the raw data: `rounds`, `days` and `last`.
"""

import subprocess
from pathlib import Path
from typing import Any

import corpus
import timing
from contenders import Contender
from corpus import Volume
from debian import Debian
from lab_dom0 import LabDom0
from timing import say, settle
from upstream_dom0 import UpstreamDom0, asked_for
from wyng import Wyng

Data = dict[str, Any]
NAMES = (
    "guide-restic",
    "guide-borg",
    "ours-restic",
    "ours-borg",
    "ours-borg-small",
    "ours-directory",
    "raw-restic",
    "raw-borg",
    "raw-borg-small",
)
# Those whose times targets compare; the others take part in the first round only.
JUDGED = ("guide-restic", "guide-borg", "ours-restic", "ours-borg")
RESTORED = "restored.img"
Dom0 = LabDom0 | UpstreamDom0


def new_dom0(volumes: list[Volume], shared: Path) -> Dom0:
    """Start a dom0 with one qube per volume; shared is a folder that their backups may write to."""
    return UpstreamDom0(volumes, shared) if asked_for() else LabDom0(volumes)


class Backup:
    """A contender at work on the corpus: the interface for the stages."""

    def __init__(self, contender: Contender, volumes: list[Volume], dom0: Dom0) -> None:
        self.name = contender.name
        self.contender = contender
        self._volumes = volumes
        self._dom0 = dom0

    def make(self) -> None:
        """Make an empty repository."""
        self.contender.make()

    def store(self) -> float:
        """Make a backup; give the seconds."""
        if self.contender.kind == "raw":
            return timing.store_images(self.contender, self._volumes)
        settle()
        return self._dom0.backup(self.contender.kind, self.contender.line(), self._volumes)

    def restore(self) -> tuple[float, int]:
        """Read the newest backup; give the seconds, and the bytes that it has."""
        if self.contender.kind != "raw":
            return timing.restore(self.contender)
        parts = [timing.restore(self.contender, volume.name) for volume in self._volumes]
        return sum(seconds for seconds, _ in parts), sum(length for _, length in parts)

    def size(self) -> int:
        """Return the bytes that the repository takes."""
        return self.contender.size()

    def verify_pruned(self, copy: Path) -> int:
        """Make one more backup, with a copy; prune; what comes back must be equal to the copy.

        Not for the images, which take no part in the last days.

        Args:
            copy: a file for the copy.

        Returns:
            The repository's size after that prune.
        """
        self._dom0.backup(self.contender.kind, self.contender.line(copy), self._volumes)
        self.contender.prune()
        size = self.size()
        timing.compare(self.contender, copy)
        copy.unlink()
        return size

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


class WyngBackup:
    """wyng at work on the corpus (see Backup)."""

    name = "wyng"

    def __init__(self, program: str, volumes: list[Volume], folder: Path) -> None:
        """Take the program, and what it stores; folder will have its archive."""
        self._program = program
        self._volumes = volumes
        self._folder = folder
        self._wyng: Wyng | None = None

    @property
    def wyng(self) -> Wyng:
        """The archive."""
        assert self._wyng is not None  # noqa: S101 -- made before
        return self._wyng

    def make(self) -> None:
        """Make an empty archive."""
        self.close()
        self._wyng = Wyng(self._program, self._volumes[0].image.parent, self._folder)

    def store(self) -> float:
        """Send all volumes; give the seconds."""
        settle()
        return self.wyng.send(self._volumes)

    def restore(self) -> tuple[float, int]:
        """Receive all volumes, each into a file; give the seconds, and their sizes."""
        seconds, length = 0.0, 0
        target = self._folder / RESTORED
        for volume in self._volumes:
            settle()
            seconds += self.wyng.receive(volume, target)
            length += target.stat().st_size
            if not timing.same(target, volume.image):
                raise SystemExit(f"wyng gave back another {volume.name} than was stored")
            target.unlink()
        return seconds, length

    def size(self) -> int:
        """Return the bytes that the archive takes."""
        return self.wyng.size()

    def verify_pruned(self, copy: Path) -> int:
        """Prune; what comes back must be equal to the volumes; give the size (see Backup)."""
        del copy  # needed for streams only
        self.wyng.prune()
        size = self.size()
        self.restore()
        return size

    def close(self) -> None:
        """Remove its snapshots."""
        if self._wyng:
            self._wyng.close()
            self._wyng = None


class Bench:
    """A corpus, dom0, and all contenders."""

    def __init__(self, folder: Path, qube: Debian, gib: float, wyng: str | None) -> None:
        """Make all of it in a folder.

        Args:
            folder: where, with `btrfs/` a file system of its own, and `plain/` another.
            qube: where the backup qube's programs run.
            gib: size of the largest volume.
            wyng: its program, or None.
        """
        self.folder = folder
        self.qube = qube
        self.program = wyng
        place = folder / "btrfs/volumes"
        subprocess.run(["btrfs", "-q", "subvolume", "create", place], check=True)
        say(f"making a corpus, its largest volume of {gib:.1f} GiB")
        self.volumes = corpus.build(place, gib)
        self.dom0 = new_dom0(self.volumes, folder)
        self.backups: list[Backup | WyngBackup] = []
        self.contenders = {
            name: Contender(name, folder / ("plain" if name.endswith("directory") else name), qube)
            for name in NAMES
        }
        for name in NAMES:
            if not name.startswith("ours-"):
                engine = self.contenders[name].engine
                self.contenders[name].like = self.contenders[f"ours-{engine}"]
        for contender in self.contenders.values():
            self.backups.append(Backup(contender, self.volumes, self.dom0))
        if wyng:
            self.backups.append(WyngBackup(wyng, self.volumes, folder / "wyng"))

    def rounds(self, count: int, data: Data) -> None:
        """First backup, one of the same, restore; contenders in turn, in each round (JUDGED)."""
        data["rounds"] = []
        for number in range(count):
            found: dict[str, Data] = {}
            data["rounds"].append(found)
            backups = [one for one in self.backups if number == 0 or one.name in JUDGED]
            for backup in sorted(backups, key=lambda one: not one.name.startswith("ours")):
                backup.make()
            for backup in backups:
                say(f"round {number + 1} of {count}: {backup.name}")
                row: Data = {"first": backup.store(), "size_first": backup.size()}
                row |= {"unchanged": backup.store(), "size_unchanged": backup.size()}
                row["restore"], row["sent"] = backup.restore()
                found[backup.name] = row

    def days(self, count: int, data: Data) -> None:
        """Store a backup after each day's changes; then restore, and prune all but the last.

        The engines alone take part in the first of the days only.
        """
        others = [backup for backup in self.backups if not backup.name.startswith("raw-")]
        days: dict[str, list[Data]] = {backup.name: [] for backup in self.backups}
        for day in range(1, count + 1):
            say(f"day {day} of {count}")
            corpus.live_a_day(self.volumes, day)
            for backup in self.backups if day == 1 else others:
                days[backup.name].append({"seconds": backup.store(), "size": backup.size()})
        data["days"], data["last"] = days, {}
        for backup in others:
            say(f"restore, prune, comparison: {backup.name}")
            row: Data = {}
            row["restore"], row["sent"] = backup.restore()
            row["pruned"] = backup.verify_pruned(self.folder / "copy")
            data["last"][backup.name] = row

    def close(self) -> None:
        """Stop dom0, and remove wyng's snapshots."""
        self.dom0.close()
        for backup in self.backups:
            backup.close()
