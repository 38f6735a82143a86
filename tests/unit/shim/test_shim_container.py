# SPDX-License-Identifier: GPL-3.0-or-later
"""The authenticated container: the format, and that nothing but the truth comes out of it."""

import hashlib
import hmac
import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.shim.driver import BACKUP, MEMBER, SECRET, Root, line, temporary_root

DATA = b"the payload of a chunk"
NOT_VALID = b"scrypt: Input is not valid scrypt-encrypted block\n"
INCORRECT = b"scrypt: Passphrase is incorrect\n"
TOO_BIG = b"scrypt: Decrypting file would require too much memory\n"


def make(data: bytes, passphrase: bytes, log_n: int = 14, r: int = 8, p: int = 1) -> bytes:
    """Make a container as docs/design/formats.md describes it, independently of the shim."""
    start = struct.pack(">6sBBII", b"scrypt", 0x80, log_n, r, p) + os.urandom(32)
    start += hashlib.sha256(start).digest()[:16]
    key = b"?" * 32
    if log_n < 18:
        memory = 1 << 29
        key = hashlib.scrypt(
            passphrase, salt=start[16:48], n=1 << log_n, r=r, p=p, maxmem=memory, dklen=64
        )[32:]
    header = start + hmac.digest(key, start, "sha256")
    signed = header + hashlib.sha256(data).digest() + struct.pack(">Q", len(data))
    return header + data + hmac.digest(key, signed, "sha256")


def refused(root: Root, stored: bytes, passphrase: bytes) -> bytes:
    """Restore a container that must be refused; return the message."""
    (root.work / MEMBER).write_bytes(stored)
    result = root.dec(passphrase)
    assert result.status == 1
    assert root.files() == {MEMBER}
    return result.stderr


def test_shim_writes_the_format_of_the_design(root: Root) -> None:
    root.enc(DATA, line())
    stored = (root.work / MEMBER).read_bytes()
    salt = stored[16:48]
    key = hashlib.scrypt(line(), salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 26, dklen=64)[32:]
    start = b"scrypt\x80\x0e" + struct.pack(">II", 8, 1) + salt
    start += hashlib.sha256(start).digest()[:16]
    header = start + hmac.digest(key, start, "sha256")
    signed = header + hashlib.sha256(DATA).digest() + struct.pack(">Q", len(DATA))
    assert stored == header + DATA + hmac.digest(key, signed, "sha256")
    [record] = root.ledger()
    assert record == {
        "member": MEMBER,
        "time": record["time"],
        "length": len(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "trailer": stored[-32:].hex(),
        "zeros": len(DATA) - len(DATA.rstrip(b"\0")),
    }
    assert 0 <= time.time() - record["time"] < 600


@pytest.mark.parametrize("log_n", [14, 17])
def test_shim_reads_the_format_of_the_design(root: Root, log_n: int) -> None:
    (root.work / MEMBER).write_bytes(make(DATA, line(), log_n))
    assert root.dec(line()).status == 0
    assert (root.work / "out").read_bytes() == DATA


def test_each_container_has_its_own_salt(root: Root) -> None:
    stored = []
    for _ in range(2):
        root.enc(DATA, line())
        stored.append((root.work / MEMBER).read_bytes())
    assert stored[0][16:48] != stored[1][16:48]


@settings(max_examples=5, deadline=None)
@given(data=st.binary(max_size=2000), blocks=st.integers(0, 6))
def test_any_payload_comes_back(shared: Root, data: bytes, blocks: int) -> None:
    data = os.urandom(blocks * 256 * 1024) + data  # around the size of the shim's buffer, too
    assert shared.enc(data, line()).status == 0
    assert shared.dec(line()).status == 0
    assert (shared.work / "out").read_bytes() == data


@pytest.fixture(scope="module")
def shared() -> Iterator[Root]:
    """A root for tests that need not be alone in it."""
    with temporary_root() as made:
        yield made


STORED = make(DATA, line())


@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, len(STORED) - 1), change=st.integers(1, 255))
def test_any_altered_byte_is_refused(position: int, change: int) -> None:
    altered = bytearray(STORED)
    altered[position] ^= change
    with temporary_root() as root:
        assert refused(root, bytes(altered), line()) != b""


@settings(max_examples=8, deadline=None)
@given(cut=st.integers(0, len(STORED) - 1), more=st.binary(max_size=40))
def test_any_other_length_is_refused(cut: int, more: bytes) -> None:
    with temporary_root() as root:
        other = STORED[:cut] + more
        if other != STORED:
            assert refused(root, other, line()) != b""
        assert refused(root, STORED + more + b"x", line()) == NOT_VALID


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [(7, 64, NOT_VALID), (64, 96, INCORRECT), (96, len(STORED), NOT_VALID)],
    ids=["parameters, salt, checksum", "header's HMAC", "payload and trailer"],
)
def test_what_is_altered_decides_the_message(
    root: Root, first: int, last: int, message: bytes
) -> None:
    for position in (first, (first + last) // 2, last - 1):
        altered = bytearray(STORED)
        altered[position] ^= 1
        assert refused(root, bytes(altered), line()) == message


@pytest.mark.parametrize(
    "passphrase",
    [
        line(member="vm8/private.img.000.enc"),
        line(member="vm7/private.img.001.enc"),
        line(backup="20240101T120000-1235"),
        line(SECRET + b"x"),
        b"backup-header!" + SECRET,
        b"",
    ],
)
def test_moved_or_replayed_file_is_refused(root: Root, passphrase: bytes) -> None:
    assert refused(root, STORED, passphrase) == INCORRECT


def test_payload_of_another_member_is_refused(root: Root) -> None:
    other = make(b"THE PAYLOAD OF A CHUNK", line(member="vm8/private.img.000"))
    assert refused(root, STORED[:96] + other[96:], line()) == NOT_VALID
    assert refused(root, STORED[:96] + other[96:-32] + STORED[-32:], line()) == NOT_VALID


@pytest.mark.parametrize(
    ("log_n", "r", "p", "message"),
    [
        (18, 8, 1, TOO_BIG),
        (63, 8, 1, TOO_BIG),
        (255, 8, 1, TOO_BIG),
        (14, 9, 1, NOT_VALID),
        (14, 8, 2, NOT_VALID),
        (13, 8, 1, NOT_VALID),
        (1, 8, 1, NOT_VALID),
    ],
)
def test_costly_parameters_are_refused_before_they_cost(
    root: Root, log_n: int, r: int, p: int, message: bytes
) -> None:
    (root.work / MEMBER).write_bytes(make(DATA, line(), log_n, r, p))

    def few_seconds_and_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 27, 1 << 27))

    result = root.dec(line(), setup=few_seconds_and_bytes)
    assert (result.status, result.stderr) == (1, message)


def test_too_little_memory_for_the_key_is_an_error(root: Root) -> None:
    (root.work / MEMBER).write_bytes(make(DATA, line(), 17))
    limit = (1 << 27, 1 << 27)
    result = root.dec(line(), setup=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit))
    assert result.status == 1
    assert result.stderr.startswith(b"scrypt: Error computing derived key")
    assert root.files() == {MEMBER}


def test_memory_does_not_grow_with_the_payload(root: Root) -> None:
    limit = (1 << 27, 1 << 27)  # 128 MiB: the KDF's 16, stacks, interpreter, buffers
    with (root.work / "source").open("wb") as file:
        file.truncate(200 << 20)
    call = root.start_enc(
        line(),
        source=root.work / "source",
        setup=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit),
    )
    _, status, usage = os.wait4(call.process.pid, 0)
    call.process.returncode = status
    call.finish()
    assert status == 0
    # KiB; the figure starts with what this process had when it forked
    assert usage.ru_maxrss < max(64 << 10, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 1)


# Where the output goes


def test_existing_output_is_replaced_only_by_a_verified_one(root: Root) -> None:
    (root.work / "out").write_bytes(b"before")
    (root.work / MEMBER).write_bytes(STORED)
    assert root.dec(line(b"wrong")).stderr == INCORRECT
    assert (root.work / "out").read_bytes() == b"before"
    assert root.dec(line()).status == 0
    assert (root.work / "out").read_bytes() == DATA
    assert root.files() == {MEMBER, "out"}


def test_output_has_the_mode_that_scrypt_gives(root: Root) -> None:
    (root.work / MEMBER).write_bytes(STORED)

    def strict() -> None:
        os.umask(0o027)

    root.dec(line(), setup=strict)
    assert (root.work / "out").stat().st_mode & 0o777 == 0o640


def test_output_goes_through_a_link(root: Root) -> None:
    (root.work / MEMBER).write_bytes(STORED)
    (root.work / "out").symlink_to("target")
    assert root.dec(line()).status == 0
    assert (root.work / "out").is_symlink()
    assert (root.work / "target").read_bytes() == DATA


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("target", ["-", "fifo", "/dev/null"])
def test_only_files_get_what_a_container_has(root: Root, target: str, good: bool) -> None:
    """Other calls are the real scrypt's, which refuses containers; nothing is replaced."""
    (root.work / MEMBER).write_bytes(STORED if good else STORED[:-1] + bytes([STORED[-1] ^ 1]))
    os.mkfifo(root.work / "fifo")
    reader = os.open(root.work / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    result = root.dec(line(), target=target, stdout=subprocess.PIPE)
    assert (result.status, result.stdout) == (1, b"")
    assert b"Unrecognized scrypt format version" in result.stderr
    assert os.read(reader, 4096) == b""
    os.close(reader)
    assert (root.work / "fifo").is_fifo()
    assert Path("/dev/null").is_char_device()


def test_nothing_appears_before_all_is_verified(root: Root) -> None:
    """The payload is there, the trailer's last byte is not."""
    (root.work / MEMBER).write_bytes(make(bytes(4 << 20), line())[:-1])
    call, pid = root.stopped_dec(line(), "readv", 4)
    assert root.files() == {MEMBER}
    os.kill(pid, signal.SIGCONT)
    assert call.finish().stderr == NOT_VALID
    assert root.files() == {MEMBER}


def test_ledgers_are_apart_by_backup(root: Root) -> None:
    root.enc(b"one", line())
    root.enc(b"two", line(backup="another"))
    assert [len(root.ledger(BACKUP)), len(root.ledger("another"))] == [1, 1]
