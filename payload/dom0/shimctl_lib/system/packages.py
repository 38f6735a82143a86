# SPDX-License-Identifier: GPL-3.0-or-later
"""The package manager's facts: the owner of a file, and where dpkg puts the package's file."""

import hashlib
from pathlib import Path

from dom0_common.paths import Paths
from dom0_common.text import clean

from shimctl_lib.errors import ShimctlError
from shimctl_lib.system import programs

SCRYPT = "/usr/bin/scrypt"
DIVERTED = "/usr/bin/scrypt.bak"
DIGESTS = {32: "md5", 64: "sha256"}  # by the number of hex digits
OURS = "qubes-dedup-backup"


def _rpm(at: Paths) -> list[str] | None:
    """Return rpm's argv for this root, None without an rpm database."""
    if not any((at.root / name).is_dir() for name in ("usr/lib/sysimage/rpm", "var/lib/rpm")):
        return None
    return ["rpm"] if at.live else ["rpm", "--root", str(at.root)]


def _dpkg(at: Paths, program: str, *arguments: str) -> tuple[int, bytes, bytes] | None:
    """Run one of dpkg's programs for this root; None without a dpkg database."""
    database = at.root / "var/lib/dpkg"
    if not (database / "status").is_file():
        return None
    root = ["--root", str(at.root)] if program == "dpkg-divert" else ["--admindir", str(database)]
    return programs.run([program, *([] if at.live else root), *arguments])


def dpkg_owner(at: Paths) -> str | None:
    """Return the Debian package that owns /usr/bin/scrypt, as NAME-VERSION; None if none does."""
    done = _dpkg(at, "dpkg-query", "--search", SCRYPT)
    for line in (done[1] if done else b"").decode(errors="replace").splitlines():
        name, found, path = line.rpartition(": ")
        if found and path == SCRYPT and "diversion" not in name:
            show = ("--show", "--showformat=${Package}-${Version}", name.split(",")[0])
            version = _dpkg(at, "dpkg-query", *show)
            return clean(version[1]) if version and version[0] == 0 else name
    return None


def owner(at: Paths) -> str | None:
    """Return the package that owns /usr/bin/scrypt, with its version; None if none does."""
    if found := dpkg_owner(at):
        return found
    rpm = _rpm(at)
    done = programs.run([*rpm, "-qf", "--qf", r"%{NEVRA}\n", SCRYPT]) if rpm else None
    return clean(done[1].splitlines()[0]) if done and done[0] == 0 and done[1] else None


def as_shipped(at: Paths, program: Path) -> str:
    """Return whether the program has the bytes that its package shipped: `yes`, `no`, or `?`."""
    lines: list[bytes] = []
    if rpm := _rpm(at):
        listing = r"[%{FILEDIGESTS} %{FILENAMES}\n]"
        done = programs.run([*rpm, "-qf", "--qf", listing, SCRYPT])
        lines = done[1].splitlines() if done and done[0] == 0 else []
    if not lines:  # dpkg's list has names without the slash, after two blanks
        sums = at.root / "var/lib/dpkg/info/scrypt.md5sums"
        lines = sums.read_bytes().splitlines() if sums.is_file() else []
    for line in lines:
        digest, _, name = line.decode(errors="replace").partition(" ")
        if name.strip().lstrip("/") == SCRYPT[1:] and len(digest) in DIGESTS:
            found = hashlib.new(DIGESTS[len(digest)], program.read_bytes(), usedforsecurity=False)
            return "yes" if found.hexdigest() == digest else "no"
    return "?"


def rpm_installed(at: Paths) -> bool:
    """Return whether our own RPM is installed, and so its file trigger."""
    rpm = _rpm(at)
    done = programs.run([*rpm, "-q", OURS]) if rpm else None
    return done is not None and done[0] == 0


def diverted(at: Paths) -> bool:
    """Return whether dpkg puts the package's /usr/bin/scrypt at our diversion.

    Raises:
        ShimctlError: somebody else diverts it.
    """
    done = _dpkg(at, "dpkg-divert", "--truename", SCRYPT)
    place = done[1].decode(errors="replace").strip() if done and done[0] == 0 else SCRYPT
    if place not in (SCRYPT, DIVERTED):
        raise ShimctlError(
            f"dpkg-divert puts {SCRYPT} at {clean(place)}, and not for us: end that first"
            f" (sudo dpkg-divert --remove {SCRYPT}), or use --method path"
        )
    return place == DIVERTED


def divert(at: Paths, *, add: bool) -> None:
    """Add or end our diversion; moves no file.

    Raises:
        ShimctlError: dpkg-divert failed; with what it said.
    """
    what = ["--divert", DIVERTED, "--add"] if add else ["--divert", DIVERTED, "--remove"]
    done = _dpkg(at, "dpkg-divert", "--quiet", "--local", "--no-rename", *what, SCRYPT)
    if done is None or done[0] != 0:
        said = clean(done[2]) if done else "it can't be run"
        raise ShimctlError(f"dpkg-divert {' '.join(what)} {SCRYPT}: {said}")
