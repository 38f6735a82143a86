# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of a repository."""

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_store import engine_options
from dedup_store.errors import UsageError, clean
from dedup_store.system.environment import home

CONFIG_DIR = "/rw/config/dedup-store"
REPOSITORY = "/rw/dedup-store/{repository}/repo"
MOUNT_DIR = "/mnt/dedup-store"  # has a mount point for each device, named as its label
ON_DEVICE = "dedup-store/{repository}"
ENGINES = ("restic", "borg", "directory")
LOCK_WAIT = 3600  # seconds; a second put waits that long for the first one (borg)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_KEYS = {
    "engine": str,
    "location": str,
    "device": str,
    "password_file": str,
    "lock_wait": int,
    "compression": str,
    "chunks": str,
    "pack_size": int,
}
_ENGINE_OPTIONS = ("compression", "chunks", "pack_size")
# file systems allow more in a label; this much fits a line of /etc/fstab and a file name
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
# a repository in the storage qube: names as qubes-core-admin qubes/vm/__init__.py validate_name
# and dedup-server's config.py want them
_STORAGE = re.compile(r"qrexec:([A-Za-z][A-Za-z0-9_.-]{0,30})/([A-Za-z0-9][A-Za-z0-9_-]{0,31})")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:.+|[^/:@\s]+@[^/:\s]+:.+")
_MAX_CONFIG = 64 * 1024


@dataclass(frozen=True)
class Config:
    """The settings of one repository.

    Attributes:
        name: its name.
        engine: `restic`, `borg` or `directory`.
        location: absolute path, `qrexec:QUBE/NAME` for the storage qube's NAME, or a location
            that the engine understands (`rclone:...`); with `directory` always a path.
        password_file: file with the repository's password in its first line.
        lock_wait: seconds to wait for a repository that another process has locked (borg).
        device: label of the file system that the repository is on, attached when needed; or None.
        compression: as the engine's own option takes it; None for our default (engine_options.py).
        chunks: `large`, `medium` or `small` (borg); None for our default.
        pack_size: in MiB (restic); None for its own default.
    """

    name: str
    engine: str
    location: str
    password_file: Path
    lock_wait: int = LOCK_WAIT
    device: str | None = None
    compression: str | None = None
    chunks: str | None = None
    pack_size: int | None = None

    @property
    def mount_point(self) -> Path | None:
        """The device's mount point, None when there is none."""
        return Path(MOUNT_DIR) / self.device if self.device else None

    @property
    def local_repository(self) -> Path | None:
        """The repository's folder, or None when it isn't on this machine."""
        return Path(self.location) if self.location.startswith("/") else None

    @property
    def is_encrypted(self) -> bool:
        """Return whether the engine encrypts, and so has a password."""
        return self.engine != "directory"

    @property
    def storage(self) -> tuple[str, str] | None:
        """The storage qube and the repository's name there, or None."""
        match = _STORAGE.fullmatch(self.location)
        return (match[1], match[2]) if match else None


def normal(location: str) -> str:
    """Return a path in one spelling, so that a place has one name; other locations unchanged."""
    # what comes before `..` can be a link, and then the path means another place
    if not location.startswith("/") or ".." in location.split("/"):
        return location
    return "/" + os.path.normpath(location).lstrip("/")  # it keeps two slashes at the beginning


def state_folder() -> Path:
    """Return the folder for this qube's state of repositories; it may not exist yet."""
    return Path(home()) / ".config" / "dedup-store"


def state_file(config: Config, kind: str) -> Path:
    """Return the path for this qube's state of a repository."""
    name = hashlib.sha256(config.location.encode()).hexdigest()[:32]
    return state_folder() / f"{name}.{kind}"


def load(name: str) -> Config:
    """Read the configuration of a repository.

    Args:
        name: name of the file in the configuration folder, without `.toml`.

    Raises:
        UsageError: with what is wrong and where.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{clean(name, 80)}' isn't a repository name: letters, digits, '-' and '_', at most 64"
        )
    folder = Path(os.environ.get("DEDUP_STORE_CONFIG_DIR") or CONFIG_DIR)
    path = folder / f"{name}.toml"
    values = _read(path)
    for key, value in values.items():
        wanted = _KEYS.get(key)
        if wanted is None:
            known = ", ".join(_KEYS)
            raise UsageError(f"{path}: unknown key '{clean(key, 80)}' (known: {known})")
        if type(value) is not wanted:
            raise UsageError(f"{path}: '{key}' must be {_type_name(wanted)}")
    if values.get("engine") not in ENGINES:
        raise UsageError(f"{path}: 'engine' must be one of: {', '.join(ENGINES)}")
    device = values.get("device")
    if device is not None and not _LABEL.fullmatch(device):
        raise UsageError(f"{path}: 'device' must be a label: at most 32 letters, digits, '_.-'")
    place = f"{MOUNT_DIR}/{device}/{ON_DEVICE}" if device else REPOSITORY
    config = Config(
        name=name,
        engine=values["engine"],
        location=normal(values.get("location", place.format(repository=name))),
        password_file=Path(values.get("password_file", folder / f"{name}.password")),
        lock_wait=values.get("lock_wait", LOCK_WAIT),
        device=device,
        compression=values.get("compression"),
        chunks=values.get("chunks"),
        pack_size=values.get("pack_size"),
    )
    _check(config, path)
    for key in _ENGINE_OPTIONS:
        if key in values and (wrong := engine_options.problem(config.engine, key, values[key])):
            raise UsageError(f"{path}: {wrong}")
    if not config.is_encrypted:
        _check_directory(config, path, has_password="password_file" in values)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CONFIG + 1)
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist: write it, with at least the key 'engine'"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None
    if len(text) > _MAX_CONFIG:
        raise UsageError(f"{path} is larger than {_MAX_CONFIG} bytes")
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {clean(str(error), 120)}") from None


def _check_directory(config: Config, path: Path, *, has_password: bool) -> None:
    if config.local_repository is None:
        raise UsageError(
            f"{path}: with engine = 'directory', 'location' must be an absolute path, in this"
            " qube or on its device: it isn't encrypted, and has no server"
        )
    if has_password:
        raise UsageError(
            f"{path}: engine = 'directory' has no 'password_file': it encrypts nothing. Take that"
            " line out, and have the file system encrypted"
        )


def _type_name(kind: type) -> str:
    return "a whole number" if kind is int else "a string"


def _check(config: Config, path: Path) -> None:
    location = config.location
    if not location.isprintable() or "::" in location:
        raise UsageError(f"{path}: 'location' has a control character or '::' in it")
    if location.startswith("qrexec:") and not config.storage:
        raise UsageError(f"{path}: 'location' must be qrexec:QUBE/NAME, NAME of at most 32 letters")
    if not location.startswith("/") and not _REMOTE.fullmatch(location):
        raise UsageError(f"{path}: 'location' must be an absolute path or an engine's location")
    folder = Path(location)
    has_parent = config.local_repository is not None and ".." in folder.parts
    if config.mount_point and (has_parent or config.mount_point not in folder.parents):
        raise UsageError(f"{path}: 'location' must be below the device's {config.mount_point}")
    if has_parent:
        raise UsageError(f"{path}: 'location' must have no '..' in it")
    if not config.password_file.is_absolute():
        raise UsageError(f"{path}: 'password_file' must be an absolute path")
    if not 0 <= config.lock_wait <= 7 * 24 * 3600:
        raise UsageError(f"{path}: 'lock_wait' must be between 0 and 604800 seconds")
