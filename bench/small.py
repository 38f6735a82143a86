# SPDX-License-Identifier: GPL-3.0-or-later
"""The measurements on many small qubes: the whole backup, and one qube of it restored."""

import io
import itertools
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import corpus
import engines
import timing
from contenders import Contender, size_of
from debian import MEMORY, Debian
from rounds import new_dom0
from timing import say

Data = dict[str, Any]
_TO_FILE = "dd bs=1M status=none of="
# What reads from a file; mmap would hide it, and neither engine maps files of its repository.
_CALLS = "read,pread64,readv,preadv,preadv2,copy_file_range,sendfile,splice"
_READ = re.compile(rf"(?:{_CALLS.replace(',', '|')})\(\d+<(?P<path>[^>]*)>.* = (?P<got>\d+)$")
_MAPPED = re.compile(r"mmap\(")


@dataclass(frozen=True)
class _Volume:
    """A private volume in a backup: its folder, where its bytes begin, and they themselves."""

    folder: str
    offset: int
    content: bytearray


def measure(folder: Path, qube: Debian, qubes: int, count: int, data: Data) -> None:
    """Back up small qubes, and measure; fills `small`.

    Args:
        folder: for all of it.
        qube: where the programs run.
        qubes: how many there are.
        count: rounds, and qubes to restore.
        data: the raw data.
    """
    stream = folder / "stream-small"
    images = folder / "small"
    images.mkdir()
    say(f"making {qubes} small qubes, and a backup")
    volumes = corpus.build_many(images, qubes)
    dom0 = new_dom0(volumes, folder)
    try:
        dom0.backup("ours", f"{_TO_FILE}{stream}", volumes)
    finally:
        dom0.close()
    shutil.rmtree(images)
    found: Data = {"qubes": qubes, "stream": stream.stat().st_size}
    found["engines"] = engines.compare(folder, qube, stream, count)
    found["one"] = {
        engine: _restored(engine, folder, qube, stream, count) for engine in engines.NAMES
    }
    stream.unlink()
    data["small"] = found


def _restored(engine: str, folder: Path, qube: Debian, stream: Path, count: int) -> list[Data]:
    """Restore some of the qubes, each alone, from places all over the backup.

    Returns:
        For each: the seconds to its volume's `first` byte and to the end (`whole`), the bytes that
        were `read` from the repository, and those that the volume takes in one (`stored`).
    """
    ours, alone = engines.pair(engine, folder, qube)
    timing.feed(ours, stream)
    with stream.open("rb") as file:
        volumes = _volumes(file)
    rows = []
    for number in range(count):
        say(f"{engine}: one qube of {len(volumes)}, {number + 1} of {count}")
        volume = volumes[(2 * number + 1) * len(volumes) // (2 * count)]
        row = _get(ours, volume)
        row["read"] = _bytes_read(ours, volume.folder)
        row["stored"] = _stored(alone, volume, folder)
        rows.append(row)
    ours.remove()
    alone.remove()
    return rows


def _volumes(backup: BinaryIO) -> list[_Volume]:
    """Return the private volumes of a backup in its order."""
    found: dict[str, _Volume] = {}
    # the header is an archive of its own
    with tarfile.open(fileobj=backup, mode="r:", ignore_zeros=True) as archive:
        for member in archive:
            folder, _, name = member.name.partition("/")
            if not name.startswith("private.img."):
                continue
            content = archive.extractfile(member)
            assert content is not None  # noqa: S101 -- it is a file
            volume = found.setdefault(folder, _Volume(folder, member.offset_data, bytearray()))
            volume.content.extend(content.read())
    return list(found.values())


def _get(ours: Contender, volume: _Volume) -> Data:
    """Restore a qube; time the end, and when the first byte of its volume is there."""
    pieces: list[tuple[float, bytes]] = []
    whole = timing.read(
        ours,
        _command(ours, volume.folder),
        lambda piece: pieces.append((perf_counter(), piece.tobytes())),
    )
    start = perf_counter() - whole
    (got,) = _volumes(io.BytesIO(b"".join(piece for _, piece in pieces)))
    if got.content != volume.content:
        raise SystemExit(f"{ours.name} gave back another {volume.folder} than was stored")
    ends = itertools.accumulate(len(piece) for _, piece in pieces)
    first = next(when for (when, _), end in zip(pieces, ends, strict=True) if end > got.offset)
    return {"first": first - start, "whole": whole}


def _command(ours: Contender, folder: str) -> list[str]:
    return ours.get("--members", f"{folder}/")


def _bytes_read(ours: Contender, folder: str) -> int:
    """Return the bytes that all processes of a restore read from files of the repository.

    strace follows them all, and shows each file's path. The engine's cache, which the put filled,
    isn't in the repository.

    Raises:
        SystemExit: strace failed, or a file was mapped, so that reads of it can't be seen.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        strace = ["strace", "-ff", "-qq", "-s", "0", "-y", "-o", f"{place}/calls"]
        strace += ["-e", f"trace={_CALLS},mmap", *_command(ours, folder)]
        timing.read(ours, strace, lambda _: None)
        total = 0
        for path in Path(place).iterdir():
            for line in path.read_text(errors="replace").splitlines():
                if f"{ours.repository}/" not in line:
                    continue
                call = _READ.match(line)
                if _MAPPED.match(line):
                    raise SystemExit(f"{ours.name} maps files of its repository: {line}")
                total += int(call["got"]) if call and f"{ours.repository}/" in call["path"] else 0
    return total


def _stored(alone: Contender, volume: _Volume, folder: Path) -> int:
    """Return the bytes that a volume takes in a repository of the engine's: its files of data."""
    file = folder / "volume"
    file.write_bytes(volume.content)
    before = size_of(alone.repository / "data")
    timing.feed(alone, file, volume.folder)
    file.unlink()
    return size_of(alone.repository / "data") - before
