# SPDX-License-Identifier: GPL-3.0-or-later
"""A stream of msgpack objects cut into messages, strictly and with bounds.

Format: github.com/msgpack/msgpack/blob/master/spec.md. Strings come out as bytes, as borg reads
them (borg/helpers/msgpack.py: raw=True). What borg doesn't send (extensions) is refused,
and so is a map with a key twice: two readers might take different ones. What a message may cost is
counted over all of it, however it is nested: a byte of it can be an object here.
"""

import struct
from collections.abc import Generator, Hashable

from dedup_server.errors import RefusedError

# borg's own limit for what it takes (borg/remote.py get_limited_unpacker, MAX_OBJECT_SIZE) is a
# little above 20 MiB
MAX_MESSAGE = 24 << 20
_MAX_DEPTH = 8
# Keys and values of a whole message. borg's requests have some twenty; its server takes 100 in
# each map or list (get_limited_unpacker).
MAX_ITEMS = 100

Value = bytes | int | float | bool | None | list["Value"] | dict[Hashable, "Value"]
# what takes bytes as they come: it stops where there are none yet, and is then started again
_Bytes = Generator[None, None, bytes]
_Reading = Generator[None, None, Value]


class _Reader:
    """A reader of one object from a buffer that still fills; no byte is read twice."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self._items = 0
        self.position = 0

    def _take(self, count: int) -> _Bytes:
        end = self.position + count
        if end > MAX_MESSAGE:
            raise RefusedError("a message is too large")
        while end > len(self._data):
            yield
        piece = bytes(self._data[self.position : end])
        self.position = end
        return piece

    def _number(self, size: int, *, signed: bool = False) -> Generator[None, None, int]:
        return int.from_bytes((yield from self._take(size)), "big", signed=signed)

    def value(self, depth: int = 0) -> _Reading:
        """Read an object."""
        if depth > _MAX_DEPTH:
            raise RefusedError("a message is nested too deeply")
        kind = (yield from self._take(1))[0]
        if kind < 0x80:
            return kind
        if kind >= 0xE0:
            return kind - 0x100
        if kind < 0x90:
            return (yield from self._map(kind & 0x0F, depth))
        if kind < 0xA0:
            return (yield from self._array(kind & 0x0F, depth))
        if kind < 0xC0:
            return (yield from self._take(kind & 0x1F))
        return (yield from self._long(kind, depth))

    def _long(self, kind: int, depth: int) -> _Reading:
        if kind in _SIMPLE:
            return _SIMPLE[kind]
        if 0xCC <= kind <= 0xD3:
            return (yield from self._number(1 << (kind & 3), signed=kind >= 0xD0))
        if kind in (0xCA, 0xCB):
            piece = yield from self._take(4 << kind - 0xCA)
            return float(struct.unpack(">f" if kind == 0xCA else ">d", piece)[0])
        if kind in _BYTES:
            return (yield from self._take((yield from self._number(_BYTES[kind]))))
        if kind in (0xDC, 0xDD):
            return (yield from self._array((yield from self._number(2 << (kind - 0xDC))), depth))
        if kind in (0xDE, 0xDF):
            return (yield from self._map((yield from self._number(2 << (kind - 0xDE))), depth))
        raise RefusedError("a message has a type that borg doesn't use")

    def _count(self, items: int) -> None:
        """Take items from what a whole message may have, before any is read."""
        self._items += items
        if self._items > MAX_ITEMS:
            raise RefusedError("a message has too many items")

    def _array(self, count: int, depth: int) -> _Reading:
        self._count(count)
        result: list[Value] = []
        for _ in range(count):
            result.append((yield from self.value(depth + 1)))
        return result

    def _map(self, count: int, depth: int) -> _Reading:
        self._count(2 * count)
        result: dict[Hashable, Value] = {}
        for _ in range(count):
            key = yield from self.value(depth + 1)
            if not isinstance(key, bytes) or key in result:
                raise RefusedError("a message has a key twice, or one that isn't a string")
            result[key] = yield from self.value(depth + 1)
        return result


_SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}
# bin 8/16/32 and str 8/16/32: how many bytes their length has
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


class Splitter:
    """A collector of a stream that returns whole messages."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._begin()

    def _begin(self) -> None:
        self._reader = _Reader(self._data)
        self._reading = self._reader.value()

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._data += data

    def next(self) -> tuple[bytes, Value] | None:
        """Return the next message, as it came and decoded; None while it isn't complete.

        Raises:
            RefusedError: it can't be a message of borg's.
        """
        try:
            next(self._reading)
        except StopIteration as end:
            raw = bytes(self._data[: self._reader.position])
            del self._data[: self._reader.position]
            self._begin()
            return raw, end.value
        return None
