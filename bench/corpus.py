# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus of bench/store.py: volumes with real files, and what a day changes in them."""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = ("/usr/share", "/usr/lib")
MIB = 1 << 20
DATABASE = "database"
PAGE = 8192
BLOCK = 4096
WRITE = 100 * 1000  # bytes of one scattered write


@dataclass(frozen=True)
class Volume:
    """A qube's private volume.

    Attributes:
        name: of the qube.
        image: the file.
        size: of the file, in bytes.
        content: bytes of files in it, at the beginning.
    """

    name: str
    image: Path
    size: int
    content: int


def build(folder: Path, total: int) -> list[Volume]:
    """Make three volumes, ext4 with files of this machine's packages.

    Args:
        folder: where.
        total: bytes of files in all of them; the first has two thirds.
    """
    files = _files()
    volumes = []
    for name, share in (("work", 4), ("personal", 1), ("mail", 1)):
        content = total * share // 6
        size = max(64 * MIB, (content * 3 // 2) // MIB * MIB)
        volumes.append(Volume(name, folder / f"{name}.img", size, content))
        _make(volumes[-1], files)
    return volumes


def _files() -> Iterator[Path]:
    """This machine's files, in an order that is the same each time, large and small mixed."""
    found = []
    for source in SOURCES:
        for base, folders, names in os.walk(source):
            folders.sort()
            for name in names:
                path = Path(base, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 64 * MIB:
                    found.append(path)
    found.sort()
    random.Random(1).shuffle(found)  # noqa: S311 (no secret)
    return iter(found)


def _make(volume: Volume, files: Iterator[Path]) -> None:
    rng = random.Random(volume.name)  # noqa: S311 (no secret)
    with tempfile.TemporaryDirectory(dir=volume.image.parent) as temporary:
        root = Path(temporary)
        database = volume.content // 12
        with (root / DATABASE).open("wb") as file:
            for _ in range(0, database, PAGE):
                file.write(_page(rng))
        used = database
        for number, path in enumerate(files):
            if used >= volume.content:
                break
            if path.stat().st_size > volume.content // 10:
                continue
            target = root / f"files/{number // 500}/{number}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            used += path.stat().st_size
        with volume.image.open("wb") as file:
            file.truncate(volume.size)
        command = ["mkfs.ext4", "-q", "-m", "0", "-d", temporary, str(volume.image)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _page(rng: random.Random) -> bytes:
    """A database's page: half of it compresses."""
    return rng.randbytes(PAGE // 4) + bytes(range(256)) * (PAGE // 512) + rng.randbytes(PAGE // 4)


@contextmanager
def mounted(volume: Volume) -> Iterator[Path]:
    """Mount a volume; it is unmounted whatever happens."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-o", "loop", volume.image, place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def live_a_day(volumes: list[Volume], day: int) -> None:
    """Change the volumes as a day's work does, in proportion to what is in them.

    Logs grow, pages of a database are rewritten, files come and go: about 2 % of the content.
    """
    for volume in volumes:
        rng = random.Random(f"{volume.name} {day}")  # noqa: S311 (no secret)
        with mounted(volume) as root:
            unit = volume.content // 100
            with (root / "log").open("ab") as file:
                for _ in range(unit // 10 // 64):
                    file.write(f"day {day}: {rng.random()} {rng.random()} nothing else\n".encode())
            with (root / DATABASE).open("r+b") as file:
                pages = file.seek(0, os.SEEK_END) // PAGE
                for _ in range(max(1, unit // 5 // PAGE)):
                    file.seek(rng.randrange(pages) * PAGE)
                    file.write(_page(rng))
            old = sorted((root / "files").rglob("*-*"))
            for path in rng.sample(old, len(old) // 200):
                path.unlink()
            new = root / f"day{day}"
            new.mkdir()
            for number in range(20):
                (new / str(number)).write_bytes(
                    rng.randbytes(unit // 40) + b"text " * (unit // 200)
                )


def scatter(volume: Volume, total: int) -> None:
    """Write random bytes at random places of a volume's image, 100 kB each, total in all."""
    rng = random.Random(7)  # noqa: S311 (no secret)
    with volume.image.open("r+b") as file:
        for _ in range(total // WRITE):
            file.seek(rng.randrange(volume.size // BLOCK - WRITE // BLOCK - 1) * BLOCK)
            file.write(rng.randbytes(WRITE))
