# SPDX-License-Identifier: GPL-3.0-or-later
"""What whoever holds a borg repository sees of it: which blocks were encrypted at which count.

borg/repository.py LoggedIO (segments), borg/crypto/key.py AESKeyBase (what an object is).
"""

import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"BORG_SEG"
HEADER = struct.Struct("<IIB")  # CRC, size of the entry, tag
PUT = 0
KEY, MAC, COUNT = 32, 32, 8  # bytes
BLOCK = 16


@dataclass(frozen=True)
class Piece:
    """Something encrypted: from which count on, and to what."""

    count: int
    data: bytes

    @property
    def end(self) -> int:
        """The first count that it doesn't use."""
        return self.count - (-len(self.data) // BLOCK)


def pieces(repository: Path) -> set[Piece]:
    """Read all that is encrypted in a repository."""
    found = set()
    for path in (repository / "data").glob("*/*"):
        data = path.read_bytes()
        assert data.startswith(MAGIC)
        at = len(MAGIC)
        while at < len(data):
            _, size, tag = HEADER.unpack_from(data, at)
            if tag == PUT:
                entry = data[at + HEADER.size + KEY : at + size]
                count, text = entry[1 + MAC :][:COUNT], entry[1 + MAC + COUNT :]
                found.add(Piece(int.from_bytes(count), text))
            at += size
    return found


def overlaps(one: set[Piece], other: set[Piece]) -> list[tuple[Piece, Piece]]:
    """Find what was encrypted at the same counts."""
    return [(a, b) for a in one for b in other if a.count < b.end and b.count < a.end]


def read(secret: Piece, known: Piece, text: int) -> bytes:
    """Read one of two that were encrypted at the same counts, without a key.

    Args:
        secret: what to read.
        known: the other one.
        text: the byte that the other one has everywhere.
    """
    start = max(secret.count, known.count)
    one = secret.data[(start - secret.count) * BLOCK :]
    other = known.data[(start - known.count) * BLOCK :]
    return bytes(a ^ b ^ text for a, b in zip(one, other, strict=False))
