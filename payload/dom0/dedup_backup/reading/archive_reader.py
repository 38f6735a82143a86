# SPDX-License-Identifier: GPL-3.0-or-later
"""A strict reader of the outer archive.

Qubes runs one `tar -cO --posix` for each member, all to one pipe (qubes-core-admin
qubes/backup.py SendWorker.run). GNU tar then writes a pax header (typeflag x) with mtime, atime and
ctime, a ustar header, the data, and zeros up to a multiple of 10240 bytes, at least two blocks of
them (POSIX.1 pax, "pax Interchange Format"; GNU tar src/buffer.c). Nothing else is accepted.
The backup qube's own reader, dedup_store's, accepts any tar: it must keep whatever comes.
"""

import os
import re
from collections.abc import Iterator

from backup_format.container import OVERHEAD
from backup_format.limits import CHUNK_BYTES, MAX_HEADER, MAX_MEMBERS, MAX_XML
from backup_format.members import HEADER, HMAC, XML, is_member_name
from dom0_common.text import clean

from dedup_backup.calls.service import Call
from dedup_backup.errors import WrongError

BUFFER = 1 << 20
_LIMITS = {HEADER: MAX_HEADER, HMAC: MAX_HEADER + OVERHEAD, XML: MAX_XML + OVERHEAD}
_BLOCK, _RECORD, _ZEROS = 512, 10240, bytes(10240 + 512)
_MAX_PAX = 1024
_PAX = re.compile(rb"(?:[0-9]{2} (?:mtime|atime|ctime)=-?[0-9]{1,12}(?:\.[0-9]{1,9})?\n){1,3}")
_OCTAL = re.compile(rb"[0-7]{11}\0")


class CutError(WrongError):
    """An early end of the stream."""


class ArchiveReader:
    """The stream of a backup."""

    def __init__(self, call: Call) -> None:
        """Read from the qube; spool holds each member's data while it is checked.

        Attributes:
            spool: a file in memory, without a name.
            last: the member that was read last, for messages.
        """
        self.spool = os.memfd_create("qubes-dedup-backup")
        self.last = "the beginning"
        self._call = call

    def members(self) -> Iterator[tuple[str, int]]:
        """Yield each member's name and size; its data are in the spool until the next.

        Raises:
            WrongError: the stream isn't what Qubes makes.
            BackupError: the qube stopped sending.
        """
        for _ in range(MAX_MEMBERS + 1):
            first = self._call.read(_BLOCK)
            if not first:
                return
            name, size, pax = self._header(first + self._exactly(_BLOCK - len(first)))
            self.last = name
            self._copy(size)
            length = 2 * _BLOCK + pax + size
            end = -(-(length + -size % _BLOCK + 2 * _BLOCK) // _RECORD) * _RECORD
            if self._exactly(end - length) != _ZEROS[: end - length]:
                raise WrongError(f"{name}: there is something where only zeros belong")
            yield name, size
        raise WrongError(f"more than {MAX_MEMBERS} members")

    def _header(self, block: bytes) -> tuple[str, int, int]:
        """Read a pax header, whose first block is given, and the header after it."""
        _, size = self._parse(block, b"x")
        if size > _MAX_PAX:
            raise self._odd("a pax header is too long")
        padded = size + -size % _BLOCK
        records = self._exactly(padded)
        if not _PAX.fullmatch(records[:size]) or records[size:].strip(b"\0"):
            raise self._odd("a pax header has more than times")
        if any(len(line) + 1 != int(line[:2]) for line in records[:size].split(b"\n")[:-1]):
            raise self._odd("a pax header's length is wrong")
        raw, size = self._parse(self._exactly(_BLOCK), b"0")
        name = raw.decode("ascii", "replace")
        if not is_member_name(name):
            raise self._odd(f"'{clean(name, 120)}' is not what a backup contains")
        if size > _LIMITS.get(name, CHUNK_BYTES + OVERHEAD):
            raise WrongError(f"{name}: it is larger than it can be")
        return name, size, padded

    def _parse(self, block: bytes, kind: bytes) -> tuple[bytes, int]:
        """Read a ustar header: its name and size."""
        checksum = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 0x20)
        name, _, rest = block[:100].partition(b"\0")
        if (
            block[148:156] != checksum
            or block[156:157] != kind
            or block[257:265] != b"ustar\x0000"
            or not _OCTAL.fullmatch(block[124:136])
            or rest.strip(b"\0")
            or block[157:257].strip(b"\0")  # the target of a link
            or block[345:].strip(b"\0")  # a name's beginning
        ):
            raise self._odd("this is no header that Qubes' tar writes")
        return name, int(block[124:135], 8)

    def _copy(self, size: int) -> None:
        os.ftruncate(self.spool, 0)
        os.lseek(self.spool, 0, os.SEEK_SET)
        while size:
            data = self._call.read(min(size, BUFFER))
            if not data:
                raise self._cut()
            size -= len(data)
            os.write(self.spool, data)  # to memory: all or an error
        os.lseek(self.spool, 0, os.SEEK_SET)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._call.read(count - len(data))
            if not more:
                raise self._cut()
            data += more
        return data

    def _cut(self) -> CutError:
        return CutError(f"{self.last}: the stream is cut in it or behind it")

    def _odd(self, text: str) -> WrongError:
        return WrongError(f"behind {self.last}: {text}")
