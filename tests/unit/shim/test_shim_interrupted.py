# SPDX-License-Identifier: GPL-3.0-or-later
"""A signal, a kill or an error at each system call: no half of anything is left behind.

A first run under strace lists the calls that the shim makes from its first line on; then one run
for each of them meets the mishap there (strace --inject).
"""

import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from testing.shim.driver import CONFIRM, ENTER, Call, Result, Root, line, temporary_root

DATA = b"some payload " * 1000
MEMBER = "a.000.enc"
PASSPHRASE = line(b"dedup:" + b"s" * 20, MEMBER, "1")
READY = re.compile(r"rt_sigaction\(SIGTERM, \{sa_handler=0x")  # the shim's handlers are in place
CALL = re.compile(r"(\d+) +(\w+)\((.*)")
WITH_PATHS = {"openat", "newfstatat", "mkdir", "linkat", "link", "rename", "unlink"}
WITH_FILES = {"write", "readv", "pread64", "fcntl", "flock"}
CHANGES = {"openat", "write", "linkat", "link", "rename", "unlink", "mkdir"}
Point = tuple[str, int, str]  # system call, its how-manieth, arguments


def start(root: Root, action: str, *, trace: list[str]) -> Call:
    """Start the shim under strace, with all that it will ask for at hand."""
    log = root.path / "strace.log"
    argv: list[str | Path] = ["strace", "-f", "-qq", "-s", "200", "-o", log, *trace, root.scrypt]
    stored, out = root.work / MEMBER, root.work / "out"
    argv += ["enc", "-", stored] if action == "enc" else ["dec", "-f", stored, out]
    call = Call(argv, echo=True, stdin=subprocess.PIPE)
    call.answer(PASSPHRASE)
    call.answer(PASSPHRASE)
    assert call.process.stdin
    call.process.stdin.write(DATA)
    return call


def prepare(root: Root, action: str, *, before: bool = False) -> None:
    """Put the work folder into the state from which the action starts."""
    for path in root.work.iterdir():
        if path.is_file():
            path.unlink()
    if action == "dec":
        (root.work / MEMBER).write_bytes(CONTAINER)
    elif before:
        (root.work / MEMBER).write_bytes(b"a chunk from before")


def points(root: Root, action: str, *, before: bool = False) -> list[Point]:
    """Return the calls at which a mishap is tried; of a passphrase's bytes only some."""
    prepare(root, action, before=before)
    assert finish(start(root, action, trace=[])).status == 0
    counts: dict[tuple[str, str], int] = {}
    found: list[Point] = []
    rows = (root.path / "strace.log").read_text(errors="replace").splitlines()
    ready = False
    for row in rows:
        match = CALL.match(row)
        if not match:
            continue
        pid, name, arguments = match.groups()
        counts[pid, name] = counts.get((pid, name), 0) + 1
        ready = ready or bool(READY.search(row))
        ours = str(root.path) in arguments or "/dev/tty" in arguments
        typed = name == "read" and arguments.endswith("1)                   = 1")
        if ready and (
            (name in WITH_PATHS and ours)
            or name in WITH_FILES
            or (name == "lseek" and "SEEK_SET" in arguments)
            or (name == "ioctl" and "TCSETS" in arguments)
            or (typed and ("\\n" in arguments or counts[pid, name] % 16 == 0))
        ):
            found.append((name, counts[pid, name], arguments))
    return found


def finish(call: Call) -> Result:
    """Wait for the end, the terminal showing again what is typed; give what was said."""
    assert call.process.stdin
    call.process.stdin.close()
    call.process.stdin = None
    _, said = call.process.communicate()
    status = call.process.returncode
    if status != -signal.SIGKILL:
        assert termios.tcgetattr(call.slave)[3] & termios.ECHO
    call.close()
    return Result(status, said.replace(ENTER, b"").replace(CONFIRM, b""))


def container(payload: bytes) -> bytes:
    """Make a container."""
    start = b"scrypt\x80\x0e\0\0\0\x08\0\0\0\x01" + os.urandom(32)
    start += hashlib.sha256(start).digest()[:16]
    header = start + hmac.digest(key(start), start, "sha256")
    signed = header + hashlib.sha256(payload).digest() + len(payload).to_bytes(8, "big")
    return header + payload + hmac.digest(key(start), signed, "sha256")


def key(header: bytes) -> bytes:
    """Derive a container's HMAC key."""
    options = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 1 << 26, "dklen": 64}
    return hashlib.scrypt(PASSPHRASE, salt=header[16:48], **options)[32:]


CONTAINER = container(DATA)


def is_whole(stored: bytes) -> bool:
    """Tell whether stored is DATA's container, or really encrypted."""
    if stored.startswith(b"scrypt\x00"):
        return len(stored) == len(DATA) + 128
    header, payload, trailer = stored[:96], stored[96:-32], stored[-32:]
    signed = header + hashlib.sha256(payload).digest() + len(payload).to_bytes(8, "big")
    expected = hmac.digest(key(header), signed, "sha256")
    return payload == DATA and hmac.compare_digest(trailer, expected)


def check(root: Root, action: str, result: Result, point: object) -> None:
    """Check that there is the whole output, or none, and nothing else."""
    result_file = MEMBER if action == "enc" else "out"
    others = {MEMBER} if action == "dec" else set()
    assert root.files() <= {result_file} | others, point
    path = root.work / result_file
    if path.exists() and path.read_bytes() != b"a chunk from before":
        data = path.read_bytes()
        assert is_whole(data) if action == "enc" else data == DATA, point
    if action == "dec":
        assert (root.work / MEMBER).read_bytes() == CONTAINER
    for ledger in root.ledgers.glob("*"):
        for row in ledger.read_text().splitlines():
            assert json.loads(row)["length"] == len(DATA)
    if result.status == 0:
        assert path.exists(), point
        assert path.read_bytes() != b"a chunk from before"
    elif result.status == 1:
        assert not path.exists(), point
    assert b"Traceback" not in result.stderr
    assert result.stderr.count(b"\n") <= 1, result.stderr
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert not str((process / "exe").readlink()).startswith(str(root.real)), point
        except OSError:
            continue


@pytest.mark.sampled(2)
@pytest.mark.parametrize("action", ["enc", "dec"])
def test_ended_at_any_system_call(action: str) -> None:
    with temporary_root() as root:
        tried = 0
        for name, count, arguments in points(root, action, before=True):
            numbers = [signal.SIGTERM] + [signal.SIGKILL] * (name in CHANGES)
            for number in numbers:
                prepare(root, action, before=True)
                what = f"inject={name}:signal={number.name}:when={count}"
                result = finish(start(root, action, trace=["-e", what]))
                assert result.status in (-number, 0), (what, arguments, result)
                assert result.stderr == b"", (what, arguments, result)
                check(root, action, result, (what, arguments))
                tried += result.status != 0
        assert tried > 20


@pytest.mark.sampled(2)
@pytest.mark.parametrize("action", ["enc", "dec"])
def test_error_at_any_system_call(action: str) -> None:
    with temporary_root() as root:
        failed = 0
        for name, count, arguments in points(root, action):
            if name == "ioctl":  # a terminal that can't be put in order stays as it is
                continue
            prepare(root, action)
            what = f"inject={name}:error={'ENOSPC' if name == 'write' else 'EIO'}:when={count}"
            result = finish(start(root, action, trace=["-e", what]))
            assert result.status in (0, 1), (what, arguments, result)
            check(root, action, result, (what, arguments))
            failed += result.status
        assert failed > 8
