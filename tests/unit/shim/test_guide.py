# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of the forum guide's script: guide/scrypt, and `qubes-dedup-backup restore-guide`."""

import argparse
import contextlib
import io
import os
import subprocess
from pathlib import Path

import pytest

from testing.shim.driver import (
    HEADER,
    MEMBER,
    PAYLOAD,
    SECRET,
    Call,
    Result,
    Root,
    limit_file_size,
    line,
)

GUIDE = PAYLOAD / "guide/scrypt"
ANY = b"typed for the window alone"
NOT_VALID = b"scrypt: Input is not valid scrypt-encrypted block\n"


@pytest.fixture
def guide(root: Root) -> Root:
    """A root whose scrypt is the program for such restores."""
    root.scrypt = GUIDE
    return root


@pytest.mark.parametrize("data", [b"", b"scrypt", b"payload" * 300_000], ids=["0", "6", "2 MB"])
def test_what_the_script_made_comes_back(guide: Root, data: bytes) -> None:
    (guide.work / MEMBER).write_bytes(data)
    assert guide.dec(line(ANY)) == Result(0, b"")
    assert (guide.work / "out").read_bytes() == data
    (guide.work / "backup-header.hmac").write_text(HEADER)
    done = guide.dec(b"backup-header!" + ANY, "backup-header.hmac", "backup-header.dec")
    assert done == Result(0, b"")
    assert (guide.work / "backup-header.dec").read_text() == HEADER


@pytest.mark.parametrize(
    "arguments",
    [
        ["enc", "-", MEMBER],
        ["enc", "clear", MEMBER],
        ["enc", "clear", "backup-header.hmac"],
        ["dec", "clear", "out"],
        ["dec", "-f", "clear"],
        ["dec", "-f", "clear", "-"],
        ["dec", "-f", "-", "out"],
        ["dec", "-f", "clear", "/dev/null"],
        ["--version"],
        [],
    ],
)
def test_no_backup_can_be_made_with_it(guide: Root, arguments: list[str]) -> None:
    """Qubes reads its refusal where it expects the prompt, and gives up."""
    (guide.work / "clear").write_bytes(b"data")
    call = Call([GUIDE, *arguments], setup=lambda: os.chdir(guide.work), stdin=subprocess.DEVNULL)
    result = call.finish()
    assert result.status == 1
    assert b"only restores what the forum guide's script made" in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert guide.files() == {"clear"}


def test_containers_and_real_files_are_checked_as_ever(root: Root) -> None:
    root.enc(b"payload", line())
    right = line(ANY, "vm7/root.img.000")
    root.real_enc(b"old backup", right, "vm7/root.img.000.enc")
    root.scrypt = GUIDE
    for user, member, data in (
        (line(), MEMBER, b"payload"),
        (right, "vm7/root.img.000.enc", b"old backup"),
    ):
        assert root.dec(user, member) == Result(0, b"")
        assert (root.work / "out").read_bytes() == data
        (root.work / "out").unlink()
        done = root.dec(user + b"x", member)
        assert done == Result(1, b"scrypt: Passphrase is incorrect\n")
        assert not (root.work / "out").exists()


def test_seals_can_not_be_taken_off(guide: Root) -> None:
    """Who has an authenticated backup's passphrase typed gets it checked, or an error."""
    (guide.work / MEMBER).write_bytes(b"put there by the backup qube")
    for passphrase in (line(), line(b"dedup:short")):
        result = guide.dec(passphrase)
        assert result.status == 1
        assert b"can be checked" in result.stderr
    for passphrase in (line(ANY, "vm8/private.img.000"), ANY, b"backup-header!" + SECRET):
        assert guide.dec(passphrase) == Result(1, NOT_VALID)
    assert guide.files() == {MEMBER}


def test_output_is_whole_or_not_there(guide: Root) -> None:
    (guide.work / MEMBER).write_bytes(b"x" * (4 << 20))
    done = guide.dec(line(ANY), setup=limit_file_size(1 << 20))
    assert (done.status, b"File too large" in done.stderr) == (1, True)
    assert guide.files() == {MEMBER}


def test_missing_input_and_missing_terminal_are_told(guide: Root) -> None:
    argv = [GUIDE, "dec", "-f", guide.work / MEMBER, guide.work / "out"]
    assert b"No such file" in Call(argv).finish().stderr
    (guide.work / MEMBER).write_bytes(b"data")
    done = subprocess.run(
        argv, input=line(ANY), capture_output=True, start_new_session=True, check=False
    )
    assert (done.returncode, b"no terminal" in done.stderr) == (1, True)
    assert guide.files() == {MEMBER}


# restore-guide

PROGRAM = PAYLOAD / "qubes-dedup-backup"
WORDS = ["-d", "qube", "--verify-only", "restic dump latest", "--", "work"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with a qvm-backup-restore that tells how it was called, and its scrypt."""
    tool = tmp_path / "qvm-backup-restore"
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\ncommand -v scrypt\n')
    tool.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def restore_guide(path: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run it without a terminal."""
    return subprocess.run(
        [PROGRAM, "restore-guide", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        start_new_session=True,
        check=False,
    )


def test_restore_is_warned_of_and_has_the_other_scrypt_for_itself_alone(path: str) -> None:
    for own in (["--unchecked"], ["--unchecked", "--"]):
        done = restore_guide(path, *own, *WORDS)
        assert done.returncode == 0
        assert done.stdout.splitlines() == [*WORDS, str(GUIDE)]
        assert done.stderr.startswith("WARNING: ")
        assert "neither encrypted nor authenticated" in done.stderr


@pytest.mark.parametrize("answer", [b"yes", b"no", b""])
def test_user_is_asked_on_the_terminal(path: str, answer: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        call = Call([PROGRAM, "restore-guide", *WORDS], stdout=subprocess.PIPE)
    call.answer(answer)
    done = call.finish()
    if answer == b"yes":
        assert (done.status, done.stdout.decode().splitlines()) == (0, [*WORDS, str(GUIDE)])
    else:
        assert (done.status, done.stdout) == (2, b"")
        assert b"nothing was restored" in done.stderr


def shortened() -> list[str]:
    """Return all that argparse takes for --paranoid-mode, beside qvm-backup-restore's options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--passphrase-file")
    parser.add_argument("--paranoid-mode", "--plan-b", action="store_true")
    found = []
    for name in ("--paranoid-mode", "--plan-b"):
        for end in range(3, len(name)):
            with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                if parser.parse_args([name[:end]]).paranoid_mode:
                    found.append(name[:end])
    return found


def test_restore_that_can_not_be_right_is_refused(path: str) -> None:
    for words, message in (
        (WORDS, "no terminal"),
        (["--unchecked"], "location"),
        (["--unchecked", "--paranoid-mode", *WORDS], "disposable"),
        (["--unchecked", "--plan-b", *WORDS], "disposable"),
        *((["--unchecked", short, *WORDS], "disposable") for short in shortened()),
    ):
        done = restore_guide(path, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    done = restore_guide("/usr/bin:/bin", "--unchecked", *WORDS)
    assert done.returncode == 4
    assert "qvm-backup-restore" in done.stderr
