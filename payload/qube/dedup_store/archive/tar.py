# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the tar format that dedup-store needs: headers, pax records, an archive's end.

The formats: POSIX pax and ustar, GNU tar's base-256 numbers, long names and old sparse headers
(GNU tar manual, "Basic Tar Format"). Names and sizes only; nothing is ever unpacked.
"""

from collections.abc import Callable
from dataclasses import dataclass

BLOCK = 512
RECORD = 10240  # GNU tar pads an archive to a multiple of this (blocking factor 20)
MAX_EXTENSION = 64 * 1024  # longest pax header or long name that we follow

_ZERO = bytes(BLOCK)
_NO_DATA = b"123456"  # links, devices, folders, fifos: whatever their size field says


class TarError(Exception):
    """A block that tar would not have written here."""


@dataclass
class Header:
    """One header block.

    Attributes:
        name: member name, escaped when it isn't UTF-8.
        size: bytes that follow, without padding.
        kind: typeflag.
        extended_sparse: an old GNU sparse header that continues in the next block.
    """

    name: str
    size: int
    kind: bytes
    extended_sparse: bool

    @property
    def is_extension(self) -> bool:
        """Whether it describes the header after it (pax, long name)."""
        return self.kind in b"xgLK"


def is_zero(block: bytes | memoryview) -> bool:
    """Return whether a whole block is zero."""
    return block == _ZERO


def padded(size: int) -> int:
    """Round a size up to whole blocks."""
    return size + -size % BLOCK


def _number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):  # base-256, GNU tar's form for what octal can't hold
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    text = field.strip(b" \0")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise TarError("a number in a tar header isn't octal")
    return int(text, 8)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="backslashreplace")


def parse_header(block: bytes) -> Header:
    """Read a header block.

    Raises:
        TarError: when its checksum is wrong or its fields are malformed.
    """
    if len(block) != BLOCK:
        raise TarError("a tar header is cut")
    if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 0x20:
        raise TarError("a tar header has a wrong checksum")
    kind = block[156:157].replace(b"\0", b"0")
    size = 0 if kind in _NO_DATA else _number(block[124:136])
    if size < 0:
        raise TarError("a tar header has a negative size")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + "/" + name
    return Header(name, size, kind, kind == b"S" and block[482] != 0)


def parse_pax(data: bytes) -> dict[str, str]:
    """Read pax records, each `length key=value` and a newline.

    Raises:
        TarError: when a record's length is wrong.
    """
    records = {}
    while data.strip(b"\0"):
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or length > len(data):
            raise TarError("a pax record is malformed")
        records[key.decode(errors="backslashreplace")] = value[:-1].decode(
            errors="backslashreplace"
        )
        data = data[length:]
    return records


def apply_extension(kind: bytes, data: bytes, overrides: dict[str, str]) -> None:
    """Apply an extension header to the description of the header after it."""
    if kind == b"x":
        overrides.update(parse_pax(data))
    elif kind == b"L":
        overrides["path"] = _text(data)


def apply_overrides(header: Header, overrides: dict[str, str]) -> None:
    """Replace a header's own fields by those of pax records.

    Raises:
        TarError: when the size isn't a number.
    """
    header.name = overrides.get("path", header.name)
    size = overrides.get("size")
    if size is not None:
        if not size.isdecimal() or len(size) > 19:
            raise TarError("a pax record has a size that isn't a number")
        header.size = 0 if header.kind in _NO_DATA else int(size)


def head_length(data: bytes) -> int:
    """Measure the headers before the first member's data.

    They go to the recipe: qubes/tarwriter.py of qubes-core-admin puts its process id into the
    member's name, which would make the first chunk of every volume new in each backup.

    Args:
        data: beginning of an archive, 4 KiB suffice.

    Returns:
        Bytes, a multiple of the block size; 0 when these are no headers that we understand.
    """
    position = 0
    try:
        while True:
            header = parse_header(data[position : position + BLOCK])
            position += BLOCK
            if not header.is_extension:
                return position
            position += padded(header.size)
    except TarError:
        return 0


class Follower:
    """A reader of an archive that arrives in pieces, which learns whether it reached its end."""

    def __init__(self) -> None:
        self.ended = False
        self.broken = False
        self._block = bytearray()
        self._want = BLOCK
        self._skip = 0
        self._step: Callable[[bytes], None] = self._on_header
        self._overrides: dict[str, str] = {}
        self._header: Header | None = None

    def feed(self, data: memoryview) -> None:
        """Take the next bytes; after the end marker or an error they are ignored."""
        position = 0
        while position < len(data) and not (self.ended or self.broken):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
            else:
                step = min(self._want - len(self._block), len(data) - position)
                self._block += data[position : position + step]
                if len(self._block) == self._want:
                    self._take()
            position += step

    def _take(self) -> None:
        block = bytes(self._block)
        self._block.clear()
        self._want = BLOCK
        try:
            self._step(block)
        except TarError:
            self.broken = True

    def _on_header(self, block: bytes) -> None:
        if is_zero(block):
            self._step = self._on_second_zero
            return
        header = parse_header(block)
        if header.is_extension:
            if header.size > MAX_EXTENSION:
                raise TarError("an extension header is too long")
            self._header = header
            if header.size:
                self._want = padded(header.size)
                self._step = self._on_extension
            return
        apply_overrides(header, self._overrides)
        self._overrides.clear()
        self._skip = padded(header.size)
        if header.extended_sparse:
            self._step = self._on_sparse
            self._header, self._skip = header, 0

    def _on_extension(self, data: bytes) -> None:
        if self._header is not None:
            apply_extension(self._header.kind, data[: self._header.size], self._overrides)
        self._step = self._on_header

    def _on_sparse(self, block: bytes) -> None:
        if not block[504] and self._header is not None:
            self._skip = padded(self._header.size)
            self._step = self._on_header

    def _on_second_zero(self, block: bytes) -> None:
        if not is_zero(block):
            raise TarError("an end marker is half")
        self.ended = True
