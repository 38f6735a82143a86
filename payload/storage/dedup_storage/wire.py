# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts a stream of msgpack objects into messages, strictly and with bounds.

Format: github.com/msgpack/msgpack/blob/master/spec.md. Strings come out as bytes, as borg reads
them (borg/helpers/msgpack.py: raw=True). What borg doesn't send (extensions) is refused,
and so is a map with a key twice: two readers might take different ones.
"""

import struct
from collections.abc import Hashable

from dedup_storage.errors import RefusedError

# borg's own limit for what it takes (borg/remote.py get_limited_unpacker, MAX_OBJECT_SIZE) is a
# little above 20 MiB
MAX_MESSAGE = 24 << 20
_MAX_DEPTH = 8
_MAX_ITEMS = 100_000

Value = bytes | int | float | bool | None | list["Value"] | dict[Hashable, "Value"]


class _ShortError(Exception):
    """More bytes are needed: as many in all as its argument says."""

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class _Reader:
    """Reads one object from the beginning of a buffer."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data
        self.position = 0

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > MAX_MESSAGE:
            raise RefusedError("a message is too large")
        if end > len(self._data):
            raise _ShortError(end)
        piece = bytes(self._data[self.position : end])
        self.position = end
        return piece

    def _number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "big", signed=signed)

    def value(self, depth: int = 0) -> Value:
        """Read an object."""
        if depth > _MAX_DEPTH:
            raise RefusedError("a message is nested too deeply")
        kind = self._take(1)[0]
        if kind < 0x80:
            return kind
        if kind >= 0xE0:
            return kind - 0x100
        if kind < 0x90:
            return self._map(kind & 0x0F, depth)
        if kind < 0xA0:
            return self._array(kind & 0x0F, depth)
        if kind < 0xC0:
            return self._take(kind & 0x1F)
        return self._long(kind, depth)

    def _long(self, kind: int, depth: int) -> Value:
        if kind in _SIMPLE:
            return _SIMPLE[kind]
        if 0xCC <= kind <= 0xD3:
            return self._number(1 << (kind & 3), signed=kind >= 0xD0)
        if kind in (0xCA, 0xCB):
            return float(
                struct.unpack(">f" if kind == 0xCA else ">d", self._take(4 << kind - 0xCA))[0]
            )
        if kind in _BYTES:
            return self._take(self._number(_BYTES[kind]))
        if kind in (0xDC, 0xDD):
            return self._array(self._number(2 << (kind - 0xDC)), depth)
        if kind in (0xDE, 0xDF):
            return self._map(self._number(2 << (kind - 0xDE)), depth)
        raise RefusedError("a message has a type that borg doesn't use")

    def _array(self, count: int, depth: int) -> list[Value]:
        if count > _MAX_ITEMS:
            raise RefusedError("a message has too many items")
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[Hashable, Value]:
        if count > _MAX_ITEMS:
            raise RefusedError("a message has too many items")
        result: dict[Hashable, Value] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, bytes) or key in result:
                raise RefusedError("a message has a key twice, or one that is no string")
            result[key] = self.value(depth + 1)
        return result


_SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}
# bin 8/16/32 and str 8/16/32: how many bytes their length has
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


class Splitter:
    """Collects a stream and gives back whole messages."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._data = bytearray()
        self._wanted = 1

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._data += data

    def next(self) -> tuple[bytes, Value] | None:
        """Give the next message, as it came and decoded; None when it isn't complete.

        Raises:
            RefusedError: when it can't be a message of borg's.
        """
        if len(self._data) < self._wanted:
            return None
        reader = _Reader(self._data)
        try:
            value = reader.value()
        except _ShortError as short:
            self._wanted = short.wanted
            return None
        raw = bytes(self._data[: reader.position])
        del self._data[: reader.position]
        self._wanted = 1
        return raw, value
