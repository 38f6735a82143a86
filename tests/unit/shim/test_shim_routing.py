# SPDX-License-Identifier: GPL-3.0-or-later
"""The routing table of docs/design/overview.md, row by row."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from testing.shim.driver import (
    ENTER,
    HEADER,
    MEMBER,
    PAYLOAD,
    SECRET,
    Call,
    Root,
    line,
    real_scrypt,
    wait_for,
)

ORDINARY = b"an ordinary one"


@pytest.mark.parametrize("data", [b"", b"x", b"payload" * 300_000], ids=["empty", "byte", "2 MB"])
def test_opted_in_chunk_becomes_a_container_and_comes_back(root: Root, data: bytes) -> None:
    result = root.enc(data, line())
    assert (result.status, result.stderr) == (0, b"")
    stored = (root.work / MEMBER).read_bytes()
    assert stored.startswith(b"scrypt\x80")
    assert stored[96:-32] == data
    result = root.dec(line())
    assert (result.status, result.stderr) == (0, b"")
    assert (root.work / "out").read_bytes() == data


def test_opted_in_header_becomes_a_container_and_comes_back(root: Root) -> None:
    assert root.enc_header().status == 0
    stored = (root.work / "backup-header.hmac").read_bytes()
    assert stored.startswith(b"scrypt\x80")
    assert len(stored) < 4096  # restore.py HMAC_MAX_SIZE
    result = root.dec(b"backup-header!" + SECRET, "backup-header.hmac", "backup-header.dec")
    assert result.status == 0
    assert (root.work / "backup-header.dec").read_text() == HEADER


@pytest.mark.parametrize(
    "passphrase",
    [
        line(ORDINARY),
        line(b"x!" + SECRET),
        line(b"Dedup:" + b"x" * 32),
        line(b"dedup:" + b"x" * 19),
        line(member="vm8/private.img.000"),
        line(member="private.img.000!vm7"),
        line(backup="2024_01"),
        line(backup=""),
        b"backup-header!" + SECRET,
        SECRET,
        b"",
    ],
)
def test_any_other_passphrase_goes_to_the_real_scrypt(root: Root, passphrase: bytes) -> None:
    call = root.start_enc(passphrase)
    enc, option, method, source, target = root.becomes_real(call)
    assert (enc, option, source, target) == ("enc", "--passphrase", "-", str(root.work / MEMBER))
    assert method.startswith("file:/dev/fd/")


def test_header_line_of_another_form_goes_to_the_real_scrypt(root: Root) -> None:
    source = root.work / "backup-header"
    source.write_text(HEADER)
    root.becomes_real(root.start_enc(line(), "backup-header.hmac", source))
    root.becomes_real(root.start_enc(b"backup-headers!" + SECRET, "backup-header.hmac", source))


def test_twenty_bytes_after_the_prefix_are_enough(root: Root) -> None:
    assert root.enc(b"data", line(b"dedup:" + b"x" * 20)).status == 0
    assert (root.work / MEMBER).read_bytes().startswith(b"scrypt\x80")


def test_too_short_secret_is_warned_about(root: Root) -> None:
    with root.journal() as logged:
        root.becomes_real(root.start_enc(line(b"dedup:short")))
        [text] = logged()
    assert text.startswith("<12>qubes-dedup-backup[")
    assert "really encrypted" in text
    assert "short" not in text


def test_ordinary_backup_is_really_encrypted_and_restored(root: Root) -> None:
    # The real scrypt at its default cost: some seconds. It takes 2047 bytes of a terminal's line.
    passphrase = b"p!a s\xff\xc3\xa4\x01s" + b"x" * 2100
    assert root.enc(b"some data", line(passphrase)).status == 0
    stored = (root.work / MEMBER).read_bytes()
    assert stored.startswith(b"scrypt\x00")
    assert b"some data" not in stored
    result = root.dec(line(passphrase))
    assert (result.status, result.stderr) == (0, b"")
    assert (root.work / "out").read_bytes() == b"some data"


def test_real_file_is_decrypted_by_the_real_scrypt(root: Root) -> None:
    root.real_enc(b"old backup", line())
    result = root.dec(line())
    assert (result.status, result.stderr) == (0, b"")
    assert (root.work / "out").read_bytes() == b"old backup"
    result = root.dec(line(b"wrong"), target="other")
    assert (result.status, result.stderr) == (1, b"scrypt: Passphrase is incorrect\n")


def test_real_scrypt_is_called_untouched_for_its_files(root: Root) -> None:
    root.real_enc(b"old backup", line())
    call = Call([root.scrypt, "dec", "-f", root.work / MEMBER, root.work / "out"])
    call.expect(ENTER)
    assert root.becomes_real(call) == ["dec", "-f", str(root.work / MEMBER), str(root.work / "out")]


@pytest.mark.parametrize("data", [b"", b"scrypt", b"scrypt\x81" + b"x" * 200, b"plain" * 99])
def test_input_that_is_no_container_is_refused(root: Root, data: bytes) -> None:
    (root.work / MEMBER).write_bytes(data)
    result = root.dec(line())
    version = data.startswith(b"scrypt\x81")
    reason = "Unrecognized scrypt format version" if version else NOT_VALID
    assert (result.status, result.stderr) == (1, f"scrypt: {reason}\n".encode())
    assert root.files() == {MEMBER}


NOT_VALID = "Input is not valid scrypt-encrypted block"


def test_real_file_from_stdin_is_decrypted_by_the_real_scrypt(root: Root) -> None:
    root.real_enc(b"payload", line())
    call = Call([root.scrypt, "dec", "-f", "-", root.work / "out"], stdin=subprocess.PIPE)
    call.expect(ENTER)
    call.answer(line())
    assert call.process.stdin
    call.process.stdin.write((root.work / MEMBER).read_bytes())
    assert call.finish().stderr == b""
    assert (root.work / "out").read_bytes() == b"payload"


@pytest.mark.parametrize(
    ("source", "target"),
    [("-", "out"), ("-", "-"), (MEMBER, "-"), (MEMBER, "fifo"), (MEMBER, "/dev/null")],
)
def test_container_from_stdin_or_to_no_file_is_the_real_scrypt(
    root: Root, source: str, target: str
) -> None:
    """Qubes calls neither; the real scrypt asks first, and then refuses a container."""
    root.enc(b"payload", line())
    os.mkfifo(root.work / "fifo")
    call = Call(
        [root.scrypt, "dec", "-f", source, target],
        setup=lambda: os.chdir(root.work),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    call.expect(ENTER)
    assert root.becomes_real(call) == ["dec", "-f", source, target]
    assert root.files() == {MEMBER, "fifo"}


@pytest.mark.parametrize("target", ["/dev/null", ".", "fifo"])
def test_encoding_into_no_file_is_the_real_scrypt(root: Root, target: str) -> None:
    """Whatever its name: here it is a link that looks like a member."""
    os.mkfifo(root.work / "fifo")
    (root.work / MEMBER).symlink_to(root.work / target)
    call = Call([root.scrypt, "enc", "-", root.work / MEMBER], stdin=subprocess.PIPE)
    call.expect(ENTER)
    assert root.becomes_real(call) == ["enc", "-", str(root.work / MEMBER)]
    assert root.ledger() == []


LIGHT = ["--logN", "10", "-r", "8", "-p", "1"]
OTHER_CALLS: dict[str, list[str]] = {
    "nothing": [],
    "version": ["--version"],
    "action only": ["enc"],
    "unknown action": ["encrypt", "clear", "out"],
    "unknown option": ["enc", "-x", "clear", "out"],
    "missing input": ["dec", "-f", "missing.000.enc", "out"],
    "missing input, enc": ["enc", "missing", "x.000.enc"],
    "info": ["info", "real"],
    "info on no such file": ["info", "clear"],
    "dec from stdin passphrase": ["dec", "-P", "real"],
    "dec without -f": ["dec", "--passphrase", "file:pass", "real", "-v"],
    "wrong passphrase": ["dec", "--passphrase", "file:clear", "real", "out"],
    "half of the parameters": ["enc", "--logN", "10", "clear", "out"],
    "two passphrases": ["enc", "-P", "-P", "clear", "out"],
    "unreadable folder": ["enc", *LIGHT, "-P", "clear", "no/such/out"],
    "passphrase and input on stdin": ["enc", "-P", "-", "out"],
    "three operands": ["dec", "-f", "real", "out", "more"],
    "empty operand": ["dec", "-f", "", "out"],
    "option for operand": ["enc", "-", "-v.000.enc"],
    "container": ["dec", "-P", "container"],
    "help": ["--help"],
    "version and more": ["--version", "enc", "clear", "out"],
    "version after the action": ["enc", "--version", "clear", "out"],
    "empty action": ["", "clear", "out"],
    "action in capitals": ["ENC", "clear", "x.000.enc"],
    "action abbreviated": ["en", "clear", "x.000.enc"],
    "option before the action": ["-f", "dec", "real", "out"],
    "operands ended": ["dec", "-P", "--", "real", "out"],
    "operands ended, as Qubes calls": ["dec", "-f", "--", "missing", "out"],
    "enc, operands ended": ["enc", *LIGHT, "-P", "--", "clear", "x.000.enc"],
    "force twice": ["dec", "-f", "-f", "-P", "real", "out"],
    "force last": ["dec", "-P", "real", "out", "-f"],
    "force and passphrase": ["dec", "-f", "-P", "real", "out"],
    "joined options": ["dec", "-fP", "real", "out"],
    "verbose": ["dec", "-v", "-P", "real", "out"],
    "long option abbreviated": ["dec", "--pass", "file:pass", "real", "out"],
    "long option with =": ["dec", "--passphrase=file:pass", "real", "out"],
    "passphrase without a method": ["dec", "--passphrase", "pass", "real", "out"],
    "passphrase of unknown method": ["dec", "--passphrase", "fd:3", "real", "out"],
    "passphrase missing": ["dec", "real", "out", "--passphrase"],
    "passphrase in the environment": ["dec", "--passphrase", "env:SHIM_TEST", "real", "out"],
    "passphrase in no variable": ["dec", "--passphrase", "env:NO_SUCH", "real", "out"],
    "passphrase in no file": ["dec", "--passphrase", "file:missing", "real", "out"],
    "passphrase once from stdin": ["dec", "--passphrase", "dev:stdin-once", "real", "out"],
    "passphrase from the terminal or stdin": ["dec", "--passphrase", "dev:tty-stdin", "real", "o"],
    "passphrase from the terminal": ["dec", "--passphrase", "dev:tty-once", "real", "out"],
    "no terminal": ["dec", "-f", "real", "out"],
    "no terminal, to stdout": ["dec", "-f", "real"],
    "no terminal, input on stdin": ["dec", "-f", "-", "out"],
    "stdout as -": ["dec", "-f", "-P", "real", "-"],
    "memory fraction": ["dec", "-m", "0.5", "-M", "100000000", "-t", "9.5", "-P", "real", "out"],
    "too little time": ["dec", "-t", "0.000001", "-P", "real", "out"],
    "too little memory": ["dec", "-M", "1", "-P", "real", "out"],
    "memory that is no number": ["dec", "-M", "much", "-P", "real", "out"],
    "fraction that is no number": ["dec", "-m", "half", "-P", "real", "out"],
    "time that is no number": ["dec", "-t", "long", "-P", "real", "out"],
    "logN too small": ["enc", "--logN", "9", "-r", "8", "-p", "1", "-P", "clear", "out"],
    "logN too big": ["enc", "--logN", "41", "-r", "8", "-p", "1", "-P", "clear", "out"],
    "r of zero": ["enc", "--logN", "10", "-r", "0", "-p", "1", "-P", "clear", "out"],
    "p too big": ["enc", "--logN", "10", "-r", "8", "-p", "9999", "-P", "clear", "out"],
    "parameters for dec": ["dec", *LIGHT, "-P", "real", "out"],
    "info with options": ["info", "-v", "real"],
    "info with force": ["info", "-f", "real"],
    "info of stdin": ["info", "-"],
    "info of stdin, left out": ["info"],
    "info of a container": ["info", "container"],
    "info with an output": ["info", "real", "out"],
    "output is a folder": ["dec", "-f", "-P", "real", "."],
    "input is a folder": ["dec", "-f", "-P", ".", "out"],
    "output is the input": ["dec", "-f", "-P", "real", "real"],
    "bytes that are no UTF-8": ["dec", "-f", "-P", "m\udcff", "out"],
    "a line break": ["dec", "-f", "-P", "m\nissing", "out"],
    "enc to another name": ["enc", *LIGHT, "-P", "clear", "out"],
    "enc to the name that Qubes uses, with options": ["enc", *LIGHT, "-P", "clear", "x.000.enc"],
    "missing input, header": ["enc", "missing", "backup-header.hmac"],
}
# What the real scrypt makes anew each time
RANDOM = {"out", "x.000.enc"}


@pytest.mark.parametrize("arguments", OTHER_CALLS.values(), ids=OTHER_CALLS.keys())
def test_any_other_call_is_the_real_scrypt(root: Root, arguments: list[str]) -> None:
    root.real_enc(b"old backup", b"pass", "real")
    real = (root.work / "real").read_bytes()
    for name, data in (
        ("clear", b"text"),
        ("pass", b"pass"),
        ("container", b"scrypt\x80" + b"x" * 99),
    ):
        (root.work / name).write_bytes(data)

    def outcome(program: Path) -> tuple[int, bytes, bytes, dict[str, object]]:
        for name in RANDOM:
            (root.work / name).unlink(missing_ok=True)
        (root.work / "real").write_bytes(real)
        done = subprocess.run(
            [root.scrypt, *arguments],
            executable=program,
            input=b"pass\n",
            capture_output=True,
            cwd=root.work,
            env=os.environ | {"SHIM_TEST": "pass"},
            start_new_session=True,
            check=False,
        )
        files: dict[str, object] = {}
        for name in root.files():
            data, mode = (root.work / name).read_bytes(), (root.work / name).stat().st_mode
            files[name] = (len(data) if name in RANDOM and arguments[0] == "enc" else data, mode)
        return done.returncode, done.stdout, done.stderr, files

    expected = outcome(root.real)
    assert expected[0] == 0 or expected[2]
    assert outcome(root.scrypt) == expected


def test_option_in_the_place_of_an_operand_is_an_option(root: Root) -> None:
    root.enc(b"payload", line())
    (root.work / MEMBER).rename(root.work / "-x")
    call = Call([root.scrypt, "dec", "-f", "-x", "out"], setup=lambda: os.chdir(root.work))
    wait_for(lambda: not call.silent(), "a word")
    assert os.read(call.stderr, 99).startswith(b"scrypt: illegal option -- -x\n")
    assert call.finish().status == 1


@pytest.mark.parametrize("mode", ["authenticated", "off"])
def test_beginning_of_a_really_encrypted_backup_is_noted(root: Root, mode: str) -> None:
    """dom0 must not take its success for that of a backup with a ledger."""
    assert root.enc_header().status == 0
    noted = root.ledgers.with_name("encrypted")
    assert not noted.exists()
    root.mode(f"mode = {mode}\n")
    before = int(time.time())
    for member in ("backup-header.hmac", MEMBER):
        call = root.start_enc(b"backup-header!" + ORDINARY, member)
        assert root.becomes_real(call)[-1] == str(root.work / member)
    [row] = map(json.loads, noted.read_text().splitlines())
    assert row["order"] == 2 == noted.with_name("order").stat().st_size
    assert before <= row["time"] <= time.time()
    assert noted.stat().st_mode & 0o777 == 0o600


def test_note_that_cannot_be_made_is_told(root: Root) -> None:
    root.ledgers.with_name("encrypted").mkdir(parents=True)
    root.mode("mode = off\n")
    with root.journal() as logged:
        call = Call([root.scrypt, "enc", "-", root.work / "backup-header.hmac"])
        call.expect(ENTER)
        assert root.becomes_real(call)
        [text] = logged()
        assert "earlier backups can't be confirmed any more" in text


def test_enc_without_a_terminal_is_the_real_scrypt(root: Root) -> None:
    (root.work / "clear").write_bytes(b"text")
    paths = [root.work / "clear", root.work / MEMBER]
    process = subprocess.Popen(
        [root.scrypt, "enc", *paths], stdin=subprocess.PIPE, start_new_session=True
    )
    exe = Path(f"/proc/{process.pid}/exe")
    wait_for(lambda: exe.readlink() == root.real, "the real scrypt")
    process.kill()
    process.communicate()


def test_container_is_decoded_without_a_terminal_with_a_passphrase_on_stdin(root: Root) -> None:
    root.enc(b"payload", line())
    paths = [root.work / MEMBER, root.work / "out"]
    passphrase = line() + b"\n"
    done = subprocess.run(
        [root.scrypt, "dec", "-f", *paths],
        input=passphrase,
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
    assert (root.work / "out").read_bytes() == b"payload"


def test_shim_runs_as_it_lies_in_the_payload() -> None:
    def version(program: Path) -> bytes:
        return subprocess.run([program, "--version"], capture_output=True, check=True).stdout

    assert version(PAYLOAD / "scrypt") == version(real_scrypt())
