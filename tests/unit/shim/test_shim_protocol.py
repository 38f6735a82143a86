# SPDX-License-Identifier: GPL-3.0-or-later
"""The conversation on the terminal, and what becomes of the passphrase."""

import contextlib
import hashlib
import hmac
import os
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from testing.shim.driver import CONFIRM, ENTER, MEMBER, SECRET, Call, Root, line, wait_for


def start(root: Root, *, echo: bool = False) -> Call:
    """Start an encoding and come to its first prompt."""
    call = Call([root.scrypt, "enc", "-", root.work / MEMBER], echo=echo, stdin=subprocess.PIPE)
    call.expect(ENTER)
    return call


def test_second_prompt_comes_only_after_the_first_line(root: Root) -> None:
    call = start(root)
    wait_for(call.asleep, "the shim to wait")
    assert call.silent()
    call.answer(line())
    call.expect(CONFIRM)
    wait_for(call.asleep, "the shim to wait")
    assert call.silent()
    call.kill()


def test_mismatch_asks_again(root: Root) -> None:
    call = start(root)
    call.answer(line())
    call.expect(CONFIRM)
    call.answer(line(SECRET + b"x"))
    call.expect(b"Passwords mismatch, please try again\n")
    for prompt in (ENTER, CONFIRM):
        call.expect(prompt)
        call.answer(line())
    assert call.finish().status == 0
    assert root.dec(line()).status == 0


def echo(call: Call) -> bool:
    """Tell whether the terminal shows what is typed."""
    return bool(termios.tcgetattr(call.slave)[3] & termios.ECHO)


@pytest.mark.parametrize("ordinary", [False, True])
def test_nothing_typed_is_shown_and_the_terminal_is_restored(root: Root, ordinary: bool) -> None:
    call = start(root, echo=True)
    assert not echo(call)
    passphrase = line(b"ordinary") if ordinary else line()
    call.answer(passphrase)
    call.expect(CONFIRM)
    call.answer(passphrase)
    wait_for(lambda: echo(call), "echo to be on again")
    shown = os.read(call.master, 4096)
    assert shown.strip() == b""
    call.kill()


@pytest.mark.parametrize("signal_or_end", ["SIGTERM", "SIGINT", "SIGHUP", "end"])
def test_terminal_is_restored_when_the_prompt_is_left(root: Root, signal_or_end: str) -> None:
    call = start(root, echo=True)
    wait_for(call.asleep, "the shim to wait")
    if signal_or_end == "end":
        os.write(call.master, b"\x04")
    else:
        call.process.send_signal(getattr(signal, signal_or_end))
    wait_for(lambda: echo(call), "echo to be on again")
    result = call.finish()
    if signal_or_end == "end":
        assert (result.status, result.stderr) == (1, b"scrypt: EOF reading password\n")
    else:
        assert (result.status, result.stderr) == (-getattr(signal, signal_or_end), b"")
    assert root.files() == set()


def test_terminal_that_goes_away_ends_the_shim(root: Root) -> None:
    call = root.start_enc(line())
    call.close()
    assert call.process.wait() != 0
    assert root.files() == set()


@pytest.mark.parametrize(
    "user",
    [
        b"dedup:" + b"with spaces ! and!bangs!!",
        b"dedup:" + "übermäßig lange Wörter 密码".encode(),
        b"dedup:" + bytes(range(0x80, 0x100)),
        b"dedup:" + b"\x01\x02\x07\x1b[31m\t and more than that",
        b"dedup:" + b"x" * 3900,
    ],
    ids=["bangs", "unicode", "bytes", "controls", "long"],
)
def test_passphrase_is_bytes(root: Root, user: bytes) -> None:
    assert root.enc(b"some data", line(user)).status == 0
    assert (root.work / MEMBER).read_bytes().startswith(b"scrypt\x80")
    assert root.dec(line(user)).status == 0


def cooked(typed: bytes) -> bytes:
    """Return what a terminal makes of a typed line, by asking one."""
    call = Call(["/usr/bin/head", "--lines=1"], setup=read_terminal, stdout=subprocess.PIPE)
    call.answer(typed)
    return call.finish().stdout.removesuffix(b"\n")


def read_terminal() -> None:
    """Make the terminal stdin."""
    os.dup2(os.open("/dev/tty", os.O_RDONLY), 0)


def key_fits(stored: bytes, passphrase: bytes) -> bool:
    """Tell whether the container was made with this passphrase line."""
    options = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 1 << 26, "dklen": 64}
    key = hashlib.scrypt(passphrase, salt=stored[16:48], **options)[32:]  # type: ignore[arg-type]
    return hmac.compare_digest(hmac.digest(key, stored[:64], "sha256"), stored[64:96])


# All but those that end, stop or take back what is typed
UNUSUAL = bytes(set(range(1, 256)) - {3, 4, 10, 13, 17, 19, 21, 23, 26, 28})


@pytest.mark.parametrize(
    "user",
    [
        SECRET + UNUSUAL,
        SECRET + b"\0 as Python takes it",
        SECRET + b"wrong\x15" + line(),  # ^U takes back what was typed
        SECRET + b"x" * (4095 - len(line())),
        SECRET + b"x" * 5000,
    ],
    ids=["all bytes", "NUL", "kill", "4095", "longer than a line"],
)
def test_key_is_made_of_what_the_terminal_gives(root: Root, user: bytes) -> None:
    given = cooked(line(user))
    assert 0 < len(given) <= 4095
    assert root.enc(b"some data", line(user)).status == 0
    assert key_fits((root.work / MEMBER).read_bytes(), given)
    assert root.dec(line(user)).status == 0


HAND_OVER = """
import importlib.machinery, sys, types
shim = types.ModuleType("shim")
shim.__file__ = sys.argv[1]
importlib.machinery.SourceFileLoader("shim", sys.argv[1]).exec_module(shim)
options = ["--logN", "10", "-r", "8", "-p", "1"]
shim.exec_real(["scrypt", "enc", *options, *sys.argv[2:]], sys.stdin.buffer.read())
"""


@pytest.mark.parametrize("length", [0, 1, 2045, 2046, 2047, 2048, 4000])
def test_real_scrypt_takes_the_handed_line_as_the_typed_one(root: Root, length: int) -> None:
    passphrase = bytes(range(128, 256)) + UNUSUAL.replace(b"\x7f", b"")
    passphrase = (passphrase.replace(b"\x16", b"") * 99)[:length]
    (root.work / "clear").write_bytes(b"text")
    paths = [root.work / "clear", root.work / "stored"]
    argv = ["/usr/bin/python3", "-ISc", HAND_OVER, root.scrypt, *paths]
    done = subprocess.run(argv, input=cooked(passphrase), capture_output=True, check=False)
    call = Call([root.real, "dec", root.work / "stored"], stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    call.expect(ENTER)
    call.answer(passphrase)
    assert call.finish().stdout == b"text"


def ends(call: Call, how: str) -> None:
    """Let the caller go away, or the line end, in one of the ways there are."""
    if how == "hangup":
        call.close()
    elif how == "EOF":
        os.write(call.master, b"\x04")
    else:
        call.process.send_signal(getattr(signal, how))


@pytest.mark.parametrize("how", ["hangup", "EOF", "SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
@pytest.mark.parametrize("step", range(4))
def test_end_at_any_prompt(root: Root, step: int, how: str) -> None:
    """At the first, the second, and both again after a mismatch."""
    call = start(root, echo=True)
    for number in range(1, step + 1):
        call.answer(line(SECRET + b"different" * (number == 2)))
        call.expect([ENTER, CONFIRM][number % 2] if number != 2 else MISMATCH)
        if number == 2:
            call.expect(ENTER)
    wait_for(call.asleep, "the shim to wait")
    slave = os.dup(call.slave)
    ends(call, how)
    status = call.process.wait()
    assert status == {"hangup": -signal.SIGHUP, "EOF": 1}.get(how) or status == -getattr(
        signal, how
    )
    if how not in {"SIGKILL", "hangup"}:
        assert termios.tcgetattr(slave)[3] & termios.ECHO
    os.close(slave)
    said = os.read(call.stderr, 4096)
    assert said == (b"scrypt: EOF reading password\n" if how == "EOF" else b"")
    assert root.files() == set()
    call.finish()


MISMATCH = b"Passwords mismatch, please try again\n"


@pytest.mark.parametrize("action", ["enc", "dec"])
def test_passphrase_is_nowhere_afterwards(root: Root, action: str) -> None:
    """Neither in a file, nor in the journal, nor in a process, also when all goes wrong."""
    secret = b"dedup:" + os.urandom(16).hex().encode()
    root.ledgers.parent.mkdir(parents=True)
    root.ledgers.write_text("a file where a folder should be")  # a warning
    with root.journal() as logged:
        result = root.enc(b"some data", line(secret))
        if action == "dec":
            stored = root.work / MEMBER
            stored.write_bytes(stored.read_bytes() + b"more")
            result = root.dec(line(secret))
        texts = "".join(logged()).encode() + result.stderr
    assert result.status == (action == "dec")
    assert texts
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                texts += (process / name).read_bytes()
    for path in root.path.rglob("*"):
        if path.is_file():
            texts += path.read_bytes()
    assert secret not in texts
    assert secret[6:] not in texts


@pytest.mark.parametrize("user", [SECRET, b"an ordinary passphrase"], ids=["dedup", "ordinary"])
def test_passphrase_is_not_in_arguments_environment_or_files(root: Root, user: bytes) -> None:
    call = root.start_enc(line(user))
    if user == SECRET:
        assert call.process.stdin
        call.process.stdin.write(b"data" * 1000)
        wait_for(lambda: "/backup_x" in links(call), "the output file")
    else:
        root.wait_for_real(call)
    process = Path(f"/proc/{call.process.pid}")
    assert user not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    call.kill()
    written = [path for path in root.path.rglob("*") if path.is_file()]
    assert written
    assert not any(user in path.read_bytes() for path in written)


def links(call: Call) -> str:
    """Return what the process has open."""
    found = []
    for path in Path(f"/proc/{call.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(str(path.readlink()))
    return " ".join(found)
