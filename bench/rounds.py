# SPDX-License-Identifier: GPL-3.0-or-later
"""What bench/store.py measures, part by part; each fills its place in the raw data."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
from contenders import CHUNKS, Contender
from corpus import Volume
from dom0 import Dom0
from wyng import Wyng

Data = dict[str, Any]
NAMES = [
    *("guide-restic", "guide-borg"),
    *("ours-restic", "ours-borg", "ours-borg-small", "ours-directory"),
    *("raw-restic", "raw-borg", "raw-borg-small"),
]
SCATTERED = ("guide-borg", "ours-restic", "ours-borg", "ours-borg-small", "raw-restic")
SETTINGS = {
    "borg": [
        *("", 'compression = "lz4"', 'compression = "zstd,1"', 'compression = "zstd,6"'),
        *('chunks = "large"', 'chunks = "small"'),
    ],
    "restic": ["", 'compression = "off"', 'compression = "max"', "pack_size = 64"],
}
CHANGED = 20_000_000  # bytes of the scattered changes


def settle() -> None:
    """Let what was written before not be in the way of what is timed next."""
    os.sync()


class Bench:
    """A corpus, dom0, and all contenders."""

    def __init__(self, folder: Path, total: int, wyng: str | None) -> None:
        """Make all of it in an empty folder; volumes is a Btrfs subvolume in it.

        Args:
            folder: where, with `btrfs/` a file system of its own, and `plain/` another.
            total: bytes of files in the corpus.
            wyng: its program, or None.
        """
        self.folder = folder
        self.place = folder / "btrfs/volumes"
        subprocess.run(["btrfs", "-q", "subvolume", "create", self.place], check=True)
        say(f"making a corpus of {total / 1e9:.1f} GB")
        self.volumes = corpus.build(self.place, total)
        self.dom0 = Dom0(folder / "d", self.volumes)
        self.contenders = [
            Contender(name, folder / ("plain" if name.endswith("directory") else name))
            for name in NAMES
        ]
        self._program = wyng
        self.wyng: Wyng | None = None

    def store(self, contender: Contender) -> float:
        """Make a backup; give the seconds."""
        settle()
        if contender.kind != "raw":
            return self.dom0.backup(contender.kind, contender.line())
        return store_images(contender, self.volumes)

    def rounds(self, count: int, data: Data) -> None:
        """First backup, one of the same, restore; all contenders in turn, in each round."""
        data["rounds"] = []
        for number in range(count):
            found: dict[str, Data] = {}
            data["rounds"].append(found)
            for contender in self.contenders:
                say(f"round {number + 1} of {count}: {contender.name}")
                contender.make()
                empty = contender.size() if contender.engine == "directory" else 0
                row: Data = {"first": self.store(contender)}
                row["size_first"] = contender.size() - empty
                row["unchanged"] = self.store(contender)
                row["size_unchanged"] = contender.size() - empty
                if contender.kind != "raw":
                    row["restore"], row["restored"] = restore(contender)
                row["empty"] = empty
                found[contender.name] = row
            if self._program:
                say(f"round {number + 1} of {count}: wyng")
                names = [volume.image.name for volume in self.volumes]
                if self.wyng:
                    self.wyng.close()
                self.wyng = Wyng(self._program, self.place, self.folder / "wyng")
                settle()
                row = {"first": self.wyng.send(names), "size_first": self.wyng.size()}
                settle()
                row |= {"unchanged": self.wyng.send(names), "size_unchanged": self.wyng.size()}
                found["wyng"] = row

    def official(self, data: Data) -> None:
        """The official tool with the real scrypt."""
        data["official"] = {}
        for name, compress in (("none", False), ("gzip", "gzip")):
            say(f"official tool, real scrypt, compression: {name}")
            archive = self.folder / "archive"
            settle()
            destination = f"dd bs=1M status=none of={archive}"
            seconds = self.dom0.backup("official", destination, compress=compress)
            data["official"][name] = {"seconds": seconds, "bytes": archive.stat().st_size}
            archive.unlink()

    def days(self, count: int, data: Data) -> None:
        """A day's changes, and a backup, each day; then a restore, then all but the last go."""
        data["days"] = {}
        for day in range(1, count + 1):
            say(f"day {day} of {count}")
            corpus.live_a_day(self.volumes, day)
            for contender in self.contenders:
                seconds = self.store(contender)
                empty = data["rounds"][-1][contender.name]["empty"]
                row = {"seconds": seconds, "size": contender.size() - empty}
                data["days"].setdefault(contender.name, []).append(row)
            if self.wyng:
                settle()
                seconds = self.wyng.send([volume.image.name for volume in self.volumes])
                row = {"seconds": seconds, "size": self.wyng.size()}
                data["days"].setdefault("wyng", []).append(row)
        data["last"] = {}
        for contender in self.contenders:
            row = {}
            if contender.kind != "raw":
                row["restore"], row["restored"] = restore(contender)
            contender.prune()
            row["pruned"] = contender.size() - data["rounds"][-1][contender.name]["empty"]
            data["last"][contender.name] = row

    def scattered(self, data: Data) -> None:
        """About 20 MB of scattered writes in one large volume, through the official archive."""
        large = self.volumes[0]
        folder = self.folder / "s"
        folder.mkdir()
        dom0 = Dom0(folder, [large])
        found: Data = {"image": large.size, "changed": CHANGED}
        data["scattered"] = found
        takers = [Contender(name, self.folder / f"scattered-{name}") for name in SCATTERED]
        wyng = None
        if self._program:
            if self.wyng:
                self.wyng.close()
            wyng = Wyng(self._program, self.place, self.folder / "wyng2")

        def sizes(key: str) -> None:
            for taker in takers:
                say(f"scattered changes, {key}: {taker.name}")
                if taker.kind == "raw":
                    store_images(taker, [large])
                else:
                    dom0.backup(taker.kind, taker.line())
                found.setdefault(taker.name, {})[key] = taker.size()
            if wyng:
                wyng.send([large.image.name])
                found.setdefault("wyng", {})[key] = wyng.size()

        try:
            for taker in takers:
                taker.make()
            sizes("first")
            corpus.scatter(large, CHANGED)
            sizes("second")
        finally:
            dom0.close()

    def engines(self, count: int, data: Data) -> None:
        """Time put and get against the engine alone, with the same bytes from a file."""
        stream = self.folder / "stream"
        self.dom0.backup("ours", f"dd bs=1M status=none of={stream}")
        data["sent"] = stream.stat().st_size
        data["engines"] = {}
        for engine in ("restic", "borg"):
            found: dict[str, list[float]] = {}
            data["engines"][engine] = found
            for number in range(count):
                say(f"{engine} alone, round {number + 1} of {count}")
                for name in (f"raw-{engine}", f"ours-{engine}"):
                    taker = Contender(name, self.folder / f"engine-{name}")
                    taker.make()
                    what = ("put", "get") if taker.kind == "ours" else ("store", "dump")
                    found.setdefault(what[0], []).append(feed(taker, stream))
                    seconds, length = restore(taker)
                    found.setdefault(what[1], []).append(seconds)
                    if length != data["sent"]:
                        raise SystemExit(f"{name} gave back {length} bytes")
                    if taker.kind == "ours" and number == 0:
                        compare(taker, stream)
        self._settings(stream, data)
        stream.unlink()

    def _settings(self, stream: Path, data: Data) -> None:
        """Store a stream with other settings of the engines, once each."""
        data["settings"] = []
        for engine, settings in SETTINGS.items():
            for setting in settings:
                say(f"{engine}: {setting or 'as it is'}")
                taker = Contender(f"ours-{engine}", self.folder / "setting", setting)
                taker.make()
                row = {"engine": engine, "setting": setting, "seconds": feed(taker, stream)}
                data["settings"].append(row | {"size": taker.size()})

    def index(self, data: Data) -> None:
        """What borg's index takes in memory, at the mean size of the chunks that it made here."""
        data["index"] = {}
        for name in CHUNKS:
            taker = next(item for item in self.contenders if item.name == f"ours-{name}")
            stats = json.loads(taker.run(["borg", "info", "--json"]))["cache"]["stats"]
            mean = stats["unique_size"] / stats["total_unique_chunks"]
            script = Path(__file__).with_name("borg_index.py")
            chunks = int(1e12 / mean)
            command = ["/usr/bin/python3", str(script), str(chunks)]
            done = subprocess.run(command, capture_output=True, check=True)
            data["index"][name] = {"mean": mean, "chunks": chunks, **json.loads(done.stdout)}

    def close(self) -> None:
        """Stop dom0, and remove wyng's snapshots."""
        self.dom0.close()
        if self.wyng:
            self.wyng.close()


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def store_images(contender: Contender, volumes: list[Volume]) -> float:
    """Store the images themselves, each from its file."""
    start = time.perf_counter()
    for volume in volumes:
        with volume.image.open("rb") as file:
            command = contender.store(volume.name)
            subprocess.run(command, stdin=file, env=contender.environment(), check=True)
    return time.perf_counter() - start


def feed(contender: Contender, stream: Path) -> float:
    """Store a file; give the seconds."""
    settle()
    start = time.perf_counter()
    with stream.open("rb") as file:
        command, variables = contender.store(), contender.environment()
        subprocess.run(command, stdin=file, env=variables, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def restore(contender: Contender) -> tuple[float, int]:
    """Read the newest backup through a pipe; give the seconds and its length."""
    lengths: list[int] = []
    seconds = _read(contender, lambda piece: lengths.append(len(piece)))
    return seconds, sum(lengths)


def compare(contender: Contender, stream: Path) -> None:
    """Read the newest backup, which must be equal to a file."""
    with stream.open("rb") as file:

        def check(piece: memoryview) -> None:
            if file.read(len(piece)) != piece:
                raise SystemExit(f"{contender.name} gave back something else")

        _read(contender, check)


def _read(contender: Contender, take: Callable[[memoryview], None]) -> float:
    command = contender.restore()
    buffer = memoryview(bytearray(1 << 20))
    settle()
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=contender.environment(), stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None  # noqa: S101 (for mypy)
        while got := os.readv(process.stdout.fileno(), [buffer]):
            take(buffer[:got])
    if process.returncode:
        raise SystemExit(f"{contender.name}: {command[0]} failed")
    return time.perf_counter() - start


def versions() -> dict[str, str]:
    """Tell what took part."""
    commands = {"restic": ["restic", "version"], "borg": ["borg", "--version"]}
    return {
        name: subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()
        for name, command in commands.items()
    }
