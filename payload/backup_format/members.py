# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of an archive's members, and the order of its chunks.

qubes-core-admin qubes/backup.py: Backup.backup_do has the members in their order, _split_and_send
cuts a volume into chunks of one size, of which only the last is shorter (and may be empty).
"""

import re
from collections.abc import Callable

from backup_format.limits import CHUNK_BYTES

HEADER, HMAC = "backup-header", "backup-header.hmac"
XML_VOLUME = "qubes.xml"
XML = f"{XML_VOLUME}.000.enc"
_NAME = re.compile(
    r"backup-header(?:\.hmac)?"
    r"|(?:qubes\.xml|vm[0-9]{1,7}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
    r"|dom0-home/[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})\.[0-9]{3,6}\.enc"
)


def is_member_name(name: str) -> bool:
    """Return whether a backup can have a member of this name."""
    return _NAME.fullmatch(name) is not None


def split_chunk(name: str) -> tuple[str, int] | None:
    """Split `vm7/private.img.003.enc` into its volume and number.

    Returns:
        The volume's name and the chunk's number; None when no chunk has this name.
    """
    if name in (HEADER, HMAC) or not is_member_name(name):
        return None
    volume, number, _ = name.rsplit(".", 2)
    return volume, int(number)


def chunk_name(volume: str, number: int) -> str:
    """Name the member that has a chunk."""
    return f"{volume}.{number:03}.enc"


class ChunkSequence:
    """A check that the chunks of each volume are complete and in order.

    The size of full chunks is that of the first chunk that isn't its volume's last; it is the same
    for all volumes of an archive.

    Args:
        problem: takes a description of each problem.
        most: bytes of the largest chunk; also the size of full ones while none was seen.
    """

    def __init__(self, problem: Callable[[str], None], most: int = CHUNK_BYTES) -> None:
        self._problem = problem
        self._most = most
        self._full: int | None = None
        self._volumes: dict[str, tuple[int, int]] = {}  # how many chunks, bytes of the last one

    def add(self, volume: str, number: int, length: int) -> None:
        """Take the next chunk of the archive.

        Args:
            volume: its volume.
            number: its number in it.
            length: its bytes, without the container.
        """
        chunks, last = self._volumes.get(volume, (0, 0))
        if number < chunks:
            self._problem(f"{chunk_name(volume, number)} is there twice, or not in its place")
            return
        if number > chunks:
            self._problem(f"{chunk_name(volume, chunks)} is missing")
        elif number:
            self._full = self._full or last
            if last != self._full or not last:
                self._problem(f"{chunk_name(volume, number - 1)} is too short for a middle chunk")
        if chunks and next(reversed(self._volumes)) != volume:
            self._problem(f"{volume}: its chunks are not together")
        if length > self._most:
            self._problem(f"{chunk_name(volume, number)} is too long")
        self._volumes[volume] = (number + 1, length)

    @property
    def volumes(self) -> list[str]:
        """The names of the volumes that were seen, in their order."""
        return list(self._volumes)

    def is_cut(self, volume: str) -> bool:
        """Return whether a chunk must come after a volume's last one, since that is full."""
        return self._volumes[volume][1] >= min(self._full or self._most, self._most)

    def finish(self) -> None:
        """Report the volumes that end with a full chunk, after the archive's end."""
        for volume, (chunks, _) in self._volumes.items():
            if self.is_cut(volume):
                self._problem(f"{chunk_name(volume, chunks)} is missing: a full chunk is before it")
