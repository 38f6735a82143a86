# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers: the format that scrypt, or the shim, puts around each member except backup-header.

scrypt's own container is described in its file FORMAT; the shim's has the same layout, another
version, and a payload that isn't encrypted (docs/design/formats.md). The shim, payload/dom0/scrypt,
must stay one file and has these numbers again; tests/unit/shim/test_shim_format.py compares them.

| bytes | content |
| --- | --- |
| 0..6 | `scrypt` |
| 6 | version: 0 scrypt's own, 0x80 authenticated |
| 7..16 | log2 N, r, p |
| 16..48 | salt |
| 48..64 | the first 16 bytes of the SHA-256 of bytes 0..48 |
| 64..96 | HMAC-SHA256 of bytes 0..64 |
| 96..-32 | payload |
| last 32 | HMAC-SHA256: scrypt's own of all before; ours of 0..96 and the payload's SHA-256, size |
"""

import hashlib

MAGIC = b"scrypt"
HEAD_BYTES, TRAILER_BYTES = 96, 32  # before and behind the payload
OVERHEAD = HEAD_BYTES + TRAILER_BYTES

AUTHENTICATED, ENCRYPTED = "authenticated", "scrypt"  # ours; scrypt's own
UNKNOWN = "unknown"  # of a version that isn't in VERSIONS
NONE, DAMAGED = "none", "damaged"
VERSIONS = {0: ENCRYPTED, 0x80: AUTHENTICATED}
_VERSION = len(MAGIC)  # its offset


def kind_of(start: bytes) -> str:
    """Name the container of a member by its first 7 bytes, or more.

    Returns:
        AUTHENTICATED, ENCRYPTED, UNKNOWN, or NONE. The rest of the container may be damaged.
    """
    if not start.startswith(MAGIC) or len(start) <= _VERSION:
        return NONE
    return VERSIONS.get(start[_VERSION], UNKNOWN)


def has_sound_head(head: bytes, size: int) -> bool:
    """Return whether a container's head is right, as far as that shows without a passphrase.

    Args:
        head: the member's first HEAD_BYTES, fewer if it is shorter.
        size: bytes of the member.
    """
    is_long_enough = size >= OVERHEAD and len(head) >= HEAD_BYTES
    return is_long_enough and head[48:64] == hashlib.sha256(head[:48]).digest()[:16]


def shows_payload(kind: str) -> bool:
    """Return whether a member's payload can be read without a key.

    It can in our container, and without one, as in backups of the forum guide's script.
    """
    return kind in (AUTHENTICATED, NONE)


def chunk_bytes(kind: str, length: int) -> int:
    """Return the length of the chunk that a member carries.

    Args:
        kind: of its container.
        length: bytes that the store has of it: the payload if shows_payload, else all of it.
    """
    return length if shows_payload(kind) else length - OVERHEAD
