# SPDX-License-Identifier: GPL-3.0-or-later
"""The inspection of what is in place; it changes nothing."""

import hashlib
import importlib.machinery
import re
import stat
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from dom0_common.paths import SHIM, Paths

from shimctl_lib import guard, state
from shimctl_lib.errors import GUIDES_BACKUPS, ShimctlError
from shimctl_lib.system import callers, files, packages, programs

MARKER = b"\n# qubes-dedup-backup: scrypt shim "  # a line near the top of every version of the shim
OURS = ("shim", "other shim")
PLAIN = re.compile(rb"^[ \t]*mode[ \t]*=[ \t]*plain[ \t]*(#.*)?$", re.MULTILINE)  # no mode any more
LINK_PATIENCE = 2  # seconds; dpkg links a file to a second name for a moment


@dataclass(frozen=True)
class Entry:
    """The file at a path.

    Attributes:
        path: where it is.
        kind: missing; real; shim (ours, as beside this program); other shim (another version, or
            edited); guide (the forum guide's script); broken (a program that is not a working
            scrypt); symbolic link; hard link (a file with more names); unknown (a folder, any other
            file).
        sha256: of its content, in hex.
        mode: its permissions.
        owner: user and group, as numbers.
        mtime_ns: when its content was changed last.
        inode: its number in the file system.
    """

    path: Path
    kind: str
    sha256: str = ""
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    mtime_ns: int = 0
    inode: int = 0

    def alike(self, other: "Entry") -> bool:
        """Return whether both are the same in all that `rpm -V` looks at."""
        ours = (self.sha256, self.mode, self.owner, self.mtime_ns)
        return ours == (other.sha256, other.mode, other.owner, other.mtime_ns)

    def still(self, path: Path) -> bool:
        """Return whether the file at path, here or moved, is the inspected one."""
        try:
            status = path.lstat()
        except FileNotFoundError:
            return self.kind == "missing"
        if (status.st_ino, status.st_mtime_ns) == (self.inode, self.mtime_ns):
            return True
        # An overlay gives a file another number when it is moved: then all else must be the same.
        same = stat.S_ISREG(status.st_mode) and status.st_mtime_ns == self.mtime_ns
        return same and hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256


@dataclass(frozen=True)
class Installation:
    """All that the inspection found.

    Attributes:
        scrypt: what is at /usr/bin/scrypt.
        real: what is where the real scrypt is kept.
        old: what is at /usr/bin/scrypt.old, a name from the forum guide.
        local: what is at /usr/local/bin/scrypt.
        config: the shim's config, None when there is none.
        mode: the config's mode, None when the config is malformed.
        state: the state file, None when nothing is installed.
        diverted: whether dpkg has our diversion.
        guard: the guard's files.
        others: each scrypt that some caller finds before /usr/bin/scrypt.
    """

    scrypt: Entry
    real: Entry
    old: Entry
    local: Entry
    config: bytes | None
    mode: str | None
    state: state.State | None
    diverted: bool
    guard: list[guard.GuardFile]
    others: list[Path]

    def config_is_still(self, path: Path) -> bool:
        """Return whether the config, here or moved, is the inspected one."""
        return files.read(path) == self.config

    def in_the_way(self, at: Paths, method: str, again: str | None = None) -> list[str]:
        """Return what callers find before the shim, each with advice that ends with again."""
        again = again or "`sudo shimctl reconcile`"
        last = at.local if method == "path" else at.scrypt
        texts = []
        for path in self.others:
            if path == last:
                break
            if path == at.local and self.local.kind in OURS:
                continue  # the other method's shim, which goes by itself
            it = (
                "the forum guide's script"
                if path == at.local and self.local.kind == "guide"
                else ""
            )
            texts.append(
                f"{path} is {it or 'a scrypt'} that callers find before the shim, so that a backup"
                " may leave dom0 in clear, or not deduplicate. It was left alone: remove it (`sudo"
                f" rm {path}`), then run {again}"
            )
        return texts

    def config_problem(self, path: Path) -> str | None:
        """Return what is wrong with the config at path, and what to do; None if nothing is."""
        if self.mode is not None:
            return None
        if PLAIN.search(self.config or b""):
            return (
                f"{path} says `mode = plain`, which no longer exists: it sent backups in clear."
                " Until you choose another with `sudo shimctl install --mode authenticated` (or"
                " off), it counts as off: each backup is really encrypted, and none deduplicates;"
                f" {GUIDES_BACKUPS}"
            )
        return (
            f"{path} is malformed, so it counts as `mode = off`: correct it, or run"
            " `sudo shimctl install --mode MODE`"
        )

    @property
    def method(self) -> str:
        """Return how the shim is installed, or would be."""
        method = (self.state or {}).get("method")
        if method in ("replace", "path"):
            return str(method)
        return "path" if self.state is not None and self.local.kind in OURS else "replace"

    def summary(self) -> dict[str, str]:
        """Return the facts for the user, before and after a change."""
        phase = (self.state or {}).get("phase", "installed")
        return {
            "installed": "no"
            if self.state is None
            else "yes"
            if phase == "installed"
            else "partly",
            "method": self.method,
            "scrypt": self.scrypt.kind,
            "real": self.real.kind,
            "local": self.local.kind,
            "mode": "no config" if self.config is None else self.mode or "not understood",
            "guard": guard.summary(self.guard),
            "diverted": "yes" if self.diverted else "no",
            "recorded": str((self.state or {}).get("real_sha256", "nothing"))[:16],
        }


def load_shim() -> ModuleType:
    """Load the shim beside this program: to test that it loads, and for its constants."""
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("scrypt_shim", str(SHIM))
    shim = ModuleType(loader.name)
    shim.__file__ = str(SHIM)
    try:
        loader.exec_module(shim)
    except (OSError, SyntaxError) as error:
        raise ShimctlError(f"the shim at {SHIM} can't be loaded: {error}") from error
    return shim


def answers(path: Path) -> bool:
    """Return whether the program identifies itself as scrypt."""
    done = programs.run([str(path), "--version"])
    return done is not None and (done[1].startswith(b"scrypt ") or b"usage: scrypt" in done[2])


def entry(path: Path) -> Entry:
    """Return what is at path."""
    deadline = time.monotonic() + LINK_PATIENCE
    while True:
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                return Entry(
                    path, "symbolic link", mtime_ns=status.st_mtime_ns, inode=status.st_ino
                )
            if not stat.S_ISREG(status.st_mode):
                return Entry(path, "unknown", mtime_ns=status.st_mtime_ns, inode=status.st_ino)
            if status.st_nlink == 1:
                content = path.read_bytes()
                break
        except FileNotFoundError:
            return Entry(path, "missing")
        if time.monotonic() > deadline:
            return Entry(path, "hard link")
        time.sleep(0.05)
    return Entry(
        path,
        _kind(path, content),
        hashlib.sha256(content).hexdigest(),
        stat.S_IMODE(status.st_mode),
        (status.st_uid, status.st_gid),
        status.st_mtime_ns,
        status.st_ino,
    )


def is_ours(content: bytes) -> bool:
    """Return whether it is the shim, of any version."""
    return MARKER in content[:1024]


def _kind(path: Path, content: bytes) -> str:
    if content.startswith(b"\x7fELF"):
        return "real" if answers(path) else "broken"
    if is_ours(content):
        return "shim" if content == SHIM.read_bytes() else "other shim"
    if content.startswith(b"#!") and b"Please enter passphrase" in content[:65536]:
        return "guide"
    return "unknown"


def shim_entry(path: Path, real: Entry) -> Entry:
    """Return what is at path; a shim must have the owner and the mode that the real one has."""
    found = entry(path)
    if found.kind == "shim" and real.kind == "real":
        right = (files.script_mode(real.mode), real.owner)
        found = found if (found.mode, found.owner) == right else replace(found, kind="other shim")
    elif found.kind == "shim" and found.mode != 0o755:
        found = replace(found, kind="other shim")
    return found


def inspect(at: Paths) -> Installation:
    """Inspect what is in place."""
    config = files.read(at.config)
    mode = load_shim().MODE.fullmatch(re.sub(rb"#.*", b"", config or b""))
    real = entry(at.real)
    scrypt = shim_entry(at.scrypt, real)
    return Installation(
        scrypt=scrypt,
        real=real,
        old=entry(at.old),
        local=shim_entry(at.local, scrypt),
        config=config,
        mode=(mode[1] or b"authenticated").decode() if mode else None,
        state=state.load(at),
        diverted=packages.diverted(at),
        guard=guard.guard_files(at),
        others=callers.everyone(at),
    )
