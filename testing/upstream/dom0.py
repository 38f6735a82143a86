# SPDX-License-Identifier: GPL-3.0-or-later
"""A dom0 that runs upstream's own code, with our shim in it, and a backup qube beside it.

In a machine of its own (machine.py) there are, from the checkouts: `qubesd` of qubes-core-admin,
without a hypervisor; all `qvm-*` tools of qubes-core-admin-client; the services `qubes.Backup` and
`qubes.Restore` of qubes-core-agent-linux. From us: the shim, put in place by shimctl, `dedup-store`
in the qube, and stand-ins for the C programs tar2qfile and qfile-dom0-unpacker (those of the lab)
and for the transport of qrexec (inside/qrexec_client.py). dom0 and qubes share one filesystem; the
qube's user is `user`, its configuration is in /rw.

A test's way: `dom0.make(qubes=[Qube(...)])`, `dom0.start()`, then the tools.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from testing.paths import PROJECT
from testing.upstream.machine import Machine, child_of, machine
from testing.upstream.sources import PYTHON, Sources

INSIDE = PROJECT / "testing/upstream/inside"
PASSPHRASE = "dedup:0123456789abcdefghij0123456789abcdefghij"  # noqa: S105
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOCKET = "/run/qubesd.sock"
CHUNK_SIZE = 100 << 20  # bytes: Qubes' own
QUBE = "backups"  # the backup qube's name


@dataclass
class Qube:
    """A qube to make; `klass` is AppVM, TemplateVM or StandaloneVM.

    `volumes` are image files by volume name, the rest is as in the Admin API.
    """

    name: str
    klass: str = "AppVM"
    template: str | None = "tmpl"
    label: str = "red"
    volumes: dict[str, str] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    firewall: list[str] | None = None
    notes: str | None = None

    def wish(self) -> dict[str, Any]:
        """Return what inside/make_dom0.py reads."""
        wish = {key: value for key, value in asdict(self).items() if value is not None}
        wish["class"] = wish.pop("klass")
        if self.klass != "AppVM":
            wish.pop("template", None)
        return wish


@dataclass
class Dom0:
    """dom0, as a test sees it.

    Attributes:
        machine: to run anything in it.
        folder: folder of this dom0, the same path inside and outside.
    """

    machine: Machine
    folder: Path
    daemon: subprocess.Popen[str] | None = None

    # Making it

    def make(self, qubes: list[Qube], properties: dict[str, str] | None = None) -> None:
        """Make qubes.xml, a template `tmpl`, the backup qube and the given qubes.

        `properties` names qubes for dom0-wide properties, such as `default_netvm`.
        """
        usual = [
            Qube("tmpl", "TemplateVM", label="black"),
            Qube(QUBE, label="gray"),
        ]
        wish = {
            "qubes": [qube.wish() for qube in (*usual, *qubes)],
            "properties": {"default_template": "tmpl"} | (properties or {}),
        }
        self.machine.run(PYTHON, INSIDE / "make_dom0.py", input=json.dumps(wish))

    def start(self) -> None:
        """Start qubesd, wait until it answers, and start the backup qube."""
        log = (self.folder / "qubesd.log").open("a")
        self.daemon = self.machine.popen(
            PYTHON, INSIDE / "qubesd.py", "--offline-mode", "--debug", stdout=log, stderr=log
        )
        sockets = (SOCKET, "/run/qubesd.internal.sock", "/run/qubesd.misc.sock")
        while not all(self.machine.path(path).exists() for path in sockets):
            assert self.daemon.poll() is None, self.log()
            time.sleep(0.02)
        self.set_running(QUBE)

    def stop(self) -> None:
        """Stop qubesd as systemd does; what it knows is then in qubes.xml."""
        assert self.daemon is not None
        if self.daemon.poll() is None:
            os.kill(child_of(self.daemon), signal.SIGTERM)
        self.daemon.wait()
        self.daemon = None

    def collect_garbage(self) -> None:
        """Let qubesd collect its garbage now, as it does sooner or later."""
        assert self.daemon is not None
        os.kill(child_of(self.daemon), signal.SIGUSR1)

    def log(self) -> str:
        """Return what qubesd logged."""
        return (self.folder / "qubesd.log").read_text(errors="replace")

    def install_shim(self, mode: str = "authenticated") -> None:
        """Put the shim in place, with shimctl, or set another mode."""
        self.machine.run(PROJECT / "payload/dom0/shimctl", "install", "--mode", mode)

    def remove_shim(self) -> None:
        """Bring back the real scrypt, with shimctl."""
        self.machine.run(PROJECT / "payload/dom0/shimctl", "remove")

    def set_running(self, name: str, *, running: bool = True) -> None:
        """Say that a qube runs, or not, in place of the hypervisor."""
        folder = self.machine.path("/run/qubes/running")
        if running:
            (folder / name).touch()
        else:
            (folder / name).unlink(missing_ok=True)

    def chunk_size(self, size: int = CHUNK_SIZE) -> None:
        """Set a chunk's size, in bytes, for upstream's later backups."""
        settings = {"chunk_size": size}
        self.machine.path("/run/qubes/backup-settings.json").write_text(json.dumps(settings))

    def export(self, name: str, path: str) -> None:
        """Let the private volume of a qube be read from path: a block device, or another name."""
        file = self.machine.path("/run/qubes/exports.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {self.inside(name): path}))

    # Tools

    def qvm(
        self, tool: str, *arguments: str | Path, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run an upstream tool, such as `qvm-prefs`; options are those of Machine.run."""
        return self.machine.run(tool, *arguments, **options)

    def api(self, destination: str, method: str, argument: str = "", payload: bytes = b"") -> bytes:
        """Call the Admin API from dom0 and return the whole answer, its status byte first."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.machine.path(SOCKET)))
            head = f"{method}+{argument} dom0 name {destination}\0".encode()
            connection.sendall(head + payload)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                return answer.read()

    def passphrase_file(self, passphrase: str) -> Path:
        """Write a passphrase to a file for -p."""
        path = self.folder / "passphrase"
        path.write_text(passphrase + "\n", encoding="utf-8")
        return path

    def backup_argv(
        self,
        *qubes: str,
        to: str | Path,
        qube: str | None = None,
        passphrase: str = PASSPHRASE,
        compress: bool | str = False,
    ) -> list[str | Path]:
        """Return qvm-backup's command line: see backup()."""
        how = ["--no-compress"] if compress is False else ["--compress"]
        if isinstance(compress, str):
            how = ["--compress-filter", compress]
        where = ["-d", qube] if qube else []
        secret = self.passphrase_file(passphrase)
        return ["qvm-backup", "--yes", "-p", secret, *how, *where, to, *qubes]

    def backup(
        self, *qubes: str, to: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Make a backup with upstream's qvm-backup.

        Args:
            *qubes: names.
            to: a file, or with `qube` what to tell its qubes.Backup, such as `dedup-store put`.
            check: raise unless the status is 0.
            **options: `qube`, `passphrase`, `compress` (False, True or a filter program).
        """
        return self.machine.run(*self.backup_argv(*qubes, to=to, **options), check=check)

    def restore(
        self,
        *arguments: str,
        source: str | Path,
        qube: str | None = None,
        passphrase: str = PASSPHRASE,
        verify_only: bool = False,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run upstream's qvm-backup-restore.

        Its status alone proves nothing: it prints an error and still exits 0; see `complaints`.

        Args:
            *arguments: more options, and names of qubes after the location.
            source: a file, or with `qube` what to tell its qubes.Restore, `dedup-store get RUN`.
            qube: where it comes from.
            passphrase: the first line of -p's file.
            verify_only: only verify; else restore under other names where a name is taken.
            check: raise unless the status is 0.
        """
        how = ["--verify-only"] if verify_only else ["--rename-conflicting"]
        where = ["-d", qube] if qube else []
        secret = self.passphrase_file(passphrase)
        options = [word for word in arguments if word.startswith("-")]
        names = [word for word in arguments if not word.startswith("-")]
        argv = ["qvm-backup-restore", "-p", secret, *how, *options, *where, source, *names]
        return self.machine.run(*argv, check=check)

    # What is there

    def vid(self, name: str, volume: str = "private") -> str:
        """Return a volume's name in its pool."""
        answer = self.api(name, "admin.vm.volume.Info", volume)
        assert answer.startswith(b"0\0"), answer
        values = dict(line.split("=", 1) for line in answer[2:].decode().splitlines())
        return values["vid"]

    def inside(self, name: str, volume: str = "private") -> str:
        """Return the path, in the machine, of a volume's image."""
        return f"/var/lib/qubes/{self.vid(name, volume)}.img"

    def volume(self, name: str, volume: str = "private") -> Path:
        """Return the path, from outside, of a volume's image."""
        return self.machine.path(self.inside(name, volume))

    def features(self, name: str) -> dict[str, str]:
        """Return a qube's features, as qvm-features has them."""
        lines = self.qvm("qvm-features", name).stdout.splitlines()
        return {
            words[0]: words[1] if words[1:] else "" for words in (x.split(None, 1) for x in lines)
        }

    def properties(self, name: str) -> dict[str, str]:
        """Return those properties of a qube that aren't at their default."""
        answer = self.api(name, "admin.vm.property.GetAll")
        assert answer.startswith(b"0\0"), answer
        rows = (line.split(" ", 3) for line in answer[2:].decode().splitlines())
        return {name: rest for name, default, _, rest in rows if default == "default=False"}

    def tags(self, name: str) -> set[str]:
        """Return a qube's tags."""
        return set(self.api(name, "admin.vm.tag.List")[2:].decode().split())

    def firewall(self, name: str) -> list[str]:
        """Return a qube's firewall rules."""
        return self.api(name, "admin.vm.firewall.Get")[2:].decode().splitlines()

    def names(self) -> set[str]:
        """Return the names of all qubes."""
        rows = self.api("dom0", "admin.vm.List")[2:].decode().splitlines()
        return {row.split(" ")[0] for row in rows}

    def ledger(self) -> dict[str, list[dict[str, Any]]]:
        """Return the shim's ledgers: rows by backup id."""
        folder = self.machine.path("/var/lib/qubes-dedup-backup/ledger")
        files = folder.iterdir() if folder.exists() else ()
        return {
            path.name: [json.loads(line) for line in path.read_text().splitlines()]
            for path in files
        }

    # The backup qube

    def make_store(self, engine: str, repository: str = "default") -> None:
        """Configure dedup-store in the backup qube and make its repository."""
        text = f'engine = "{engine}"\n'
        script = (
            "mkdir -p /rw/config/dedup-store && "
            f"printf %s {shlex.quote(text)} >/rw/config/dedup-store/{repository}.toml && "
            f"echo an invented password | dedup-store set-password --repository {repository} && "
            f"dedup-store init --repository {repository}"
        )
        self.in_qube("sh", "-c", script)

    def in_qube(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program as the backup qube's user; options are those of Machine.run."""
        home = ["env", "HOME=/home/user", f"PATH={SYSTEM_PATH}"]
        return self.machine.run("runuser", "-u", "user", "--", *home, *argv, **options)

    def runs(self, repository: str = "default") -> list[dict[str, Any]]:
        """Return the store's runs, oldest first, as `dedup-store list --json` tells them."""
        listed = json.loads(
            self.in_qube("dedup-store", "list", "--json", "--repository", repository).stdout
        )
        return list(listed["runs"] if isinstance(listed, dict) else listed)


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the errors that qvm-backup-restore printed, whatever its status."""
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if any(mark in line for mark in MARKS)]


MARKS = (
    "ERROR",
    "Error",
    "error",
    "rror:",
    "failed",
    "Unexpected",
    "Corrupted",
    "unable",
    "Traceback",
)


def link_services(at: Machine, sources: Sources) -> None:
    """Put upstream's services and tools where dom0 and a qube have them."""
    rpc = sources.agent / "qubes-rpc"
    for name in ("qubes.Backup", "qubes.Restore"):
        assert (rpc / name).exists(), f"{rpc / name} is missing"
        shutil.copy(rpc / name, at.path(f"/usr/local/etc/qubes-rpc/{name}"))
    for name in ("admin.vm.volume.Import", "admin.vm.volume.ImportWithSize"):
        path = at.path(f"/etc/qubes-rpc/{name}")
        path.symlink_to(sources.admin / "qubes-rpc/admin.vm.volume.Import")
    tools = {
        f"/usr/bin/{path.stem.replace('_', '-')}": f"qubesadmin.tools.{path.stem}"
        for path in (sources.copies / "qubes-core-admin-client/qubesadmin/tools").glob("q*.py")
    }
    tools["/usr/bin/qubesd-query"] = "qubes.tools.qubesd_query"
    for place, module in tools.items():
        program = at.path(place)
        program.write_text(f"#!{PYTHON}\nimport sys\nfrom {module} import main\nsys.exit(main())\n")
        program.chmod(0o755)


@contextlib.contextmanager
def new_dom0(
    folder: Path, sources: Sources, shared: Path | None = None, host: Path = Path("/")
) -> Iterator[Dom0]:
    """Start a dom0 without qubes, with the shim installed; qubesd doesn't run yet.

    Args:
        folder: empty, for what it writes.
        sources: the checkouts.
        shared: a folder that its qubes can write to, beside that.
        host: as for machine.
    """
    (folder / "tmp").mkdir(parents=True)
    environment = {
        "PATH": f"{PYTHON.parent}:{SYSTEM_PATH}",
        "PYTHONPATH": sources.python_path,
        "HOME": "/home/user",
        "LANG": "C.UTF-8",
        "TMPDIR": str(folder / "tmp"),
    }
    shown = [PROJECT, sources.checkouts, sources.copies]
    # in a git worktree the virtual environments may be links
    places = ((PROJECT / name).resolve() for name in (".venv", ".venv-upstream"))
    shown += [path for path in places if PROJECT not in path.parents]
    with machine(folder, shown, environment, shared or folder, host) as at:
        link_services(at, sources)
        made = Dom0(at, folder)
        made.install_shim()
        yield made
