# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of processes, with what backs up and restores in it; no containers, no root."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import qubesadmin
import yaml
from qubesadmin import config
from qubesadmin.vm import QubesVM

from testing.lab.fast_scrypt import MAGIC, tag
from testing.lab.harness import TEMPLATE, Lab
from testing.paths import LAB

HERE = Path(__file__).resolve().parent
PASSPHRASE = "dedup:a passphrase with blänks"  # noqa: S105 -- of tests
MIB = 2**20

DOM0_PROGRAM = """\
import os, runpy, sys
sys.path[:0] = [{packages!r}]
os.environ["PYTHONPATH"] = {packages!r}
from qubesadmin import config
{settings}
module = {module!r} or sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


class System:
    """dom0, a template, and a running qube `backup` that stores backups."""

    def __init__(self, state: Path) -> None:
        """Start it in an empty folder."""
        self.state = state
        self.lab = Lab(state)
        self.app = qubesadmin.Qubes()
        self.dom0 = state / "roots" / "dom0"
        packages = self.dom0 / "usr/lib/python3/dist-packages"
        packages.mkdir(parents=True)
        (packages / "qubes").symlink_to(LAB / "dom0/backup")
        (packages / "qubesadmin").symlink_to(LAB / "dom0/qubesadmin")
        (self.dom0 / "usr/libexec").mkdir()
        (self.dom0 / "usr/libexec/qubes").symlink_to(LAB / "dom0/lib")
        self._write_programs(packages)
        self.profiles = self.dom0 / "etc/qubes/backup"
        self.app.add_new_vm("AppVM", "backup", "red", TEMPLATE).start()
        self.home = self._prepare("backup")

    def _write_programs(self, packages: Path) -> None:
        settings = "\n".join(
            f"config.{name} = {getattr(config, name)!r}"
            for name in ("QUBESD_SOCKET", "QREXEC_CLIENT", "QREXEC_SERVICES_DIR")
        )
        for file, module in (("backup_run.py", "qubes.backup_run"), ("dom0.py", "")):
            text = DOM0_PROGRAM.format(packages=str(packages), settings=settings, module=module)
            (self.state / file).write_text(text)
        self.program("scrypt", (HERE / "fast_scrypt.py").read_text(), f"{sys.executable} -IS")
        for name in ("tar2qfile", "restore-from"):
            (self.state / "bin" / name).symlink_to(LAB / "qube/lib" / name)
        # The real one writes out everything that anybody on this machine has written.
        self.program("sync", f'echo "$@" >>{self.state}/synced\n')

    def program(self, name: str, text: str, interpreter: str = "/bin/sh") -> Path:
        """Put a program on the PATH of dom0 and of all qubes."""
        path = self.state / "bin" / name
        path.write_text(f"#!{interpreter}\n{text}")
        path.chmod(0o755)
        return path

    def _prepare(self, name: str) -> Path:
        """Give a running qube the services, and its user a home and our PATH."""
        root = self.state / "roots" / name
        services = root / "etc/qubes-rpc"
        services.mkdir(parents=True, exist_ok=True)
        for service in ("qubes.Backup", "qubes.Restore"):
            (services / service).symlink_to(LAB / "qube/rpc" / service)
        home = root / "home/user"
        home.mkdir(parents=True, exist_ok=True)
        (home / ".profile").write_text(f"PATH={self.state}/bin:$PATH\n")
        return home

    def add_qube(self, name: str, data: bytes = b"", **properties: object) -> QubesVM:
        """Create an app qube whose private volume holds `data`, or one blank MiB."""
        qube = self.app.add_new_vm("AppVM", name, "red", TEMPLATE)
        self.fill(qube, data or bytes(MIB))
        for key, value in properties.items():
            setattr(qube, key, value)
        return qube

    def fill(self, qube: QubesVM, data: bytes) -> None:
        """Replace a halted qube's private data."""
        path = self.state / "data"
        path.write_bytes(data)
        with path.open("rb") as stream:
            qube.volumes["private"].import_data_with_size(stream, len(data))

    def data(self, name: str) -> bytes:
        """Return a qube's private data."""
        return (self.state / "qubes/appvms" / name / "private.img").read_bytes()

    def profile(self, name: str = "test", /, **keys: object) -> None:
        """Write a backup profile; a key with value ... is left out."""
        profile: dict[str, object] = {
            "include": None,
            "exclude": ["backup", "@type:TemplateVM", "dom0"],
            "destination_vm": "backup",
            "destination_path": f"dd of={self.home}/archive",
            "compression": False,
            "passphrase_text": PASSPHRASE,
        }
        profile |= keys
        kept = {key: value for key, value in profile.items() if value is not ...}
        (self.profiles / f"{name}.conf").write_text(yaml.safe_dump(kept))

    @property
    def archive(self) -> Path:
        """Where the default profile stores the backup."""
        return self.home / "archive"

    def environment(self) -> dict[str, str]:
        """Return dom0's environment."""
        path = f"{self.state}/bin:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.dom0), "LANG": "C.UTF-8"}

    def command(self, module: str, *words: str) -> list[str]:
        """Return the argv of a program of dom0."""
        return [sys.executable, str(self.state / "dom0.py"), f"qubes.{module}", *words]

    def run(self, module: str, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program of dom0."""
        return subprocess.run(
            self.command(module, *words),
            check=False,
            capture_output=True,
            text=True,
            input=text,
            env=self.environment(),
            cwd=self.dom0,
        )

    def backup(self, profile: str = "test") -> None:
        """Make a backup that must succeed."""
        done = self.run("qvm_backup", "--profile", profile, "--yes")
        assert done.returncode == 0, done.stderr + self.lab.log()

    def restore(
        self, *words: str, passphrase: str = PASSPHRASE
    ) -> subprocess.CompletedProcess[str]:
        """Restore from the default profile's archive, or from the location in `words`."""
        return self.run("qvm_backup_restore", "-p", "-", *words, text=f"{passphrase}\n")

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.lab.close()
        shutil.rmtree(self.state)


def members(archive: Path | bytes) -> dict[str, bytes]:
    """Return the members of a backup, in order."""
    data = archive if isinstance(archive, bytes) else archive.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def plain(name: str, member: bytes, backup_id: str, passphrase: str = PASSPHRASE) -> bytes:
    """Decrypt a member written with fast_scrypt, and check its passphrase line."""
    line = f"{backup_id}!{name.removesuffix('.enc')}!{passphrase}".encode()
    assert member[:4] == MAGIC
    assert member[4:36] == tag(line, member[36:]), f"{name} has another passphrase line"
    return member[36:]


def sealed(name: str, data: bytes, backup_id: str, passphrase: str = PASSPHRASE) -> bytes:
    """Encrypt a member as fast_scrypt does."""
    line = f"{backup_id}!{name.removesuffix('.enc')}!{passphrase}".encode()
    return MAGIC + tag(line, data) + data


def write_archive(path: Path, content: list[tuple[str, bytes]]) -> None:
    """Write members as a backup has them: each in a tar archive of its own."""
    stream = io.BytesIO()
    for name, data in content:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            info.mtime = 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
        stream.seek(0, io.SEEK_END)
    path.write_bytes(stream.getvalue())
