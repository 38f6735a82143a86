# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement whether an archive is whole, from its members as they pass.

What a complete archive has: qubes-core-admin qubes/backup.py (Backup.backup_do for the order,
Backup._split_and_send for the chunks). A stream that was cut between two members is a plain end
of file here, so completeness must be judged by what qubes.xml promises. A backup without its last
small files (firewall rules, notes) can't be distinguished from a whole one here; dom0's ledger can.
"""

from dataclasses import dataclass, field
from typing import Any

from backup_format import container, qubesxml
from backup_format.limits import CHUNK_BYTES, MAX_HEADER, MAX_XML
from backup_format.members import HEADER, HMAC, XML, XML_VOLUME, ChunkSequence, split_chunk

from dedup_store.archive import tar
from dedup_store.archive.manifest import OPAQUE, PARTIAL, WHOLE

_MAX_PROBLEMS = 5


@dataclass
class Volume:
    """The state of one volume, or of another chunked file of the archive."""

    name: str
    chunks: int = 0
    payload: int = 0
    hidden: bool = False
    inner: tar.Follower = field(default_factory=tar.Follower)


@dataclass
class Verdict:
    """The judgement of an archive; the fields are the manifest's."""

    status: str
    reason: str
    qubes: list[dict[str, Any]]


class Completeness:
    """A judge of one archive; it takes members and payloads in the stream's order.

    Args:
        chunk: bytes of the largest chunk.

    Attributes:
        header: the backup-header's keys and values, empty when there was none.
    """

    def __init__(self, chunk: int = CHUNK_BYTES) -> None:
        self.header: dict[str, str] = {}
        self._problems: list[str] = []
        self._containers: dict[str, str] = {}
        self._volumes: dict[str, Volume] = {}
        self._chunks = ChunkSequence(self.problem, chunk)
        self._current: Volume | None = None
        self._texts: dict[str, bytearray] = {}
        self._text: bytearray | None = None
        self._text_limit = 0

    @property
    def is_compressed(self) -> bool:
        """Whether the header says that the inner archives are compressed."""
        return self.header.get("compressed") == "True"

    def problem(self, text: str) -> None:
        """Record why the archive isn't whole."""
        if len(self._problems) < _MAX_PROBLEMS and text not in self._problems:
            self._problems.append(text)

    def begin(self, name: str, kind: str, payload_length: int) -> None:
        """Begin a member.

        Args:
            name: its name in the archive.
            kind: of its container, as in manifest.Member.
            payload_length: bytes that feed will bring, unless the stream is cut.
        """
        if kind == container.DAMAGED:
            self.problem(f"{name}: its container is damaged")
        if name in self._containers:
            self.problem(f"{name} is there twice")
        self._containers[name] = kind
        self._current = None
        if chunk := split_chunk(name):
            self._begin_chunk(*chunk, kind, payload_length)
        elif name not in (HEADER, HMAC):
            self.problem(f"{name} is not what a backup contains")
        limit = {HEADER: MAX_HEADER, HMAC: MAX_HEADER, XML: MAX_XML}
        self._text_limit = limit.get(name, 0)
        self._text = self._texts.setdefault(name, bytearray()) if self._text_limit else None

    def _begin_chunk(self, name: str, number: int, kind: str, length: int) -> None:
        self._chunks.add(name, number, container.chunk_bytes(kind, length))
        volume = self._volumes.setdefault(name, Volume(name))
        volume.chunks = number + 1
        if not container.shows_payload(kind) or self.is_compressed:
            volume.hidden = True
        self._current = volume

    def feed(self, data: memoryview) -> None:
        """Take the member's next payload bytes."""
        if self._current:
            self._current.payload += len(data)
            if not self._current.hidden:
                self._current.inner.feed(data)
        if self._text is not None:
            self._text += data[: self._text_limit + 1 - len(self._text)]

    def finish(self, name: str) -> None:
        """End a complete member."""
        if name == HEADER:
            self._read_header()

    def _read_header(self) -> None:
        """Parse `key=value` lines (qubes-core-admin-client restore.py BackupHeader.load)."""
        text = bytes(self._texts[HEADER])
        if len(text) > MAX_HEADER or not text.isascii():
            self.problem("the backup-header is malformed")
            return
        for line in text.decode().splitlines():
            key, equals, value = line.partition("=")
            if equals:
                self.header[key] = value

    def judge(self) -> Verdict:
        """Judge the archive, after its end.

        Returns:
            `whole`, `partial` with the reasons, or `opaque` for an archive that is complete by its
            names, but hides which qubes it must have (a really encrypted one).
        """
        for name in (HEADER, HMAC, XML):
            if name not in self._containers:
                self.problem(f"{name} is missing")
        if self.header and self.header.get("version") != "4":
            self.problem("the backup is not of format version 4")
        self._compare_header()
        self._compare_containers()
        self._chunks.finish()
        for volume in self._volumes.values():
            if self._end_of(volume) == "missing" and not self._chunks.is_cut(volume.name):
                self.problem(f"{volume.name} does not reach its end")
        qubes = self._promised()
        for qube in qubes or []:
            self._find(qube)
        reason, status = "; ".join(self._problems), WHOLE
        if self._problems:
            status = PARTIAL
        elif qubes is None:
            status, reason = (
                OPAQUE,
                "its qubes.xml can't be read, so it is unknown here which qubes must be in it",
            )
        return Verdict(status, reason, self._describe(qubes))

    def _end_of(self, volume: Volume) -> str:
        """Return whether the inner archive's end was seen, is missing, or can't be seen."""
        if self._chunks.is_cut(volume.name):
            return "missing"
        if volume.hidden:
            return "unseen"
        return "seen" if volume.inner.ended else "missing"

    def _shows_payload(self, name: str) -> bool:
        return container.shows_payload(self._containers.get(name, container.UNKNOWN))

    def _compare_header(self) -> None:
        """Compare the clear header with its copy, as the restore does."""
        if self._shows_payload(HMAC) and self._texts.get(HEADER) != self._texts[HMAC]:
            self.problem(f"{HEADER} and {HMAC} differ")

    def _compare_containers(self) -> None:
        """Check that all members but the header are in one kind of container."""
        kinds: dict[str, str] = {}
        for name, kind in self._containers.items():
            if (name == HMAC or split_chunk(name)) and kind != container.DAMAGED:
                kinds.setdefault(kind, name)
        if len(kinds) > 1:
            (one, first), (other, second) = list(kinds.items())[:2]
            self.problem(f"mixed containers: {first} is in '{one}', {second} in '{other}'")

    def _promised(self) -> list[qubesxml.Qube] | None:
        """List the qubes that must be there; None when that is unknown."""
        if not self._shows_payload(XML):
            return None
        try:
            return qubesxml.included(qubesxml.unpack(bytes(self._texts[XML])))
        except qubesxml.UnknownCompressionError:
            if self.is_compressed:
                return None
            self.problem("qubes.xml can't be read: it isn't an archive")
        except qubesxml.XmlError as error:
            self.problem(f"qubes.xml can't be read: {error}")
        return None

    def _find(self, qube: qubesxml.Qube) -> None:
        label = qube.name or qube.path
        files = self._files(qube.path)
        if not files:
            self.problem(f"{label} is missing")
            return
        for wanted in qube.volumes:
            if qube.path.endswith("/") and qube.path + wanted not in self._volumes:
                self.problem(f"{label}: {wanted} is missing")

    def _files(self, path: str) -> list[Volume]:
        if path.endswith("/"):
            return [v for name, v in self._volumes.items() if name.startswith(path)]
        return [self._volumes[path]] if path in self._volumes else []

    def _describe(self, qubes: list[qubesxml.Qube] | None) -> list[dict[str, Any]]:
        """Describe the qubes in it; by the members' folders alone when qubes.xml can't be read."""
        if qubes is None:
            paths = {self._folder(name): None for name in self._volumes if name != XML_VOLUME}
            qubes = [qubesxml.Qube(path=path) for path in paths]
        return [
            {
                "name": qube.name,
                "class": qube.klass,
                "path": qube.path,
                "volumes": [
                    {
                        "name": volume.name.rpartition("/")[2],
                        "bytes": volume.payload,
                        "chunks": volume.chunks,
                        "end": self._end_of(volume),
                    }
                    for volume in self._files(qube.path)
                ],
            }
            for qube in qubes
        ]

    @staticmethod
    def _folder(name: str) -> str:
        folder, slash, _ = name.rpartition("/")
        return name if folder == "dom0-home" or not slash else folder + slash
