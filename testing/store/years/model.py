# SPDX-License-Identifier: GPL-3.0-or-later
"""The runs of years: real streams of many qubes, of which a little changes from run to run.

dedup-store's own splitter splits the first stream. Each later run has the same recipe and other
bytes in some volumes, and so a manifest of its own. The payload is cut into pieces of some bytes,
where an engine would cut chunks of a megabyte: so a repository has as many chunks as a large
machine's, and is small. All of its streams can be restored, but for the backup's id in them, which
is that of the first one.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from dedup_store.archive.manifest import Manifest, Member, pack_summary

from testing.store import archives
from testing.store.archives import Qube
from testing.store.memory_engine import Split, split

_DAY = 24 * 3600
_RECORD = 10240  # bytes that GNU tar pads an archive to
_CHUNK = 70_000  # bytes of a member's payload; smaller ones stay in the recipe (INLINE_BYTES)


@dataclass(frozen=True)
class Plan:
    """The size of the repository.

    Attributes:
        runs: how many.
        qubes: in each of them.
        members: of each qube's volume, 3 or more; only those in the middle change.
        pieces: of payload, about, in a run.
        changed: how many of them a run has that no earlier one had.
    """

    runs: int
    qubes: int = 60
    members: int = 16
    pieces: int = 200_000
    changed: int = 800

    @property
    def piece(self) -> int:
        """Bytes of a piece."""
        return self.qubes * self.members * _CHUNK // self.pieces


@dataclass(frozen=True)
class MadeRun:
    """A run of the model.

    Attributes:
        name: its name.
        made: when, in seconds since 1970.
        summary: as the engine keeps it.
        manifest: the content of its manifest object.
        changed: the numbers of pieces that the run before it had otherwise; all, for the first one.
    """

    name: str
    made: int
    summary: str
    manifest: bytes
    changed: list[int]


class Model:
    """The runs, one after the other.

    Args:
        plan: their number and size.
        order: number of the first one (archive/order.py).
        days: how long ago the last one was made.
        keep: numbers of runs, from 0, whose streams are to be kept.

    Attributes:
        pieces: what each piece has, in the run that was made last.
        objects: the numbers of each payload object's pieces.
        streams: the kept streams, by the run's name.
    """

    def __init__(
        self, plan: Plan, order: int = 1, days: int = 1, keep: tuple[int, ...] = ()
    ) -> None:
        self.plan = plan
        self._order = order
        self._keep = keep
        self.streams: dict[str, bytes] = {}
        self._split = _first(plan)
        self.pieces: list[bytes] = []
        self.objects: list[range] = []
        for data in self._split.payload.objects:
            cut = range(0, len(data), plan.piece)
            before = len(self.pieces)
            self.pieces += [bytes(data[start : start + plan.piece]) for start in cut]
            self.objects.append(range(before, len(self.pieces)))
        self._lines = [_line(member) for member in self.manifest.members]
        self._places = self._find_places()
        # at 23:00, UTC, for the last run
        self._last = (int(time.time()) // _DAY - days) * _DAY + 23 * 3600

    @property
    def manifest(self) -> Manifest:
        """The manifest of the run that was made last."""
        return self._split.manifest

    def runs(self) -> Iterator[MadeRun]:
        """Make the runs, the oldest first."""
        for number in range(self.plan.runs):
            changed = self._change(number) if number else list(range(len(self.pieces)))
            made = self._last - (self.plan.runs - 1 - number) * _DAY
            run = self._run(number, made, changed)
            if number in self._keep:
                self.streams[run.name] = self._split.join()
            yield run

    def _run(self, number: int, made: int, changed: list[int]) -> MadeRun:
        when, now = self.manifest, time.gmtime(made)
        backup_id = time.strftime("%Y%m%dT%H%M%S", now) + f"-{1000 + number}"
        when.run = f"{time.strftime('%Y%m%dT%H%M%SZ', now)}-{backup_id}-{number % 65536:04x}"
        when.created = time.strftime("%Y-%m-%dT%H:%M:%SZ", now)
        when.header["backup-id"] = backup_id
        when.order = self._order + number
        head = {
            item.name: getattr(when, item.name)
            for item in dataclasses.fields(when)
            if item.name != "members"
        }
        text = json.dumps(head, separators=(",", ":"))[:-1]
        line = f'{text},"members":[{",".join(self._lines)}]}}\n'.encode()
        summary = pack_summary(when.summary())
        return MadeRun(when.run, made, summary, line + self._split.recipe, changed)

    def _find_places(self) -> list[list[tuple[int, int]]]:
        """Find pieces that can change: for each volume, their numbers and their members'.

        They lie within one member, and not in a volume's first or last, which have the inner
        archive's headers and its end.
        """
        members, size = self.manifest.members, self.plan.piece
        volumes: dict[str, list[tuple[int, int]]] = {}
        for number, (member, after) in enumerate(itertools.pairwise(members)):
            folder = (member.name or "").rpartition(".img.")[0]
            if member.object is None or member.object_length != member.payload_length:
                continue
            if not folder or not (after.name or "").startswith(f"{folder}.img."):
                continue
            first = -(-member.object_offset // size)
            last = (member.object_offset + member.object_length) // size
            begin = self.objects[member.object].start
            volumes.setdefault(folder, []).extend(
                (begin + piece, number) for piece in range(first, last)
            )
        return list(volumes.values())

    def _change(self, number: int) -> list[int]:
        """Change pieces side by side, in some of the qubes, each time in others."""
        places, wanted = self._places, self.plan.changed
        touched = max(1, self.plan.qubes // 10, -(-wanted // min(map(len, places))))
        each = -(-wanted // touched)
        changed: list[int] = []
        hit: set[int] = set()
        for qube in range(touched):
            volume = places[(number * touched + qube) % len(places)]
            begin = number * touched // len(places) * each
            for step in range(min(each, wanted - len(changed))):
                piece, place = volume[(begin + step) % len(volume)]
                data = hashlib.shake_128(f"{number} {piece}".encode())
                self._set(place, piece, data.digest(self.plan.piece))
                changed.append(piece)
                hit.add(place)
        for place in hit:
            member = self.manifest.members[place]
            begin = member.object_offset
            content = self._object(place)[begin : begin + member.object_length]
            member.payload_sha256 = hashlib.sha256(content).hexdigest()
            self._lines[place] = _line(member)
        return changed

    def _object(self, place: int) -> bytearray:
        """Return the payload object that has a member's payload."""
        return self._split.payload.objects[self.manifest.members[place].object or 0]

    def _set(self, place: int, piece: int, data: bytes) -> None:
        """Give a piece, which is in a member's payload, another content."""
        self.pieces[piece] = data
        pieces = self.objects[self.manifest.members[place].object or 0]
        begin = (piece - pieces.start) * self.plan.piece
        self._object(place)[begin : begin + len(data)] = data


def qubes(plan: Plan) -> list[Qube]:
    """The qubes of the runs, each with one volume."""
    size = plan.members * _CHUNK - 10_000  # with its tar header, it still fits
    return [
        Qube(f"qube-{number:02}", number, volumes={"private": archives.noise(size, number)})
        for number in range(1, plan.qubes + 1)
    ]


def _first(plan: Plan) -> Split:
    members = archives.members(qubes(plan), chunk=_CHUNK)
    found = split(b"".join(_outer(name, data) for name, data in members), _CHUNK)
    assert found.manifest.status == "whole", found.manifest.reason
    return found


def _outer(name: str, data: bytes) -> bytes:
    """One member of the stream, as archives.outer makes it, without a start of tar for each."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_700_000_000
    info.pax_headers = {"atime": "1700000000.25", "ctime": "1700000000.25"}
    out = io.BytesIO()
    out.write(info.tobuf(tarfile.PAX_FORMAT))
    out.write(data + bytes(-len(data) % 512 + 1024))
    return out.getvalue() + bytes(-out.tell() % _RECORD)


def _line(member: Member) -> str:
    return json.dumps(dataclasses.asdict(member), separators=(",", ":"))
