# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong leaves no output, one line on stderr, and no lie in the ledger."""

import contextlib
import fcntl
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from testing.shim.driver import (
    BACKUP,
    ENDINGS,
    HEADER,
    MEMBER,
    SECRET,
    Call,
    Root,
    limit_file_size,
    line,
    wait_for,
)

MEGABYTE = 1 << 20


def feed(call: Call, data: bytes) -> None:
    """Write to the shim's stdin until it stops reading."""
    assert call.process.stdin
    with contextlib.suppress(BrokenPipeError):
        call.process.stdin.write(data)


def test_full_disk_leaves_no_output(root: Root) -> None:
    (root.work / MEMBER).write_bytes(b"a chunk from before")
    call = root.start_enc(line(), setup=limit_file_size(MEGABYTE))
    feed(call, b"x" * 4 * MEGABYTE)
    result = call.finish()
    message = f"scrypt: Error writing file: {root.work / MEMBER}: File too large\n"
    assert (result.status, result.stderr) == (1, message.encode())
    assert root.files() == set()


def test_full_disk_while_restoring_leaves_no_output(root: Root) -> None:
    root.enc(b"x" * 4 * MEGABYTE, line())
    result = root.dec(line(), setup=limit_file_size(MEGABYTE))
    message = f"scrypt: Error writing file: {root.work / 'out'}: File too large\n"
    assert (result.status, result.stderr) == (1, message.encode())
    assert root.files() == {MEMBER}


def test_output_folder_that_is_missing(root: Root) -> None:
    root.enc(b"data", line())
    result = root.dec(line(), target="no/such/out")
    reason = (
        f"scrypt: Cannot open output file: {root.work}/no/such/out: No such file or directory\n"
    )
    assert (result.status, result.stderr) == (1, reason.encode())


def test_output_folder_that_is_missing_while_encoding(root: Root) -> None:
    call = root.start_enc(line(member="no/such.000"), "no/such.000.enc")
    feed(call, b"data")
    result = call.finish()
    assert result.status == 1
    assert result.stderr.startswith(b"scrypt: Cannot open output file: ")


def test_missing_input_is_said_before_any_prompt(root: Root) -> None:
    result = Call([root.scrypt, "enc", root.work / "missing", root.work / MEMBER]).finish()
    message = (
        f"scrypt: Cannot open input file: {root.work / 'missing'}: No such file or directory\n"
    )
    assert (result.status, result.stderr) == (1, message.encode())


def test_input_that_cannot_be_read(root: Root) -> None:
    call = root.start_enc(line(), source=root.work)
    result = call.finish()
    assert (result.status, result.stderr) == (1, b"scrypt: Error reading file: Is a directory\n")
    assert root.files() == set()


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize("source", ["enc", "dec"])
def test_signal_midway_leaves_no_output(root: Root, source: str, number: signal.Signals) -> None:
    if source == "enc":
        call = root.start_enc(line())
        assert call.process.stdin
        call.process.stdin.write(b"x" * MEGABYTE * 2)  # more than fits into the pipe
        wait_for(call.asleep, "the shim to wait for more")
        call.process.send_signal(number)
    else:
        root.enc(b"x" * MEGABYTE * 4, line())
        call, pid = root.stopped_dec(line(), "readv", 4)
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
    result = call.finish()
    assert (result.status, result.stderr) == (-number, b"")
    assert root.files() == (set() if source == "enc" else {MEMBER})
    assert len(root.ledger()) == (source == "dec")


# Runs a program on filesystems that know no nameless files, as far as it can tell.
NO_NAMELESS = """
import errno, os, runpy, sys
def hook(event, arguments):
    if event == "open" and arguments[2] & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, "not supported")
sys.addaudithook(hook)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_filesystem_without_nameless_files(root: Root) -> None:
    prefix = (sys.executable, "-c", NO_NAMELESS)
    call = root.start_enc(line(), prefix=prefix)
    feed(call, b"x" * 2 * MEGABYTE)
    wait_for(root.files, "the hidden file")
    call.process.send_signal(signal.SIGTERM)
    assert call.finish().status == -signal.SIGTERM
    assert root.files() == set()
    call = root.start_enc(line(), prefix=prefix)
    feed(call, b"data")
    assert (call.finish().status, root.files()) == (0, {MEMBER})
    assert root.dec(line()).status == 0
    assert (root.work / "out").read_bytes() == b"data"


def test_hidden_file_of_a_killed_one_is_swept_but_none_in_use(root: Root) -> None:
    prefix = (sys.executable, "-c", NO_NAMELESS)

    def started(member: str) -> Call:
        """Start one that waits for more to encode; return when its hidden file is there."""
        before = root.files()
        call = root.start_enc(line(member=member), member, prefix=prefix)
        feed(call, b"x" * 2 * MEGABYTE)
        wait_for(lambda: root.files() > before, "the hidden file")
        return call

    killed, in_use = started("vm7/a.000.enc"), started("vm7/b.000.enc")
    left, used = sorted(root.files(), key=lambda name: (root.work / name).stat().st_ino)
    killed.process.kill()
    assert killed.finish().status == -signal.SIGKILL
    others = {"vm7/.scrypt-mine", "vm7/.scrypt-0123456789abcdef/file"}
    (root.work / "vm7/.scrypt-0123456789abcdef").mkdir()
    for name in others:
        (root.work / name).touch()
    assert root.files() == {left, used} | others
    # Wherever it is next, with nameless files or without.
    for number, start in enumerate(((), prefix)):
        (root.work / left).touch()
        member = f"vm7/{number}.000.enc"
        call = root.start_enc(line(member=member), member, prefix=start)
        feed(call, b"data")
        assert call.finish().status == 0
        others.add(member)
        assert root.files() == {used} | others
    feed(in_use, b"the rest")
    assert in_use.finish().status == 0
    assert root.files() == {"vm7/b.000.enc"} | others
    assert root.dec(line(member="vm7/b.000.enc"), "vm7/b.000.enc").status == 0


def test_ignored_hangup_stays_ignored(root: Root) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    call = root.start_enc(line(), setup=ignore)
    call.process.send_signal(signal.SIGHUP)
    feed(call, b"data")
    assert call.finish().status == 0


def test_real_scrypt_starts_with_default_signals(root: Root) -> None:
    """Python ignores some signals, and what is ignored stays so in the program that follows."""
    call = root.start_enc(line(b"ordinary"))
    root.wait_for_real(call)
    status = Path(f"/proc/{call.process.pid}/status").read_text()
    [mask] = [row.split()[1] for row in status.splitlines() if row.startswith("SigIgn:")]
    call.kill()
    ignored_by_python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert int(mask, 16) & ignored_by_python == 0


@pytest.mark.parametrize("content", [None, b"#!/bin/sh\ncat\n", "the shim"])
def test_without_a_real_scrypt_nothing_is_written(root: Root, content: bytes | str | None) -> None:
    root.real.unlink()
    if content is not None:
        root.real.write_bytes(root.scrypt.read_bytes() if isinstance(content, str) else content)
        root.real.chmod(0o755)
    result = root.start_enc(line(b"ordinary")).finish()
    message = f"scrypt: the real scrypt is not at {root.real}: see 'shimctl status'\n"
    assert (result.status, result.stderr) == (1, message.encode())
    assert root.files() == set()
    result = Call([root.scrypt, "--version"]).finish()
    assert (result.status, result.stderr) == (1, message.encode())
    assert root.enc(b"data", line()).status == 0


# The ledger


def test_ledger_tells_what_the_backup_consists_of(root: Root) -> None:
    root.enc_header()
    root.enc(b"<qubes/>", line(member="qubes.xml.000.enc"), "qubes.xml.000.enc")
    root.enc(b"volume", line())
    header, xml, volume = root.ledger()
    assert [header["member"], xml["member"], volume["member"]] == [
        "backup-header.hmac",
        "qubes.xml.000.enc",
        MEMBER,
    ]
    for record, data in ((header, HEADER.encode()), (xml, b"<qubes/>"), (volume, b"volume")):
        assert record["length"] == len(data)
        assert record["sha256"] == hashlib.sha256(data).hexdigest()
        stored = (root.work / str(record["member"])).read_bytes()
        assert record["trailer"] == stored[-32:].hex()
    assert root.ledgers.stat().st_mode & 0o777 == 0o700
    assert (root.ledgers / BACKUP).stat().st_mode & 0o777 == 0o600


def broken_ledger(root: Root) -> None:
    root.ledgers.parent.mkdir(parents=True)
    root.ledgers.write_text("a file where a folder should be")


def linked_ledger(root: Root) -> None:
    root.ledgers.mkdir(parents=True)
    (root.ledgers / BACKUP).symlink_to("/etc/hostname")


@pytest.mark.parametrize("break_it", [broken_ledger, linked_ledger])
def test_ledger_that_cannot_be_written_is_warned_about(root: Root, break_it: object) -> None:
    assert callable(break_it)
    break_it(root)
    with root.journal() as logged:
        result = root.enc(b"data", line())
        [text] = logged()
    assert (result.status, result.stderr) == (0, b"")
    assert MEMBER in text
    assert "can't be confirmed" in text
    assert root.dec(line()).status == 0


def test_full_disk_leaves_no_torn_line_in_the_ledger(root: Root) -> None:
    root.ledgers.mkdir(parents=True)
    (root.ledgers / BACKUP).write_bytes(b"x" * (MEGABYTE - 5))
    call = root.start_enc(line(), setup=limit_file_size(MEGABYTE))
    feed(call, b"data")
    assert call.finish().status == 0
    assert (root.ledgers / BACKUP).read_bytes() == b"x" * (MEGABYTE - 5)


def test_lock_on_the_ledger_is_not_waited_for_long(root: Root) -> None:
    root.ledgers.mkdir(parents=True)
    with (root.ledgers / BACKUP).open("a") as ledger, root.journal() as logged:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        assert root.enc(b"data", line()).status == 0
        assert "its lock is held" in logged()[0]
    assert root.ledger() == []


def test_header_without_a_valid_id_is_warned_about(root: Root) -> None:
    source = root.work / "backup-header"
    source.write_text("version=4\nbackup-id=../../../etc/passwd\n")
    with root.journal() as logged:
        call = root.start_enc(b"backup-header!" + SECRET, "backup-header.hmac", source)
        assert call.finish().status == 0
        assert "backup-header.hmac" in logged()[0]


def test_concurrent_members_all_get_into_the_ledger(root: Root) -> None:
    members = [f"vm7/private.img.{number:03}.enc" for number in range(4)]
    calls = [root.start_enc(line(member=member), member) for member in members]
    for call in calls:
        feed(call, b"data")
    assert {call.finish().status for call in calls} == {0}
    assert sorted(record["member"] for record in root.ledger()) == members


@pytest.mark.parametrize(
    ("data", "zeros"),
    [
        (b"", 0),
        (bytes(5), 5),
        (b"x" + bytes(1023), 1023),
        (b"x" * MEGABYTE + bytes(1023), 1023),
        (b"x" * MEGABYTE + bytes(1024), 1024),
        (bytes(MEGABYTE + 700), 1024),
        (bytes(2000) + b"x", 0),
    ],
    ids=["empty", "short", "one short", "over two blocks", "end", "zeros", "none"],
)
def test_ledger_tells_how_many_zeros_are_at_the_end(root: Root, data: bytes, zeros: int) -> None:
    root.enc(data, line())
    assert [row["zeros"] for row in root.ledger()] == [zeros]
    assert root.dec(line()).status == 0


# The order of backups


def test_backups_are_counted_whatever_the_clock_says(root: Root) -> None:
    """Only the header's row has the number; two headers at once never get the same one."""
    before = time.time()
    for count in (1, 2):
        root.enc_header()
        root.enc(b"volume", line())
        assert [row.get("order") for row in root.ledger()] == [count, None]
        assert int(before) <= root.ledger()[0]["time"] <= time.time()
        assert root.ledger()[0]["offset"] == time.localtime().tm_gmtoff
        (root.ledgers / BACKUP).unlink()
    calls = []
    for number in range(4):
        source = root.work / f"{number}" / "backup-header"
        source.parent.mkdir()
        source.write_text(HEADER.replace(BACKUP, f"{BACKUP}-{number}"))
        target = f"{number}/backup-header.hmac"
        calls.append(root.start_enc(b"backup-header!" + SECRET, target, source))
    assert {call.finish().status for call in calls} == {0}
    orders = [root.ledger(f"{BACKUP}-{number}")[0]["order"] for number in range(4)]
    assert sorted(orders) == [3, 4, 5, 6]
    counter = root.ledgers.with_name("order")
    assert (counter.stat().st_size, counter.stat().st_mode & 0o777) == (6, 0o600)


def test_counter_that_cannot_be_written_does_not_stop_a_backup(root: Root) -> None:
    root.ledgers.mkdir(parents=True)
    root.ledgers.with_name("order").symlink_to("/etc/hostname")
    with root.journal() as logged:
        assert root.enc_header().status == 0
        [text] = logged()
    assert "must be named to be confirmed" in text
    assert root.ledger()[0]["order"] is None
