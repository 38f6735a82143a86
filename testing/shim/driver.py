# SPDX-License-Identifier: GPL-3.0-or-later
"""A root folder with the shim installed, and callers that drive it exactly as Qubes does."""

import asyncio
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testing import paths

PAYLOAD = paths.PAYLOAD / "dom0"
ENTER, CONFIRM = b"Please enter passphrase: ", b"Please confirm passphrase: "
SECRET = b"dedup:correct-horse-battery-staple"
MEMBER = "vm7/private.img.000.enc"
BACKUP = "20240101T120000-1234"
HEADER = f"version=4\nencrypted=True\ncompressed=False\nbackup-id={BACKUP}\n"
Setup = Callable[[], None]


def real_scrypt() -> Path:
    """Return the real scrypt of this machine, wherever a shim may have moved it."""
    for path in (Path("/usr/bin/scrypt.bak"), Path("/usr/bin/scrypt")):
        if path.exists() and path.read_bytes()[:4] == b"\x7fELF":
            return path
    raise RuntimeError("these tests need the scrypt package")


def line(user: bytes = SECRET, member: str = MEMBER, backup: str = BACKUP) -> bytes:
    """Return the passphrase line that Qubes sends for a member and the user's passphrase."""
    return b"%s!%s!%s" % (backup.encode(), member.removesuffix(".enc").encode(), user)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until condition is true."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.005)


@dataclass(frozen=True)
class Result:
    """How a call ended; stderr is what came after the prompts."""

    status: int
    stderr: bytes
    stdout: bytes = b""


class Call:
    """A program started on a controlling terminal of its own (qubes launch_proc_with_pty)."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        echo: bool = False,
        setup: Setup | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
    ) -> None:
        """Start argv; the terminal is neither of its three standard streams."""
        self.master, self.slave = os.openpty()

        def set_ctty() -> None:
            os.setsid()
            os.close(self.master)
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            attributes = termios.tcgetattr(self.slave)
            if not echo:
                attributes[3] &= ~termios.ECHO
            termios.tcsetattr(self.slave, termios.TCSANOW, attributes)
            if setup:
                setup()

        self.process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            preexec_fn=set_ctty,  # noqa: PLW1509 - as Qubes does it
            bufsize=0,
        )
        assert self.process.stderr
        self.stderr = self.process.stderr.fileno()

    def expect(self, prompt: bytes) -> None:
        """Read once, as asyncio does: a prompt written in two pieces is an error."""
        assert os.read(self.stderr, len(prompt)) == prompt

    def answer(self, text: bytes) -> None:
        """Type a line."""
        os.write(self.master, text + b"\n")

    def asleep(self) -> bool:
        """Tell whether the program waits for something."""
        return self.stat()[0] == "S"

    def stat(self) -> list[str]:
        """Return the fields of /proc/PID/stat after the name."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()

    def program(self) -> str:
        """Return the file that the process runs now."""
        return str(Path(f"/proc/{self.process.pid}/exe").readlink())

    def arguments(self) -> list[str]:
        """Return the process's arguments, without its name."""
        return Path(f"/proc/{self.process.pid}/cmdline").read_text().split("\0")[1:-1]

    def silent(self) -> bool:
        """Tell whether there is nothing to read on stderr."""
        return not select.select([self.stderr], [], [], 0)[0]

    def finish(self) -> Result:
        """Wait for the end."""
        out, err = self.process.communicate()
        self.close()
        return Result(self.process.returncode, err, out or b"")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.finish()

    def close(self) -> None:
        """Drop the terminal."""
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)
        self.master = self.slave = -1


@contextmanager
def journal_at(root: Path) -> Iterator[Callable[[], list[str]]]:
    """Be the journal of a root folder: give a function that returns what was logged."""
    (root / "dev").mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(root / "dev/log"))
        log.setblocking(False)

        def logged() -> list[str]:
            texts = []
            while select.select([log], [], [], 0)[0]:
                texts.append(log.recv(4096).decode())
            return texts

        yield logged


class Root:
    """A folder that the shim takes for `/`, with a work folder in it."""

    def __init__(self, path: Path) -> None:
        """Install the shim and the real scrypt below path."""
        self.path = path
        self.scrypt, self.real = path / "usr/bin/scrypt", path / "usr/bin/scrypt.bak"
        self.config = path / "etc/qubes-dedup-backup/scrypt.conf"
        self.ledgers = path / "var/lib/qubes-dedup-backup/ledger"
        self.work = path / "tmp/backup_x"
        for folder in (self.scrypt.parent, self.config.parent, self.work / "vm7", path / "dev"):
            folder.mkdir(parents=True)
        shutil.copy2(PAYLOAD / "scrypt", self.scrypt)
        shutil.copy2(real_scrypt(), self.real)

    def mode(self, text: str) -> None:
        """Write the config."""
        self.config.write_text(text)

    def files(self) -> set[str]:
        """Return what is in the work folder."""
        return {str(p.relative_to(self.work)) for p in self.work.rglob("*") if not p.is_dir()}

    def ledger(self, backup: str = BACKUP) -> list[dict[str, Any]]:
        """Return the records of a backup's ledger."""
        path = self.ledgers / backup
        return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []

    def journal(self) -> AbstractContextManager[Callable[[], list[str]]]:
        """Be the journal: give a function that returns what was logged."""
        return journal_at(self.path)

    def start_enc(
        self,
        passphrase: bytes,
        member: str = MEMBER,
        source: str | Path = "-",
        *,
        setup: Setup | None = None,
        prefix: Sequence[str] = (),
    ) -> Call:
        """Call `scrypt enc` and answer both prompts; stdin is open if source is `-`."""
        stdin = subprocess.PIPE if source == "-" else None
        argv = [*prefix, self.scrypt, "enc", source, self.work / member]
        call = Call(argv, setup=setup, stdin=stdin)
        call.expect(ENTER)
        call.answer(passphrase)
        call.expect(CONFIRM)
        call.answer(passphrase)
        return call

    def enc(self, data: bytes, passphrase: bytes, member: str = MEMBER) -> Result:
        """Encode as qubesd does (qubes/backup.py launch_scrypt): asyncio, status not looked at."""
        return asyncio.run(self._enc(data, passphrase, member))

    async def _enc(self, data: bytes, passphrase: bytes, member: str) -> Result:
        master, slave = os.openpty()

        def set_ctty() -> None:
            os.setsid()
            os.close(master)
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            attributes = termios.tcgetattr(slave)
            attributes[3] &= ~termios.ECHO
            termios.tcsetattr(slave, termios.TCSANOW, attributes)

        process = await asyncio.create_subprocess_exec(
            *(self.scrypt, "enc", "-", self.work / member),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=set_ctty,
        )
        os.close(slave)
        assert process.stdin
        assert process.stderr
        for prompt in (ENTER, CONFIRM):
            assert await process.stderr.read(len(prompt)) == prompt
            os.write(master, passphrase + b"\n")
        process.stdin.write(data)
        process.stdin.close()
        status = await process.wait()
        rest = await process.stderr.read()
        os.close(master)
        return Result(status, rest)

    def enc_header(self, passphrase: bytes = SECRET) -> Result:
        """Encode the backup's header, which is a file."""
        (self.work / "backup-header").write_text(HEADER)
        source = self.work / "backup-header"
        return self.start_enc(b"backup-header!" + passphrase, "backup-header.hmac", source).finish()

    def dec(
        self,
        passphrase: bytes,
        member: str = MEMBER,
        target: str | Path = "out",
        *,
        setup: Setup | None = None,
        stdout: int | None = None,
    ) -> Result:
        """Decode as the restore does (qubesadmin/backup/restore.py launch_scrypt)."""
        where = "-" if target == "-" else self.work / target
        call = Call(
            [self.scrypt, "dec", "-f", self.work / member, where], setup=setup, stdout=stdout
        )
        call.expect(ENTER)
        call.answer(passphrase)
        return call.finish()

    def stopped_dec(self, passphrase: bytes, call: str, when: int) -> tuple[Call, int]:
        """Start to decode, and stop behind a system call; give strace's Call, and the shim's pid.

        It stops behind the when-th of these calls, and goes on at SIGCONT.
        """
        log = self.path / "stopped.log"
        options: list[str | Path] = ["-f", "-qq", "-o", log, "-e", f"trace={call}"]
        options += ["-e", f"inject={call}:signal=STOP:when={when}"]
        paths = [self.work / MEMBER, self.work / "out"]
        started = Call(["strace", *options, self.scrypt, "dec", "-f", *paths])
        started.expect(ENTER)
        started.answer(passphrase)
        wait_for(lambda: "stopped by SIGSTOP" in log.read_text(), f"the shim to stop at {call}")
        pid = started.process.pid
        return started, int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def real_enc(self, data: bytes, passphrase: bytes, member: str = MEMBER) -> None:
        """Make an encrypted file with the real scrypt, with little work."""
        options = ["--logN", "10", "-r", "8", "-p", "1", "--passphrase", "file:/dev/stdin"]
        (self.work / "clear").write_bytes(data)
        paths = [self.work / "clear", self.work / member]
        subprocess.run([self.real, "enc", *options, *paths], input=passphrase, check=True)
        (self.work / "clear").unlink()

    def wait_for_real(self, call: Call) -> None:
        """Wait until the shim has become the real scrypt, and the kernel shows its arguments."""
        wait_for(lambda: call.program() == str(self.real) and call.arguments(), "the real scrypt")

    def becomes_real(self, call: Call) -> list[str]:
        """Wait until the shim has become the real scrypt; end it; return its arguments."""
        self.wait_for_real(call)
        arguments = call.arguments()
        call.kill()
        return arguments


@contextmanager
def temporary_root() -> Iterator[Root]:
    """Give a root with a short path (unix sockets) that goes away."""
    path = Path(tempfile.mkdtemp(prefix="shim-", dir="/tmp"))
    try:
        yield Root(path)
    finally:
        shutil.rmtree(path)


def limit_file_size(size: int) -> Setup:
    """Return what makes writes beyond size bytes fail in a child, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
