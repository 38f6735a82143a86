# SPDX-License-Identifier: GPL-3.0-or-later
"""A dom0 (the lab's Admin API, qrexec and client library) and a backup qube to run the command on.

The backup qube is a process and a folder on this machine; what it answers to `dedup-store` is
either the real dedup-store, or files that a test chose.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testing.dom0.backup import CHUNK
from testing.lab.harness import TEMPLATE, Lab
from testing.paths import LAB, PAYLOAD
from testing.shim.driver import SECRET, Root, temporary_root
from testing.store import memory_engine

QUBE, REPOSITORY = "dedup-backup", "default"
QUBES = ("debian", "work", "personal")  # those of testing/dom0/backup.py
RUN_TIME, RUN_END = "20261124T101600Z-", "-0a1b"
Done = subprocess.CompletedProcess[bytes]


def run_name(backup_id: str) -> str:
    """Name a run as dedup-store does."""
    return f"{RUN_TIME}{backup_id}{RUN_END}"


def member_list(stream: bytes, run: str) -> bytes:
    """What `dedup-store show --lines` says of a stream: dedup-store's own splitter reads it."""
    manifest = memory_engine.split(stream, CHUNK).manifest
    head = {"run": run, "status": manifest.status, "reason": manifest.reason}
    rows = [
        {
            "name": member.name,
            "container": member.container,
            "payload_length": member.payload_length,
            "payload_sha256": member.payload_sha256,
        }
        for member in manifest.members
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in (head, *rows))


class Dom0:
    """dom0 and the backup qube, running."""

    def __init__(self, lab: Lab, root: Root) -> None:
        """Make the backup qube in the lab; dom0's files are in root."""
        self.lab, self.root = lab, root
        self.answers = lab.state / "answers"
        self.run = ""
        self.lasting: set[str] = set()  # backups of all tests
        self._command = lab.state / "dom0bin" / "qubes-dedup-backup"
        for name in (QUBE, *QUBES):
            self.create(name)
        # its login shell forgets the PATH
        path = f"PATH={lab.state}/bin:$PATH"
        lab.service(QUBE, "qubes.VMExec", f'{path} exec {LAB}/qube/rpc/qubes.VMExec "$@"')
        config = {
            "QUBESD_SOCKET": lab.socket("dom0", "qubesd.sock"),
            "QREXEC_CLIENT": lab.state / "dom0bin/qrexec-client",
        }
        settings = "".join(f"config.{key} = {str(value)!r}\n" for key, value in config.items())
        self._write(
            self._command,
            f"#!{sys.executable}\nimport runpy, sys\nsys.path.insert(0, {str(LAB / 'dom0')!r})\n"
            f"from qubesadmin import config\n{settings}"
            f"runpy.run_path({str(PAYLOAD / 'dom0/qubes-dedup-backup')!r}, run_name='__main__')\n",
        )
        self.profile()

    def profile(self, text: str | None = None) -> None:
        """Write the backup profile."""
        path = self.root.path / "etc/qubes/backup/dedup-backup.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            text
            or f"destination_vm: {QUBE}\n"
            f"destination_path: dedup-store put --repository {REPOSITORY}\n"
            f"include: null\npassphrase_text: {SECRET.decode()}\n"
        )

    def api(self, qube: str, method: str, payload: str = "") -> None:
        """Call the Admin API."""
        answer = self.lab.raw(f"{method} dom0 name {qube}\0{payload}".encode())
        assert answer.startswith(b"0\0"), answer

    def create(self, name: str) -> None:
        """Make a qube."""
        self.api("dom0", f"admin.vm.Create.AppVM+{TEMPLATE}", f"name={name} label=gray")

    def stamp(self, stamp: int | None, *names: str) -> None:
        """Set backup_timestamp of qubes, all of QUBES if none is named."""
        for name in names or QUBES:
            if stamp is None:
                self.api(name, "admin.vm.property.Reset+backup_timestamp")
            else:
                self.api(name, "admin.vm.property.Set+backup_timestamp", str(stamp))

    def succeed(self, backup_id: str, *names: str, later: int = 5) -> int:
        """Let a backup have succeeded, some seconds after its last file; tell when."""
        last = json.loads((self.root.ledgers / backup_id).read_text().splitlines()[-1])
        stamp = int(last["time"]) + later
        self.stamp(stamp, *names)
        return stamp

    def backdate(self, backup_id: str, seconds: int) -> None:
        """Let a backup have been made earlier."""
        path = self.root.ledgers / backup_id
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = (json.dumps(row | {"time": row["time"] - seconds}) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))

    @contextmanager
    def only_ledger(self, *backup_ids: str) -> Iterator[None]:
        """Have no ledgers but these for a while, the last of which is of the newest backup."""
        order = self.root.path / "var/lib/qubes-dedup-backup/order"
        size = order.stat().st_size
        last = (self.root.ledgers / backup_ids[-1]).read_text().splitlines()[0]
        os.truncate(order, json.loads(last)["order"])
        others = [path for path in self.root.ledgers.iterdir() if path.name not in backup_ids]
        away = self.root.ledgers.with_name("others")
        away.mkdir()
        for path in others:
            path.rename(away / path.name)
        try:
            yield
        finally:
            for path in others:
                (away / path.name).rename(path)
            away.rmdir()
            os.truncate(order, size)

    def start_over(self) -> None:
        """Forget what earlier tests confirmed, noted and counted."""
        self.forget()
        for path in self.root.ledgers.glob("*"):
            if path.name not in self.lasting:
                path.unlink()
        order = self.root.path / "var/lib/qubes-dedup-backup/order"
        heads = (path.read_text().partition("\n")[0] for path in self.root.ledgers.glob("*"))
        if order.exists():
            orders = [json.loads(head).get("order") or 0 for head in heads]
            os.truncate(order, max(orders, default=0))

    def forget(self) -> None:
        """Forget all that was confirmed."""
        shutil.rmtree(self.confirmed, ignore_errors=True)
        self.profile()

    @property
    def confirmed(self) -> Path:
        """The records of confirmed runs."""
        return self.root.path / "var/lib/qubes-dedup-backup/confirmed"

    @contextmanager
    def without_ledger(self) -> Iterator[None]:
        """Be another machine, which has no ledger, for a while."""
        away = self.root.ledgers.with_name("away")
        self.root.ledgers.rename(away)
        try:
            yield
        finally:
            away.rename(self.root.ledgers)

    def store(self, script: str) -> None:
        """Say what `dedup-store` is in the backup qube."""
        self._write(self.lab.state / "bin/dedup-store", f"#!/bin/sh\n{script}\n")

    def serve(self, stream: bytes, *, listed: bytes | None = None, run: str | None = None) -> None:
        """Answer with a stream, and with the member list of it, or of another one."""
        self.run = run or run_name(memory_engine.split(stream).manifest.backup_id or "unknown")
        row = {"run": self.run, "status": "whole", "reason": ""}
        members = member_list(stream if listed is None else listed, self.run)
        self.answer(stream, members, json.dumps(row).encode() + b"\n")

    def answer(self, stream: bytes, members: bytes, runs: bytes) -> None:
        """Answer with these bytes."""
        self.answers.mkdir(exist_ok=True)
        for name, data in (("get", stream), ("show", members), ("list", runs)):
            (self.answers / name).write_bytes(data)
        self.store(f'exec cat {self.answers}/"$1"')

    def real_store(self, environment: dict[str, str]) -> None:
        """Be a real dedup-store with these settings."""
        words = [f"{key}={value}" for key, value in environment.items()]
        self.store(f'exec env {shlex.join(words)} {PAYLOAD}/qube/dedup-store "$@"')

    def qvm(self, *words: str) -> str:
        """Run one of dom0's own commands; give its output."""
        command = self.lab.dom0_command(*words)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def is_running(self, qube: str) -> bool:
        """Tell whether a qube runs."""
        return f"{qube}|Running" in self.qvm("qvm-ls", "--raw-data", "--fields=NAME,STATE")

    def __call__(self, *words: str, stdin: bytes = b"", prefix: tuple[str, ...] = ()) -> Done:
        """Run the command."""
        argv = [*prefix, *self.argv(*words)]
        return subprocess.run(argv, input=stdin, capture_output=True, check=False)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start the command."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.argv(*words), stdout=pipe, stderr=pipe)

    def argv(self, *words: str) -> list[str]:
        """Return what runs the command."""
        return [str(self._command), words[0], "--root", str(self.root.path), *words[1:]]

    def json(self, *words: str, code: int) -> dict[str, Any]:
        """Run it with --json, expect an exit code, return the result."""
        done = self(*words, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        result = json.loads(done.stdout)
        assert isinstance(result, dict)
        return result

    @staticmethod
    def _write(path: Path, text: str) -> None:
        new = path.with_name(path.name + ".new")
        new.write_text(text)
        new.chmod(0o755)
        new.rename(path)


@contextmanager
def ledger(dom0: Dom0, backup_id: str) -> Iterator[Path]:
    """Give a ledger's file, and put it in order afterwards."""
    path = dom0.root.ledgers / backup_id
    whole = path.read_bytes()
    try:
        yield path
    finally:
        path.write_bytes(whole)


@contextmanager
def temporary_dom0() -> Iterator[Dom0]:
    """Give a dom0 that goes away."""
    # pytest's own folders have names too long for a socket's path
    folder = Path(tempfile.mkdtemp(prefix="lab"))
    lab = Lab(folder)
    try:
        with temporary_root() as root:
            yield Dom0(lab, root)
    finally:
        lab.close()
        shutil.rmtree(folder)
