# SPDX-License-Identifier: GPL-3.0-or-later
"""How scrypt is started and gets its passphrase: the real scrypt, and misbehaving ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Encrypts (async, one read per prompt) or decrypts as the backup tools do, and prints what came.
DRIVER = """\
import asyncio, sys
from pathlib import Path
from qubes import scrypt
action, source, target, line = sys.argv[1:]

async def encrypt():
    stdin = 0 if source == "-" else None
    running = await scrypt.start_encryption(source, Path(target), line.encode(), stdin)
    return await running.process.wait(), b""

try:
    if action == "enc":
        print(*asyncio.run(encrypt()))
    else:
        print(*scrypt.decrypt(Path(source), Path(target), line.encode()))
except Exception as error:
    print(error)
"""

LINE = "20240101T120000-1!vm7/private.img.000!pässwörd"


class Driver:
    """Runs the driver with a PATH of its own."""

    def __init__(self, folder: Path, packages: Path) -> None:
        """Put programs into FOLDER/bin."""
        self.folder = folder
        self._packages = packages
        (folder / "bin").mkdir()

    def scrypt(self, text: str) -> None:
        """Replace scrypt by a Python program."""
        path = self.folder / "bin/scrypt"
        path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{text}\n")
        path.chmod(0o755)

    def __call__(self, *words: str | Path, stdin: bytes = b"") -> str:
        """Run it and return what it printed."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, *map(str, words)],
            check=True,
            input=stdin,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(self._packages), "PATH": path},
        )
        return done.stdout.decode().strip()


@pytest.fixture
def driver(tmp_path: Path, packages: Path) -> Driver:
    return Driver(tmp_path, packages)


def test_the_real_scrypt_both_ways(driver: Driver, tmp_path: Path) -> None:
    real = shutil.which("scrypt")
    assert real, "the Debian package scrypt is missing here"
    # With its default parameters it takes five seconds per file.
    cheap = ["--logN", "10", "-r", "8", "-p", "1"]
    driver.scrypt(
        f"cheap = {cheap!r} if sys.argv[1] == 'enc' else []\n"
        f"os.execv({real!r}, ['scrypt', sys.argv[1], *cheap, *sys.argv[2:]])"
    )
    sealed, clear = tmp_path / "sealed", tmp_path / "clear"
    assert driver("enc", "-", sealed, LINE, stdin=b"data") == "0 b''"
    assert sealed.read_bytes()[:7] == b"scrypt\0"
    assert driver("dec", sealed, clear, LINE) == "0 b''"
    assert clear.read_bytes() == b"data"
    clear.unlink()
    answer = driver("dec", sealed, clear, LINE + "x")
    assert answer.startswith("1 b'")
    assert "Passphrase is incorrect" in answer


PROGRAM = """\
tty = os.open("/dev/tty", os.O_RDWR)
def ask(prompt):
    os.write(2, prompt)
    return os.read(tty, 4096)
"""


def test_what_it_sees(driver: Driver, tmp_path: Path) -> None:
    driver.scrypt(
        PROGRAM + "first = ask(b'Please enter passphrase: ')\n"
        "second = ask(b'Please confirm passphrase: ')\n"
        "echo = bool(__import__('termios').tcgetattr(tty)[3] & 8)\n"
        "others = {tty, tty + 1}\n"
        "fds = sorted({int(fd) for fd in os.listdir('/proc/self/fd')} - others)\n"
        "seen = [sys.argv[1:], first == second, first, echo, os.getsid(0) == os.getpid(), fds]\n"
        "open(sys.argv[3], 'w').write(repr(seen))\n"
    )
    target = tmp_path / "out"
    assert driver("enc", "-", target, LINE) == "0 b''"
    typed = f"{LINE}\n".encode()
    expected = [["enc", "-", str(target)], True, typed, False, True, [0, 1, 2]]
    assert target.read_text() == repr(expected)


def test_options_of_decryption_come_after_the_action(driver: Driver, tmp_path: Path) -> None:
    driver.scrypt(
        PROGRAM + "ask(b'Please enter passphrase: ')\n"
        "open(sys.argv[4], 'w').write(str(sys.argv[1:]))"
    )
    target = tmp_path / "out"
    assert driver("dec", "/in", target, LINE) == "0 b''"
    assert target.read_text() == str(["dec", "-f", "/in", str(target)])


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("ask(b'Passphrase: ')", "b'Passphrase: '"),
        ("os.write(2, b'warning\\n'); time.sleep(30)", r"b'warning\n'"),
        # One read per prompt: what comes in two writes is taken for something else.
        ("os.write(2, b'Please enter'); time.sleep(30)", "b'Please enter'"),
        ("sys.exit(3)", "b''"),
    ],
)
def test_other_prompts_are_refused_when_encrypting(
    driver: Driver, tmp_path: Path, text: str, seen: str
) -> None:
    driver.scrypt(PROGRAM + text)
    assert driver("enc", "-", tmp_path / "out", LINE) == f"Unexpected prompt from scrypt: {seen}"


def test_a_prompt_in_two_writes_is_fine_when_decrypting(driver: Driver, tmp_path: Path) -> None:
    driver.scrypt(
        PROGRAM + "os.write(2, b'Please enter'); time.sleep(0.2); ask(b' passphrase: ')\n"
        "os.write(2, b'why not'); sys.exit(1)"
    )
    assert driver("dec", "/in", tmp_path / "out", LINE) == "1 b'why not'"


def test_a_missing_scrypt_is_told(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file" in driver("enc", "-", tmp_path / "out", LINE)
