# SPDX-License-Identifier: GPL-3.0-or-later
"""A root folder with the scrypt package in it, and shimctl to run there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testing.shim.driver import PAYLOAD, real_scrypt

Done = subprocess.CompletedProcess[str]
# Runs a Python program whose clock is a hundred times as fast, so that it gives up sooner.
FAST_CLOCK = (
    sys.executable,
    "-c",
    """
import runpy, sys, time
clock = time.monotonic
time.monotonic = lambda: clock() * 100
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
""",
)


@dataclass(frozen=True)
class System:
    """A root folder as a package left it."""

    root: Path

    @property
    def scrypt(self) -> Path:
        """What everybody calls."""
        return self.root / "usr/bin/scrypt"

    @property
    def real(self) -> Path:
        """The real scrypt behind the shim."""
        return self.root / "usr/bin/scrypt.bak"

    @property
    def config(self) -> Path:
        """The shim's config."""
        return self.root / "etc/qubes-dedup-backup/scrypt.conf"

    @property
    def local(self) -> Path:
        """The shim with method path."""
        return self.root / "usr/local/bin/scrypt"

    @property
    def units(self) -> Path:
        """Where the admin's systemd units are."""
        return self.root / "etc/systemd/system"

    def state(self) -> dict[str, Any]:
        """Return shimctl's state."""
        state = json.loads((self.root / "var/lib/qubes-dedup-backup/state.json").read_text())
        assert isinstance(state, dict)
        return state

    def package(self, *, changed: bool = False, other: tuple[bytes, bytes] | None = None) -> None:
        """Install or upgrade the scrypt package as rpm does: a new file is renamed into place.

        With `other` it is one that differs: each place of the first bytes has the second ones.
        """
        new = self.root / "usr/bin/scrypt;new"
        shutil.copy2(real_scrypt(), new)
        if other:
            content = new.read_bytes()
            assert other[0] in content
            new.write_bytes(content.replace(*other))
        if changed:
            with new.open("ab") as file:
                file.write(b"a later version")
        os.utime(new, (1_700_000_000, 1_700_000_000))
        new.rename(self.scrypt)

    def run(self, *arguments: str, prefix: tuple[str, ...] = ()) -> Done:
        """Run shimctl."""
        argv = [*prefix, str(PAYLOAD / "shimctl"), *arguments, "--root", str(self.root)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Run shimctl --json, expect an exit status, return the result."""
        done = self.run(*arguments, "--json")
        assert (done.returncode, done.stderr) == (status, "")
        result = json.loads(done.stdout)
        assert isinstance(result, dict)
        return result

    def trigger(self, name: str) -> Done:
        """Run shimctl as a part of the guard does."""
        done = self.run("reconcile", "--trigger", name)
        assert done.returncode == 0
        return done

    def works(self) -> bool:
        """Tell whether /usr/bin/scrypt works: the real one, or the shim with one behind it."""
        done = subprocess.run([self.scrypt, "--version"], capture_output=True, check=False)
        return done.returncode == 0 and done.stdout.startswith(b"scrypt ")

    def listing(self) -> dict[str, tuple[object, ...]]:
        """Return all that there is, in a form to compare; without run, which a boot empties."""
        found: dict[str, tuple[object, ...]] = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if path.is_file() and not name.startswith("run/"):
                status = path.stat()
                found[name] = (path.read_bytes(), status.st_mode, status.st_mtime_ns, status.st_uid)
        return found

    def contents(self) -> dict[str, object]:
        """Return names and contents of all files."""
        return {name: what[0] for name, what in self.listing().items()}


# What dnf's plugins are, as Fedora has them, and where their hooks lie.
DNF4 = "usr/lib/python3.11/site-packages/dnf-plugins/post-transaction-actions.py"
DNF5 = "usr/lib64/libdnf5/plugins/actions.so"
HOOKS4, HOOKS5 = "plugins/post-transaction-actions.d", "libdnf5-plugins/actions.d"


def with_systemd(system: System) -> None:
    """Make the folders where the guard's files go."""
    system.units.mkdir(parents=True)
    for code, hooks in ((DNF4, HOOKS4), (DNF5, HOOKS5)):
        with_plugin(system, code, hooks)


def with_plugin(system: System, code: str, hooks: str) -> None:
    """Install a dnf plugin."""
    (system.root / "etc/dnf" / hooks).mkdir(parents=True)
    (system.root / code).parent.mkdir(parents=True)
    (system.root / code).touch()


def with_dpkg(system: System) -> None:
    """Let dpkg install scrypt."""
    system.scrypt.unlink()
    database = system.root / "var/lib/dpkg"
    for name in ("info", "updates", "triggers"):
        (database / name).mkdir(parents=True)
    for name in ("status", "available"):
        (database / name).touch()
    dpkg(system, "1.0", real_scrypt().read_bytes())


def dpkg(system: System, number: str, content: bytes) -> None:
    """Install a version of a package scrypt with the real dpkg."""
    tree = system.root / f"tmp/scrypt-{number}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/scrypt").write_bytes(content)
    (tree / "usr/bin/scrypt").chmod(0o755)
    (tree / "DEBIAN/control").write_text(
        f"Package: scrypt\nVersion: {number}\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Description: x\n"
    )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (tree / "DEBIAN/md5sums").write_text(f"{digest}  usr/bin/scrypt\n")
    package = system.root / f"tmp/scrypt-{number}.deb"
    succeed("dpkg-deb", "--build", "--root-owner-group", str(tree), str(package))
    succeed("dpkg", "--root", str(system.root), "--install", str(package))
    shutil.rmtree(system.root / "tmp")


def succeed(*argv: str) -> str:
    """Run a program that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def temporary_system() -> Iterator[System]:
    """Give a root with the scrypt package installed that goes away."""
    root = Path(tempfile.mkdtemp(prefix="shimctl-"))
    try:
        (root / "usr/bin").mkdir(parents=True)
        made = System(root)
        made.package()
        yield made
    finally:
        shutil.rmtree(root)
