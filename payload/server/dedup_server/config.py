# SPDX-License-Identifier: GPL-3.0-or-later
"""The repositories that this qube offers: one file NAME.toml for each."""

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_server.errors import UsageError, clean

CONFIG_DIR = "/rw/config/dedup-server"
PLACE = "/rw/dedup-server"
ENGINES = ("restic", "borg")
MAINTENANCE_MINUTES = 240
KEEP_REMOVED_DAYS = 7
# what maintenance needs (reserve.py)
RESERVE_MIB = {"restic": 64, "borg": 640}

# With 32 characters, service and argument stay below 64 (the limit of qrexec's old protocol).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_RCLONE = re.compile(r"rclone:(?P<remote>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}:[^:]*)")
_SSH = re.compile(
    r"ssh://(?P<target>(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}@)?[A-Za-z0-9][A-Za-z0-9.-]{0,252})"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<folder>/.+)"
)
_KEYS = {
    "engine": str,
    "place": str,
    "rclone_config": str,
    "ssh_config": str,
    "maintenance_minutes": int,
    "keep_removed_days": int,
    "reserve_mib": int,
}
_MAX_CONFIG = 64 * 1024
_MAX_DAYS, _MAX_RESERVE = 3650, 65536


@dataclass(frozen=True)
class Ssh:
    """A server that runs the engine's program: [USER@]HOST, port or None, folder there."""

    target: str
    port: str | None
    folder: str


@dataclass(frozen=True)
class Repository:
    """One repository.

    Attributes:
        name: its name, a file name without dots.
        engine: `restic` or `borg`.
        place: what holds it, under its name: a folder, `rclone:REMOTE:PATH`, `ssh://HOST/FOLDER`.
        rclone_config: rclone's configuration file, None for rclone's own choice.
        ssh_config: ssh's configuration file, None for ssh's own choice.
        maintenance_minutes: the longest time that maintenance stays open.
        keep_removed_days: for how long what maintenance removed is held back at least.
        reserve_mib: room that is kept for maintenance on a full disk.
    """

    name: str
    engine: str
    place: str
    rclone_config: str | None
    ssh_config: str | None
    maintenance_minutes: int
    keep_removed_days: int
    reserve_mib: int

    @property
    def argument(self) -> str:
        """The services' argument."""
        return f"{self.engine}+{self.name}"

    @property
    def folder(self) -> Path | None:
        """The folder that holds the repository, None when it isn't in this qube."""
        return Path(self.place) if self.place.startswith("/") else None

    @property
    def remote(self) -> str | None:
        """REMOTE:PATH, as rclone takes it, of what holds the repository."""
        match = _RCLONE.fullmatch(self.place)
        return match["remote"] if match else None

    @property
    def ssh(self) -> Ssh | None:
        """The server that holds the repository."""
        match = _SSH.fullmatch(self.place)
        return Ssh(match["target"], match["port"], match["folder"]) if match else None


def by_argument(argument: str) -> Repository:
    """Return the repository that a service's argument names.

    Args:
        argument: `ENGINE+NAME`; untrusted.

    Raises:
        UsageError: there is none.
    """
    engine, _, name = argument.partition("+")
    if engine not in ENGINES or not _NAME.fullmatch(name):
        raise UsageError("the argument must be restic+NAME or borg+NAME")
    repository = load(name)
    if repository.engine != engine:
        raise UsageError(f"repository {name} is not {engine}'s")
    return repository


def load(name: str) -> Repository:
    """Read the configuration of a repository.

    Raises:
        UsageError: it is missing, unsafe or wrong.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{clean(name, 80)}' is not a repository name: at most 32 letters, digits, '-', '_'"
        )
    path = Path(os.environ.get("DEDUP_SERVER_CONFIG_DIR") or CONFIG_DIR) / f"{name}.toml"
    values = _read(path, name)
    for key, value in values.items():
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise UsageError(f"{path}: unknown key '{clean(key, 80)}' (known: {known})")
        if type(value) is not _KEYS[key]:
            kind = "a whole number" if _KEYS[key] is int else "a string"
            raise UsageError(f"{path}: '{key}' must be {kind}")
    repository = Repository(
        name=name,
        engine=values.get("engine", ""),
        place=values.get("place", PLACE),
        rclone_config=values.get("rclone_config"),
        ssh_config=values.get("ssh_config"),
        maintenance_minutes=values.get("maintenance_minutes", MAINTENANCE_MINUTES),
        keep_removed_days=values.get("keep_removed_days", KEEP_REMOVED_DAYS),
        reserve_mib=values.get("reserve_mib", RESERVE_MIB.get(values.get("engine", ""), 0)),
    )
    _check(repository, path)
    return repository


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            text = file.read(_MAX_CONFIG + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no repository {name} here: {path} is missing") from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    if info.st_uid not in (0, os.geteuid()) or stat.S_IMODE(info.st_mode) & 0o022:
        raise UsageError(f"{path} could be written by others: run `chown root` and `chmod 644`")
    if len(text) > _MAX_CONFIG:
        raise UsageError(f"{path} is larger than {_MAX_CONFIG} bytes")
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {clean(str(error), 120)}") from None


def _check(repository: Repository, path: Path) -> None:
    place = repository.place
    if repository.engine not in ENGINES:
        raise UsageError(f"{path}: 'engine' must be one of: {', '.join(ENGINES)}")
    if not place.isprintable() or ".." in place.split("/"):
        raise UsageError(f"{path}: 'place' has a control character or '..' in it")
    if not (repository.folder or repository.remote or repository.ssh):
        raise UsageError(
            f"{path}: 'place' must be an absolute path, rclone:REMOTE:PATH,"
            " or ssh://[USER@]HOST[:PORT]/FOLDER"
        )
    if repository.remote and repository.engine == "borg":
        raise UsageError(f"{path}: borg can't use an rclone remote; mount it, or take ssh://")
    for key in ("rclone_config", "ssh_config"):
        value = getattr(repository, key)
        if value is not None and not (value.startswith("/") and value.isprintable()):
            raise UsageError(f"{path}: '{key}' must be an absolute path")
    if not 1 <= repository.maintenance_minutes <= 7 * 24 * 60:
        raise UsageError(f"{path}: 'maintenance_minutes' must be between 1 and 10080")
    if not 0 <= repository.keep_removed_days <= _MAX_DAYS:
        raise UsageError(f"{path}: 'keep_removed_days' must be between 0 and {_MAX_DAYS}")
    if not 0 <= repository.reserve_mib <= _MAX_RESERVE:
        raise UsageError(f"{path}: 'reserve_mib' must be between 0 and {_MAX_RESERVE}")
