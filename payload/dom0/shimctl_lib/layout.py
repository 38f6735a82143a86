# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths, errors, and running other programs with a limit on everything."""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parents[1]  # /usr/lib/qubes-dedup-backup
SHIM = PROGRAMS / "scrypt"
GUARD = PROGRAMS / "guard"
MODES = ("authenticated", "off")
METHODS = ("replace", "path")
TRIGGERS = ("rpm", "dnf4", "dnf5", "path", "boot", "backup")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
GUIDES_BACKUPS = (
    "what the forum guide's script made is restored with `qubes-dedup-backup restore-guide`"
)
REINSTALL = (
    "reinstall its package (dom0: sudo qubes-dom0-update --action=reinstall scrypt; Debian:"
    " sudo apt-get install --reinstall scrypt), then try again"
)


class ShimctlError(Exception):
    """A failure to show to the user: what, where, and what to do."""


class ChangedError(ShimctlError):
    """A file was replaced after the look, so the plan is void."""


class Layout:
    """The paths in use, all below one root."""

    def __init__(self, root: Path) -> None:
        """Work below root, `/` for the running system."""
        self.root = root
        self.live = root == Path("/")
        self.scrypt = root / "usr/bin/scrypt"  # the package's file, and what everybody calls
        self.real = root / "usr/bin/scrypt.bak"  # the real scrypt, with method `replace`
        self.old = root / "usr/bin/scrypt.old"  # the forum guide's other name for it
        self.local = root / "usr/local/bin/scrypt"  # the shim, with method `path`
        self.config = root / "etc/qubes-dedup-backup/scrypt.conf"
        self.state = root / "var/lib/qubes-dedup-backup/state.json"  # exists while installed
        self.ledger = root / "var/lib/qubes-dedup-backup/ledger"  # the shim's; outlives it
        self.lock = root / "run/qubes-dedup-backup.lock"
        self.waiting = root / "run/qubes-dedup-backup.waiting"  # folder: triggers to be served
        self.log = root / "dev/log"
        self.sessions = root / "run/user"
        self.units = root / "etc/systemd/system"
        self.dnf4 = root / "etc/dnf/plugins/post-transaction-actions.d"
        self.dnf5 = root / "etc/dnf/libdnf5-plugins/actions.d"

    @property
    def systemd(self) -> bool:
        """Tell whether systemd runs this system."""
        return self.live and Path("/run/systemd/system").is_dir()


def printable(text: bytes | str, limit: int = 300) -> str:
    """Return text on one line, without control characters and not too long."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode(errors="replace")
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:limit]


def ask(
    argv: Sequence[str], seconds: float = 10, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes] | None:
    """Run a program without input; return status, stdout, stderr, or None if it can't be had."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            start_new_session=True,  # nothing can ask on, or type into, our terminal
            env={**ENVIRONMENT, **(environment or {})},
            check=False,
        )
        return done.returncode, done.stdout, done.stderr
    return None
