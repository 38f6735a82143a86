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
WRITE = 100_000  # bytes of one scattered write
LARGE = "standalone"
SMALL = ("work", "personal", "mail", "vault")
TINY = 10_000_000  # bytes of files in each of many small volumes


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


def build(folder: Path, gib: float) -> list[Volume]:
    """Make five volumes, ext4 with files of this machine's packages.

    Args:
        folder: where.
        gib: size of the large one; it has two thirds of all content. The others are for an eighth
            of it each.
    """
    size = int(gib * 1024) * MIB
    files = _files()
    volumes = [Volume(LARGE, folder / f"{LARGE}.img", size, size * 2 // 5)]
    for name in SMALL:
        small = max(size // 8, 16 * MIB)
        volumes.append(Volume(name, folder / f"{name}.img", small, size // 20))
    for volume in volumes:
        _make(volume, files)
    return volumes


def build_many(folder: Path, count: int) -> list[Volume]:
    """Make small volumes, which have no file in common."""
    files = _files()
    names = [f"qube{number:02}" for number in range(1, count + 1)]
    volumes = [Volume(name, folder / f"{name}.img", 32 * MIB, TINY) for name in names]
    for volume in volumes:
        _make(volume, files)
    return volumes


def _files() -> Iterator[Path]:
    """Return this machine's files, large and small mixed, in the same order each time."""
    found = []
    for source in SOURCES:
        for base, folders, names in os.walk(source):
            folders.sort()
            for name in names:
                path = Path(base, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 64 * MIB:
                    found.append(path)
    found.sort()
    random.Random(1).shuffle(found)  # noqa: S311 -- no secret
    return iter(found)


def _make(volume: Volume, files: Iterator[Path]) -> None:
    rng = random.Random(volume.name)  # noqa: S311 -- no secret
    with tempfile.TemporaryDirectory(dir=volume.image.parent) as temporary:
        root = Path(temporary)
        database = volume.content // 8
        with (root / DATABASE).open("wb") as file:
            for _ in range(0, database, PAGE):
                file.write(_page(rng))
        used = database
        for number, path in enumerate(files):
            if used >= volume.content:
                break
            size = path.stat().st_size
            if size > volume.content // 10:
                continue
            target = root / f"files/{number // 500}/{number}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            used += size
        with volume.image.open("wb") as file:
            file.truncate(volume.size)
        command = ["mkfs.ext4", "-q", "-m", "0", "-b", "4096", "-d", temporary, str(volume.image)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _page(rng: random.Random) -> bytes:
    """Return a page of a database; half of it compresses."""
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

    Logs grow, pages of a database are rewritten, files come and go: about 1.5 % of the content.
    """
    for volume in volumes:
        rng = random.Random(f"{volume.name} {day}")  # noqa: S311 -- no secret
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
    """Write total random bytes: half of it 100 kB each in places all over its files, half a file.

    The same as was done for the first figures of wyng, restic and borg, which the targets cite.
    """
    rng = random.Random(7)  # noqa: S311 -- no secret
    with mounted(volume) as root:
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        files = [path for path in files if path.stat().st_size >= 2 * WRITE]
        weights = [path.stat().st_size for path in files]
        for path in rng.choices(files, weights, k=total // 2 // WRITE):
            with path.open("r+b") as file:
                file.seek(rng.randrange(path.stat().st_size - WRITE))
                file.write(rng.randbytes(WRITE))
        (root / "new").write_bytes(rng.randbytes(total // 2))
