# SPDX-License-Identifier: GPL-3.0-or-later
"""The measurements of bench/store.py beside its stages; each fills its place in the raw data."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import corpus
import engines as pairs
import timing
from contenders import CHUNKS, Contender
from debian import Debian
from rounds import Bench, WyngBackup
from timing import say, settle
from upstream_dom0 import asked_for, version

Data = dict[str, Any]
SETTINGS = {  # of our repository, beside the defaults
    "borg": ["", 'compression = "lz4"', 'compression = "zstd,6"', 'chunks = "large"'],
    "restic": ["", 'compression = "max"', "pack_size = 64"],
}
CHANGED = 20_000_000  # bytes of the scattered changes
PAIRS = 3  # each repository of an engine cuts at places of its own
TO_FILE = "dd bs=1M status=none of="


def official(bench: Bench, data: Data) -> None:
    """Time the official tool with the real scrypt, once."""
    data["official"] = {}
    archive = bench.folder / "archive"
    for name, compress in (("gzip", "gzip"), ("none", False)):
        say(f"official tool, real scrypt, compression: {name}")
        settle()
        target = f"{TO_FILE}{archive}"
        seconds = bench.dom0.backup("official", target, bench.volumes, compress=compress)
        data["official"][name] = {"seconds": seconds, "bytes": archive.stat().st_size}
        archive.unlink()


def engines(bench: Bench, count: int, data: Data) -> None:
    """Compare put and get with the engine alone."""
    stream = bench.folder / "stream"
    bench.dom0.backup("ours", f"{TO_FILE}{stream}", bench.volumes)
    data["stream"] = stream.stat().st_size
    data["engines"] = pairs.compare(bench.folder, bench.qube, stream, count)
    stream.unlink()


def settings(bench: Bench, data: Data) -> None:
    """Store a stream with other settings of the engines, once each."""
    stream = bench.folder / "stream"
    bench.dom0.backup("ours", f"{TO_FILE}{stream}", bench.volumes)
    data["choices"] = []
    for engine, chosen in SETTINGS.items():
        for setting in chosen:
            say(f"{engine}: {setting or 'as it is'}")
            taker = Contender(f"ours-{engine}", bench.folder / "e", bench.qube, setting=setting)
            taker.make()
            seconds = timing.feed(taker, stream).seconds
            row = {"engine": engine, "setting": setting, "seconds": seconds, "size": taker.size()}
            data["choices"].append(row)
            taker.remove()
    stream.unlink()


def scattered(bench: Bench, data: Data) -> None:
    """Store about 20 MB of scattered changes in the large volume, by the official archive."""
    large = bench.volumes[0]
    found: Data = {"image": large.size, "changed": CHANGED}
    takers = [taker for number in range(PAIRS) for taker in _takers(bench, number)]
    wyng = None
    if bench.program:
        for backup in bench.backups:
            backup.close()  # two archives can't have snapshots of one volume
        wyng = WyngBackup(bench.program, [large], bench.folder / "wyng-scattered")

    def sizes(key: str) -> None:
        for taker in takers:
            say(f"scattered changes, {key}: {taker.name}")
            if taker.kind == "raw":
                timing.store_images(taker, [large])
            else:
                bench.dom0.backup(taker.kind, taker.line(), [large])
            found.setdefault(taker.name, {}).setdefault(key, []).append(taker.size())
        if wyng:
            say(f"scattered changes, {key}: wyng")
            wyng.store()
            found.setdefault("wyng", {})[key] = [wyng.size()]

    try:
        for taker in takers:
            taker.make()
        if wyng:
            wyng.make()
        sizes("first")
        corpus.scatter(large, CHANGED)
        sizes("second")
    finally:
        if wyng:
            wyng.close()
    data["scattered"] = found


def _takers(bench: Bench, number: int) -> list[Contender]:
    """Return the contenders for scattered changes: of the first pair, the second, ..."""
    takers = {
        name: Contender(name, bench.folder / f"scattered-{name}-{number}", bench.qube)
        for name in ("ours-restic", "ours-borg", "ours-borg-small", "guide-borg", "raw-restic")
    }
    takers["raw-restic"].like = takers["ours-restic"]
    takers["guide-borg"].like = takers["ours-borg"]
    return list(takers.values())


def index(bench: Bench, data: Data) -> None:
    """Measure borg's index in memory for 1 TB, at the mean size of the chunks made here."""
    data["index"] = {}
    for name in ("guide-borg", *(f"ours-{key}" for key in CHUNKS)):
        say(f"borg's index: {name}")
        listed = bench.contenders[name].run("borg", "info", "--json")
        stats = json.loads(listed)["cache"]["stats"]
        mean = stats["unique_size"] / stats["total_unique_chunks"]
        chunks = int(1e12 / mean)
        script = Path(__file__).with_name("borg_index.py")
        with script.open("rb") as file:
            command = bench.qube.argv("/usr/bin/python3", "-", str(chunks))
            done = subprocess.run(command, stdin=file, capture_output=True, check=True)
        data["index"][name] = {"mean": mean, "chunks": chunks, **json.loads(done.stdout)}


def versions(qube: Debian, wyng: str | None) -> dict[str, str]:
    """Return the versions of all programs that took part."""
    commands = {
        "debian": ["cat", "/etc/debian_version"],
        "restic": ["restic", "version"],
        "borg": ["borg", "--version"],
        "python": ["python3", "--version"],
    }
    found = {name: qube.version(*command) for name, command in commands.items()}
    found["debian"] = f"Debian {found['debian']}"
    if asked_for():
        found["qubes"] = version()
    if wyng:
        match = re.search(r'^prog_version *= *"([^"]*)"', Path(wyng).read_text(), re.MULTILINE)
        found["wyng"] = f"wyng {match[1]}" if match else "wyng"
    return found
