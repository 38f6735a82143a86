# SPDX-License-Identifier: GPL-3.0-or-later
"""The paths of files in dom0. The shim (payload/dom0/scrypt) imports nothing, and has its own."""

from pathlib import Path

PROGRAMS = Path(__file__).resolve().parents[1]  # /usr/lib/qubes-dedup-backup
SHIM = PROGRAMS / "scrypt"
GUARD = PROGRAMS / "guard"
GUIDE = PROGRAMS / "guide"


class Paths:
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
        self.storage = root / "etc/qubes-dedup-backup/server.toml"
        self.profiles = root / "etc/qubes/backup"  # qvm-backup's

        records = root / "var/lib/qubes-dedup-backup"
        self.state = records / "state.json"  # shimctl's; exists while the shim is installed
        self.ledgers = records / "ledger"  # the shim's, as are the next two; they outlive it
        self.order = records / "order"
        self.encrypted = records / "encrypted"
        self.confirmed = records / "confirmed"  # qubes-dedup-backup's

        self.lock = root / "run/qubes-dedup-backup.lock"

        self.log = root / "dev/log"
        self.sessions = root / "run/user"
        self.units = root / "etc/systemd/system"
        self.dnf4 = root / "etc/dnf/plugins/post-transaction-actions.d"
        self.dnf5 = root / "etc/dnf/libdnf5-plugins/actions.d"

    @property
    def systemd(self) -> bool:
        """Return whether systemd runs this system."""
        return self.live and Path("/run/systemd/system").is_dir()
