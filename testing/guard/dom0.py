# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0 as the guard's scenarios see it: real transactions inside, looks from outside."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qubeslab.containers import Containers
from qubeslab.paths import DOM0, LabPaths

SECONDS = 5  # the guard's promise
OLD, NEW, BROKEN = "old", "1.4.0", "1.5.0"  # versions of scrypt; OLD is the one in the image
PACKAGE = "qubes-dedup-backup"
PROGRAMS = "/usr/lib/qubes-dedup-backup"
UNITS = "/etc/systemd/system"
PATH_UNIT, SERVICE = "qubes-dedup-backup-guard.path", "qubes-dedup-backup-guard.service"
HOOKS = {
    "dnf4": "/etc/dnf/plugins/post-transaction-actions.d/dedup-backup.action",
    "dnf5": "/etc/dnf/libdnf5-plugins/actions.d/dedup-backup.actions",
}


class Dom0:
    """The running dom0 of the scenario's lab."""

    def __init__(self) -> None:
        """Find it."""
        self.containers = Containers(LabPaths.named(os.environ["LAB_NAME"]).state)
        self.find()
        self.dnf = "dnf5" if self.file("/usr/bin/dnf5").exists() else "dnf"
        self.hook = "dnf5" if self.dnf == "dnf5" else "dnf4"
        self.boots = self.file("/run/systemd/system").exists()
        package = next(self.file("/srv/rpm").glob("*/scrypt-*.rpm")).relative_to(self.root)
        self.old = self.output("rpm", "-qp", "--qf", "%{VERSION}", f"/{package}")

    def find(self) -> None:
        """Find the container that runs now."""
        self.root = Path(f"/proc/{self.containers.pid(DOM0)}/root")
        self.enter = self.containers.enter(DOM0, "root")

    def reboot(self) -> None:
        """Shut it down, start it again on the same disk, and wait until its systemd is up."""
        self.containers.reboot(DOM0)
        self.find()

    def file(self, path: str) -> Path:
        """Return where a file of dom0 is for us."""
        return self.root / path.lstrip("/")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command as root."""
        return subprocess.run(
            [*self.enter, *argv],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def output(self, *argv: str) -> str:
        """Run a command that must succeed, and return what it prints."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def transaction(self, *argv: str, repositories: str = "lab") -> str:
        """Run dnf, which must succeed and say nothing of failures; return what it prints."""
        done = self.run(self.dnf, "-y", "--releasever=41", f"--repo={repositories}", *argv)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        for word in ("scriptlet failed", "ransaction failed", "rror:", "Traceback", "warning: %"):
            assert word not in text, text
        return text

    def status(self) -> dict[str, Any]:
        """Return what `shimctl status --json` says."""
        answer: dict[str, Any] = json.loads(self.run("shimctl", "status", "--json").stdout)
        return answer

    def scrypt(self) -> bytes | None:
        """Return what /usr/bin/scrypt is."""
        try:
            return self.file("/usr/bin/scrypt").read_bytes()
        except FileNotFoundError:
            return None

    def version(self, program: str) -> str:
        """Return the version that a scrypt says it is."""
        return self.output(program, "--version").removeprefix("scrypt ")

    def shim(self) -> bytes:
        """Return the shim as it is installed to be put in place."""
        return self.file(f"{PROGRAMS}/scrypt").read_bytes()

    def shim_is_in_place(self, version: str) -> bool:
        """Tell whether the shim is in front of this version of the real scrypt."""
        if self.scrypt() != self.shim():
            return False
        want = self.old if version == OLD else version
        return self.version("/usr/bin/scrypt.bak") == want == self.version("/usr/bin/scrypt")

    def clean(self) -> None:
        """Remove all that is ours, and bring the image's scrypt back."""
        for path in (f"{UNITS}/{PATH_UNIT}", *HOOKS.values()):
            if self.file(path).is_symlink():
                self.file(path).unlink()
        if self.file("/usr/bin/shimctl").is_symlink():
            self.output("shimctl", "remove")
        if self.run("rpm", "-q", PACKAGE).returncode == 0:
            self.output("rpm", "-e", PACKAGE)
        self.output("rm", "-rf", PROGRAMS, "/usr/bin/shimctl", f"/etc/{PACKAGE}")
        self.output("sh", "-c", "rpm -U --oldpackage --replacepkgs /srv/rpm/*/scrypt-*.rpm")
        self.output("rpm", "-V", "scrypt")

    def lay_down(self) -> None:
        """Bring the programs as the playbook does, without the package, and install the shim."""
        self.output("cp", "-aL", "/srv/qubes-dedup-backup/payload/dom0/.", PROGRAMS)
        self.output("ln", "-s", f"../lib/{PACKAGE}/shimctl", "/usr/bin/shimctl")
        self.output("shimctl", "install")

    def keep_only(self, trigger: str) -> None:
        """Mask the triggers in /etc but one: `dnf`, `path`, `all`, or another for none of them."""
        for hook in HOOKS.values():
            if trigger not in ("dnf", "all") and self.file(hook).exists():
                self.output("ln", "-sf", "/dev/null", hook)
        if trigger not in ("path", "all") and self.boots:
            self.output("systemctl", "stop", PATH_UNIT, SERVICE)
            self.output("ln", "-sf", "/dev/null", f"{UNITS}/{PATH_UNIT}")
            self.output("systemctl", "daemon-reload")
            runs = ("systemctl", "list-units", "--all", "--no-legend", "run-*.service")
            assert within(60, lambda: not self.output(*runs)), "the path unit's runs don't end"
        # What fired until now doesn't count.
        state = self.file(f"/var/lib/{PACKAGE}/state.json")
        known = json.loads(state.read_text())
        state.write_text(json.dumps(known | {"triggers": {}}))


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until the condition holds; tell whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
