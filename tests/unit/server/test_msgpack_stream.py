# SPDX-License-Identifier: GPL-3.0-or-later
"""What a message to borg's server may cost the storage qube."""

import itertools
import struct
from collections.abc import Iterator

import msgpack
import pytest

from testing.server.storage_qube import StorageQube

MEBIBYTE = 1 << 20
LIMITS = ("prlimit", f"--as={200 * MEBIBYTE}", "--cpu=20")
SINK = '#!/bin/sh\n[ "$1" != --version ] || exec echo borg 1.2.9\nexec cat >/dev/null\n'


def array(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def repeated(piece: bytes) -> bytes:
    return piece * (20 * MEBIBYTE // len(piece))


def in_request(key: bytes, value: bytes) -> bytes:
    return b"\x83\xa1i\x01\xa1m\xa3put\xa1a\x81" + key + value


NESTED = array(200) + (array(100_000) + b"\x90" * 100_000) * 200
HEAVY = {
    "arrays in arrays": NESTED,
    "arrays in a request": in_request(b"\xa2id", NESTED),
    "arrays in a greeting": b"\x94\x01\x00\xa9negotiate" + NESTED,
    "arrays, each in the one before": repeated(array(2) + b"\x90"),
    "lists of some": array(100) + repeated(b"\xdc\x00\x63" + b"\xc0" * 99),
    "maps of one": array(100_000) + repeated(b"\x81\xa1x\x80"),
    "keys": b"\xdf\x00\x01\x86\xa0" + b"".join(b"\xa3%03x\x80" % n for n in range(4096)),
    "strings": array(100_000) + repeated(b"\xa1x"),
    "numbers": array(100_000) + repeated(b"\xcf" + b"\xff" * 8),
    "a list of 2^32": array(0xFFFFFFFF) + repeated(b"\xc0"),
    "a list of 2^32 in a request": in_request(b"\xa2id", array(0xFFFFFFFF) + repeated(b"\xc0")),
    "a map of 2^32": b"\xdf\xff\xff\xff\xff" + repeated(b"\xa1x\xc0"),
    "a string of 2^32": b"\xdb\xff\xff\xff\xff" + repeated(b"x"),
    "bytes of 2^32": b"\xc6\xff\xff\xff\xff" + repeated(b"x"),
    "a key of 2^32": b"\x83\xdb\xff\xff\xff\xff" + repeated(b"x"),
    "deep": repeated(b"\x91"),
    "deep maps": repeated(b"\x81\xa1x"),
    "more than there can be": in_request(b"\xa4data", b"\xc6\x02\x00\x00\x00" + repeated(b"x")),
    "many small ones": repeated(b"\x80"),
}


@pytest.fixture
def limited(qube: StorageQube) -> StorageQube:
    """A storage qube whose services have little; none of these messages may reach borg."""
    qube.configure("main", "borg")
    program = qube.folder / "engines" / "borg"
    program.unlink()
    program.write_text(SINK)
    program.chmod(0o755)
    qube.prefix = LIMITS
    return qube


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", HEAVY)
def test_a_costly_message_ends_the_session(limited: StorageQube, name: str) -> None:
    """20 MB of nested lists took 1.5 GB and 75 s."""
    with limited.start("dedupbackup.Repository", "borg+main") as session:
        _, errors = session.communicate(HEAVY[name])
    assert session.returncode == 3, errors[-2000:]
    assert errors.startswith(b"dedup-server: "), errors[-2000:]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def test_messages_come_out_as_they_went_in_however_they_are_cut() -> None:
    from dedup_server.engines.msgpack_stream import Splitter  # noqa: PLC0415 (see conftest.py)

    messages: list[object] = [
        {b"i": 1, b"m": b"put", b"a": {b"id": bytes(32), b"data": b"x" * 70_000, b"wait": True}},
        {b"i": 1 << 40, b"a": {b"": [None, False, -1, -200, 2.5, 70_000, []]}, b"m": b"y" * 300},
        [1, 2, b"negotiate", [(1, 2, 9)]],
        {b"n": {str(number).encode(): number for number in range(20)}},
    ]
    raws = [msgpack.packb(message, use_bin_type=False) for message in messages]
    for size in (1, 7, 4096, 1 << 20):
        splitter, found = Splitter(), []
        for piece in pieces(b"".join(raws), size):
            splitter.feed(piece)
            found += list(iter(splitter.next, None))
        assert [raw for raw, _ in found] == raws
        for (_, value), raw in zip(found, raws, strict=True):
            assert value == msgpack.unpackb(raw, raw=True)


def test_the_largest_message_of_borg_s_is_taken_in_small_pieces(limited: StorageQube) -> None:
    """It costs what it has, not that for each piece: a limit of the processor's time shows it."""
    data = in_request(b"\xa4data", b"\xc6\x01\x40\x00\x00") + bytes(20 * MEBIBYTE)
    with limited.start("dedupbackup.Repository", "borg+main") as session:
        assert session.stdin is not None
        try:
            for piece in itertools.chain(pieces(data, 4096), [b"\xff"]):
                session.stdin.write(piece)
                session.stdin.flush()
        except BrokenPipeError:
            pass
        _, errors = session.communicate()
    # whole, it is refused for what it asks: nothing was opened
    assert b"borg's request 'put' isn't allowed" in errors
    assert session.returncode == 3
