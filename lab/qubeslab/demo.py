# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job, shown in a fresh lab: provision, back up, restore, compare; then one table.

Exit codes: 0 all that it shows came out right; 1 something didn't.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .containers import copy_sparse, write_atomic
from .paths import LAB_DIR, LABS, PROJECT, LabError
from .session import Session, corpus, same_content

BACKUP_QUBE = "dedup-backup"
QUBES = ("work", "personal")
ENGINES = ("restic", "borg")
INVENTORY = "lab/demo_inventory/hosts.yml"
PASSPHRASE = b"an ordinary passphrase\n"
GUIDE = "/rw/usrlocal/guide"  # where the guide's repositories are, in the backup qube
STORE, CONFIG = "/rw/dedup-store", "/rw/config/dedup-store"  # ours, and their passwords
# What the guide's method runs. borg sees two repositories with one id: each has its own home.
TOOLS = {
    "restic": f"env RESTIC_PASSWORD=demo restic -q -r {GUIDE}/restic",
    "borg": f"env BORG_BASE_DIR={GUIDE}/home BORG_PASSPHRASE=demo borg",
}
# Each repository cuts data at places of its own: restic's by a polynomial, borg's by its key. These
# cut where ours do, so that what they take doesn't differ by chance.
MAKE_GUIDE = f"""
set -e
mkdir {GUIDE}/home
{TOOLS["restic"]} init --copy-chunker-params --from-repo {STORE}/restic/repo \\
    --from-password-file {CONFIG}/restic.password
cp -a {STORE}/borg/repo {GUIDE}/borg
rm -f {GUIDE}/borg/dedup-store.*
env BORG_BASE_DIR={GUIDE}/home BORG_PASSCOMMAND="cat {CONFIG}/borg.password" \\
    BORG_NEW_PASSPHRASE=demo borg key change-passphrase {GUIDE}/borg
"""
MARKER = "this line must not be readable in a really encrypted backup"
MEGABYTE = 10**6

# What a day of work does to a qube, in small: appends, rewrites, new files, deletions.
CHANGES = """
import os, pathlib, random
random.seed(7)
files = sorted(p for p in pathlib.Path.home().rglob("*") if p.is_file() and not p.is_symlink())
for path in random.sample(files, 40):
    with path.open("ab") as handle:
        handle.write(random.randbytes(20_000))
for path in random.sample(files, 10):
    path.write_bytes(random.randbytes(200_000))
(pathlib.Path.home() / "new-report.bin").write_bytes(random.randbytes(4_000_000))
for path in random.sample(files, 5):
    path.unlink()
os.sync()
"""

# One byte in the middle of each qube's payload, changed on its way back to dom0: the qubes' order
# in the stream is not fixed.
FLIP = """
import sys
source, sink, seen = sys.stdin.buffer, sys.stdout.buffer, 0
while block := bytearray(source.read(1 << 20)):
    for at in (60_000_000, 170_000_000):
        if seen <= at < seen + len(block):
            block[at - seen] ^= 1
    seen += len(block)
    sink.write(block)
"""


@dataclass(frozen=True)
class Row:
    """One backup: seconds it took, bytes of its stream, bytes by which the repository grew."""

    method: str
    run: str
    seconds: float
    stream: int
    growth: int


class Demo:
    """The demo's steps, in a lab called `demo`."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self.lab = Session("demo")
        self.rows: list[Row] = []
        self.started = time.monotonic()
        self.before = self.lab.paths.state / "work-before.img"

    def say(self, text: str) -> None:
        """Print a progress line with the time since the start."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print a line before a step, and stop the demo with a clear one when it fails."""
        self.say(text)
        try:
            yield
        except LabError as error:
            raise LabError(f"{text}: {error}") from error

    def prepare(self) -> None:
        """Make the lab and two qubes with real files of this machine."""
        with self.step("starting a fresh lab: dom0 and a Debian 13 template"):
            self.lab.lab("down", "--destroy")
            self.lab.lab("up")
        with self.step("adding the qubes work and personal, with real files"):
            self._both(
                lambda: self._add_qube("work", [PROJECT / ".venv"]),
                lambda: self._add_qube("personal", [Path("/usr/lib"), Path("/usr/share")]),
            )

    def _add_qube(self, name: str, sources: list[Path]) -> None:
        staging = LABS / f"demo-data-{name}"
        shutil.rmtree(staging, ignore_errors=True)
        size = corpus(staging, sources, 100 * MEGABYTE)
        (staging / "marker.txt").write_text(MARKER + "\n")
        self.lab.lab("add-qube", name, "--data", str(staging), "--size=256M")
        shutil.rmtree(staging)
        self.say(f"  {name}: {size / MEGABYTE:.0f} MB")

    def official_before(self) -> None:
        """Back up with the official tool and the real scrypt, before anything is installed."""
        with self.step("official backup with the real scrypt, before the shim is installed"):
            # Its files will have changed when this backup is restored.
            copy_sparse(self.lab.private_image(QUBES[0]), self.before)
            self.lab.dom0("mkdir", "official")
            seconds = self._timed(
                *("qvm-backup", "--yes", "--no-compress", "--passphrase-file=-"),
                *("/home/user/official", *QUBES),
                stdin=PASSPHRASE,
            )
            size = int(self.lab.dom0("sh", "-c", "cat official/* | wc -c").stdout)
            self.rows.append(Row("official, real scrypt", "first", seconds, size, size))

    def provision(self) -> None:
        """Run the playbook."""
        with self.step("playbook: shim, template, backup qube, profiles"):
            self.lab.playbook("-i", INVENTORY, "playbooks/site.yml")
        self.lab.dom0("qvm-start", "--skip-if-running", BACKUP_QUBE)
        self.lab.run(BACKUP_QUBE, "mkdir", "-p", GUIDE, user="root")
        self.lab.run(BACKUP_QUBE, "chown", "user:", GUIDE, user="root")
        self.lab.run(BACKUP_QUBE, "sh", "-c", MAKE_GUIDE)

    def backups(self, run: str) -> None:
        """Back up both qubes with every method."""
        for engine in ENGINES:
            with self.step(f"{run} backup, {engine}"):
                before = self._repository_bytes(f"{STORE}/{engine}")
                seconds = self._timed("qvm-backup", "--yes", "--profile", f"dedup-{engine}")
                after = self._repository_bytes(f"{STORE}/{engine}")
                stream = int(str(self._runs(engine)[0]["stream_bytes"]))
                self.rows.append(Row(f"ours, {engine}", run, seconds, stream, after - before))
        self._guide(run)

    def _guide(self, run: str) -> None:
        """The guide's method: a copying script in place of scrypt, the stream piped as it is."""
        with self.step(f"{run} backup, the guide's method with restic and borg"):
            script = (LAB_DIR / "guide-scrypt").read_bytes()
            install = 'cat > "$1.new" && chmod 755 "$1.new" && mv "$1.new" "$1"'
            target = "/usr/local/bin/scrypt"
            self.lab.dom0("sudo", "sh", "-c", install, "sh", target, stdin=script)
            try:
                for engine in ENGINES:
                    self._guide_backup(engine, run)
            finally:
                self.lab.dom0("sudo", "rm", "-f", target)

    def _guide_backup(self, engine: str, run: str) -> None:
        repository = f"{GUIDE}/{engine}"
        if engine == "restic":
            store = "backup --stdin --stdin-filename qubes-backup"
        else:
            store = f"create -C zstd {repository}::{run} -"
        before = self._repository_bytes(repository)
        seconds = self._timed(
            *("qvm-backup", "--yes", "--no-compress", "--passphrase-file=-"),
            *(f"--dest-vm={BACKUP_QUBE}", f"{TOOLS[engine]} {store}", *QUBES),
            stdin=PASSPHRASE,
        )
        growth = self._repository_bytes(repository) - before
        ours = [
            row.stream for row in self.rows if (row.method, row.run) == (f"ours, {engine}", run)
        ]
        self.rows.append(Row(f"the guide, {engine}", run, seconds, ours[0], growth))

    def change_files(self) -> None:
        """Start the qubes, change files in them, shut them down."""
        with self.step("changing files in both qubes"):
            for qube in QUBES:
                self.lab.dom0("qvm-start", qube)
                self.lab.run(qube, "python3", "-", stdin=CHANGES.encode())
                self.lab.dom0("qvm-shutdown", "--wait", qube)

    def restores(self, engine: str) -> None:
        """Restore one qube, and see another's altered stream refused; then restore all."""
        with self.step(f"{engine}: restoring {QUBES[0]} under a new name, comparing every byte;"):
            self.say(f"  of {QUBES[1]}, one byte is changed on its way back and must be refused")
            self._both(
                lambda: self._restore_and_compare(engine, QUBES[:1]),
                lambda: self._see_refusal(engine, QUBES[1]),
            )
        with self.step(f"{engine}: restoring all qubes under new names, comparing every byte"):
            self._restore_and_compare(engine, QUBES)

    def _see_refusal(self, engine: str, qube: str) -> None:
        flipped = f"sh -c '{self._location(engine)} | python3 /home/user/flip.py'"
        self.lab.run(BACKUP_QUBE, "tee", "/home/user/flip.py", stdin=FLIP.encode())
        done = self._restore(engine, flipped, (qube,), check=False)
        printed = done.stdout + done.stderr
        # Its exit status is 0 all the same: qubes-core-admin-client restore.py restore_do.
        if "failed to decrypt" not in printed or self.lab.stored_bytes(f"{qube}-1") > 0:
            raise LabError(f"the altered stream was not refused:\n{printed}")
        reason = next(line for line in printed.splitlines() if "failed to decrypt" in line)
        self.say(f"  refused: {reason.strip()[:150]}")
        self._remove_restored((qube,))

    def ordinary(self) -> None:
        """What has no `dedup:` passphrase: old backups restore, new ones are really encrypted."""
        with self.step("restoring the backup from before the shim; ordinary passphrase meanwhile"):
            self._both(self._restore_old, self._ordinary_backup)
        self.say("  the old backup came back; the ordinary one is encrypted by the real scrypt")

    def _both(self, one: Callable[[], None], other: Callable[[], None]) -> None:
        with ThreadPoolExecutor() as pool:
            for step in [pool.submit(one), pool.submit(other)]:
                step.result()

    def _restore_old(self) -> None:
        names = ["sh", "-c", 'exec qvm-backup-restore --rename-conflicting -p - official/* "$1"']
        self.lab.dom0(*names, "sh", QUBES[0], stdin=PASSPHRASE)
        restored = f"{QUBES[0]}-1"
        if not same_content(self.before, self.lab.private_image(restored)):
            raise LabError("the backup from before the shim came back with other bytes")
        self._remove([restored])

    def _ordinary_backup(self) -> None:
        self.lab.dom0("mkdir", "ordinary")
        self.lab.dom0(
            *("qvm-backup", "--yes", "--no-compress", "--passphrase-file=-"),
            *("/home/user/ordinary", QUBES[1]),
            stdin=PASSPHRASE,
        )
        found = self.lab.dom0("sh", "-c", 'grep -acF "$1" ordinary/*', "sh", MARKER, check=False)
        plain = self.lab.dom0("sh", "-c", r"grep -acP 'scrypt\x80' ordinary/*", check=False)
        real = self.lab.dom0("sh", "-c", r"grep -acP 'scrypt\x00' ordinary/*", check=False)
        if found.stdout.strip() != "0" or plain.stdout.strip() != "0" or real.stdout.strip() == "0":
            raise LabError("the backup with an ordinary passphrase is not really encrypted")

    def _location(self, engine: str) -> str:
        return f"dedup-store get latest --repository {engine}"

    def _restore_and_compare(self, engine: str, qubes: tuple[str, ...]) -> None:
        self._restore(engine, self._location(engine), qubes)
        for qube in qubes:
            if not self.lab.same_private(qube, f"{qube}-1"):
                raise LabError(f"{qube} came back with other bytes")
        self._remove_restored(qubes)

    def _restore(
        self, engine: str, location: str, qubes: tuple[str, ...], check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        passphrase = self._passphrase(engine)
        return self.lab.dom0(
            *("qvm-backup-restore", "--rename-conflicting", "-d", BACKUP_QUBE, "-p", "-"),
            *(location, *qubes),
            stdin=passphrase,
            check=check,
        )

    def _passphrase(self, engine: str) -> bytes:
        profile = f"/etc/qubes/backup/dedup-{engine}.conf"
        show = "import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))['passphrase_text'])"
        return self.lab.dom0("sudo", "python3", "-c", show, profile).stdout.encode()

    def _remove_restored(self, qubes: tuple[str, ...]) -> None:
        there = self.lab.dom0("qvm-ls", "--raw-list").stdout.split()
        self._remove([f"{qube}-1" for qube in qubes if f"{qube}-1" in there])

    def _remove(self, names: list[str]) -> None:
        if names:
            self.lab.dom0("qvm-remove", "--force", *names)

    def _runs(self, engine: str) -> list[dict[str, object]]:
        out = self.lab.run(
            BACKUP_QUBE, "dedup-store", "list", "--repository", engine, "--json"
        ).stdout
        runs = json.loads(out)["runs"]
        return sorted(runs, key=lambda run: str(run["run"]), reverse=True)

    def _repository_bytes(self, folder: str) -> int:
        return self.lab.disk_bytes(BACKUP_QUBE, folder)

    def _timed(self, *argv: str, stdin: bytes = b"") -> float:
        start = time.monotonic()
        self.lab.dom0(*argv, stdin=stdin)
        return time.monotonic() - start

    def table(self) -> str:
        """Return the table of all backups, as text."""
        lines = [
            f"{'method':24}{'run':12}{'time s':>8}{'stream MB':>11}{'growth MB':>11}{'growth':>10}"
        ]
        for row in self.rows:
            share = 100 * row.growth / row.stream
            lines.append(
                f"{row.method:24}{row.run:12}{row.seconds:8.1f}{row.stream / MEGABYTE:11.1f}"
                f"{row.growth / MEGABYTE:11.3f}{share:9.3f}%"
            )
        return "\n".join(lines)

    def judge(self) -> None:
        """Hold the figures against what the project promises.

        Raises:
            LabError: an unchanged backup grew the repository by 0.1 % of the stream or more.
        """
        ours = [row for row in self.rows if row.method.startswith("ours")]
        for row in ours:
            if row.run == "unchanged" and 1000 * row.growth >= row.stream:
                raise LabError(f"{row.method}: an unchanged backup grew by {row.growth} bytes")

    def run(self) -> None:
        """Do all steps and print the table.

        Raises:
            LabError: a step failed.
        """
        self.prepare()
        self.official_before()
        self.provision()
        self.backups("first")
        self.backups("unchanged")
        self.change_files()
        self.backups("changed")
        for engine in ENGINES:
            self.restores(engine)
        self.ordinary()
        raw = LABS / "demo.json"
        write_atomic(raw, json.dumps([asdict(row) for row in self.rows], indent=1))
        print(
            f"\n{self.table()}\n\n(growth in % of the stream; an engine's two repositories cut data"
            f" at the same places; raw figures: {raw})"
        )
        self.judge()
        self.lab.lab("down", "--destroy")
        self.say("all of it came out right")


def main() -> int:
    """Run the demo and return its exit code."""
    try:
        Demo().run()
    except LabError as error:
        print(
            f"demo: {error}\ndemo: the lab is left as it is: LAB_NAME=demo lab/lab status",
            file=sys.stderr,
        )
        return 1
    return 0
