# SPDX-License-Identifier: GPL-3.0-or-later
"""What an ext4 image's superblock says; it is 1024 bytes in (Linux Documentation/filesystems/ext4).

Block count at 4, log2(block size) - 10 at 24, magic at 56.
"""

from __future__ import annotations

import struct
from pathlib import Path

_START, _SIZE, _MAGIC = 1024, 58, b"\x53\xef"


def _superblock(image: Path) -> bytes | None:
    with image.open("rb") as handle:
        handle.seek(_START)
        found = handle.read(_SIZE)
    return found if found[56:] == _MAGIC else None


def is_blank(image: Path) -> bool:
    """Tell whether an image has no ext4."""
    return _superblock(image) is None


def file_system_bytes(image: Path) -> int:
    """Return the size of an image's file system; 0 if it has no ext4."""
    found = _superblock(image)
    if found is None:
        return 0
    blocks, log_size = struct.unpack_from("<I16xI", found, 4)
    return int(blocks) << (10 + int(log_size))
