# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's settings: the backup profiles, and server.toml."""

import os
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dom0_common.paths import Paths
from dom0_common.text import clean

from dedup_backup.errors import UsageError

DEFAULT_PROFILE = "dedup-backup"
# As Qubes and dedup-store name them (qubes/vm/__init__.py validate_name; dedup_store/config.py)
_QUBE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,30}")
_PROFILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+._-]{0,62}")
_STORAGE = {
    "qube": _QUBE,
    "engine": re.compile("restic|borg"),
    # dedup_server/config.py
    "repository": re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}"),
}
_MAX_STORAGE = 64 * 1024
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class StoreAddress:
    """The place of a store: which qube, which of its repositories."""

    qube: str
    repository: str

    def __str__(self) -> str:
        return f"the store {self.repository} in {self.qube}"


@dataclass(frozen=True)
class StorageRepository:
    """A repository in a storage qube."""

    qube: str
    engine: str
    repository: str


class Profile:
    """A profile of qvm-backup (qubes-core-admin qubes/api/admin.py _load_backup_profile)."""

    def __init__(self, paths: Paths, name: str) -> None:
        """Name the profile; it is read when it is needed.

        Attributes:
            name: its name.
            path: its file.
        """
        if not _PROFILE.fullmatch(name):
            raise UsageError("a backup profile's name has letters, digits, '_', '+', '.' and '-'")
        self.name = name
        self.path = paths.profiles / f"{name}.conf"

    def address(self, qube: str | None, repository: str | None) -> StoreAddress:
        """Return the store's place: from the command line, else from the profile's destination.

        Raises:
            UsageError: the profile has no destination that names a store.
        """
        if qube is None or repository is None:
            found = self._destination()
            if found is None:
                raise UsageError(
                    f"destination_path of {self.path} is not 'dedup-store put ...':"
                    " give --qube and --repository"
                )
            qube, repository = qube or found[0], repository or found[1]
        return _address(qube, repository)

    def store(self) -> StoreAddress | None:
        """Return the store that the profile sends to, None for another destination.

        Raises:
            UsageError: it can't be read, or names no store.
        """
        found = self._destination()
        return found and _address(*found)

    def _destination(self) -> tuple[str, str] | None:
        content = self._read()
        words = _words(str(content.get("destination_path", "")))
        # module_utils/dedup_profile.py has this rule too
        if not words or Path(words[0]).name != "dedup-store" or "put" not in words[1:]:
            return None
        repository = _option(words, "--repository") or "default"
        return str(content.get("destination_vm") or ""), repository

    def qubes(self) -> tuple[list[str] | None, list[str]]:
        """Return include (None: the qubes with include_in_backups), and exclude.

        Raises:
            UsageError: they can't be read.
        """
        content = self._read()
        include, exclude = content.get("include"), content.get("exclude", [])
        for entries in ([] if include is None else include, exclude):
            if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
                raise UsageError(f"include and exclude of {self.path} must be lists of names")
        return include, exclude

    def has_passphrase(self) -> bool:
        """Return whether it has the passphrase (else Qubes gets it from elsewhere)."""
        return bool(self._read().get("passphrase_text"))

    def passphrase(self, file: str | None) -> bytes:
        """Read the passphrase: the first line of a file (`-`: stdin), else from the profile.

        Raises:
            UsageError: there is none.
        """
        if file is not None:
            try:
                with (
                    open(0, "rb", closefd=False) if file == "-" else Path(file).open("rb") as lines
                ):
                    # the same end of line as for qvm-backup-restore --passphrase-file
                    text = lines.readline(4096).decode().rstrip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"can't read the passphrase from {file}: {error}") from None
        else:
            text = self._read().get("passphrase_text") or ""
            if not isinstance(text, str):
                raise UsageError(f"passphrase_text of {self.path} isn't text: put it in quotes")
        if not text:
            raise UsageError(f"no passphrase: {self.path} has none, use --passphrase-file")
        return text.encode()

    def _read(self) -> dict[str, Any]:
        try:
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"there is no {self.path}: name another with --profile, or give --qube,"
                " --repository and --passphrase-file"
            ) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            # a YAML error quotes what is around it, perhaps the passphrase
            raise UsageError(f"can't read {self.path} ({type(error).__name__})") from None
        if not isinstance(content, dict):
            raise UsageError(f"{self.path} isn't a backup profile")
        return content


def storage_repository(paths: Paths, address: StoreAddress) -> StorageRepository | None:
    """Return the repository in a storage qube that holds a store's data, by dom0's own file.

    Returns:
        None when dom0 knows of none: then the data are in the backup qube, or on its device.

    Raises:
        UsageError: the file can't be used.
    """
    path = paths.storage
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            content = file.read(_MAX_STORAGE + 1)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise UsageError(f"others could write {path}: run `chown root` and `chmod 644`")
        if len(content) > _MAX_STORAGE:
            raise UsageError(f"{path} is too large")
        found = tomllib.loads(content.decode()).get(address.qube, {})
        entry = found.get(address.repository) if isinstance(found, dict) else found
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"can't read {path}: {clean(str(error), 120)}") from None
    if entry is None:
        return None
    if not isinstance(entry, dict) or set(entry) != set(_STORAGE):
        raise UsageError(
            f"{path}: the entry of {address.qube}, {address.repository} must have the keys"
            f" {', '.join(_STORAGE)}, and no others"
        )
    for key, pattern in _STORAGE.items():
        if not isinstance(entry[key], str) or not pattern.fullmatch(entry[key]):
            raise UsageError(f"{path}: malformed {key}: '{clean(str(entry[key]), 80)}'")
    return StorageRepository(**entry)


def all_profiles(paths: Paths) -> list[Profile]:
    """List the backup profiles by name, except those that Qubes can't use."""
    names = sorted(path.stem for path in paths.profiles.glob("*.conf"))
    return [Profile(paths, name) for name in names if _PROFILE.fullmatch(name)]


def _address(qube: str, repository: str) -> StoreAddress:
    if not _QUBE.fullmatch(qube) or not _REPOSITORY.fullmatch(repository):
        raise UsageError("that isn't the name of a qube or a repository")
    return StoreAddress(qube, repository)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _option(words: list[str], name: str) -> str | None:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return following
        if word.startswith(name + "="):
            return word.removeprefix(name + "=")
    return None
