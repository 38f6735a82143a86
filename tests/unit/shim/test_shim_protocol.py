# SPDX-License-Identifier: GPL-3.0-or-later
"""The conversation on the terminal, and what becomes of the passphrase."""

import os
import signal
import subprocess
import termios
from pathlib import Path

import pytest
from shim_driver import CONFIRM, ENTER, MEMBER, SECRET, Call, Root, line, wait_for


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
    folder = Path(f"/proc/{call.process.pid}/fd")
    return " ".join(str(path.readlink()) for path in folder.iterdir())
