# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are in dom0, and what a backup profile says."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dedup_backup.errors import UsageError

DEFAULT_PROFILE = "dedup-backup"
# As Qubes and dedup-store name them (qubes/vm/__init__.py validate_name; dedup_store/config.py)
_QUBE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,30}")
_PROFILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+._-]{0,62}")


class Layout:
    """The paths in use, all below one root."""

    def __init__(self, root: Path) -> None:
        """Work below root, `/` for the running system."""
        self.profiles = root / "etc/qubes/backup"
        self.ledgers = root / "var/lib/qubes-dedup-backup/ledger"
        self.confirmed = root / "var/lib/qubes-dedup-backup/confirmed"


@dataclass(frozen=True)
class Source:
    """A store: which qube, which of its profiles."""

    qube: str
    store_profile: str


class Profile:
    """A profile of qvm-backup (qubes-core-admin qubes/api/admin.py _load_backup_profile)."""

    def __init__(self, layout: Layout, name: str) -> None:
        """Name it; it is read when something of it is needed."""
        if not _PROFILE.fullmatch(name):
            raise UsageError("a backup profile's name has letters, digits, '_', '+', '.' and '-'")
        self._path = layout.profiles / f"{name}.conf"

    def source(self, qube: str | None, store_profile: str | None) -> Source:
        """Find the store: as the command line says, else from the profile's destination.

        Raises:
            UsageError: the profile has no destination that a store can be told from.
        """
        if qube is None or store_profile is None:
            content = self._read()
            words = _words(str(content.get("destination_path", "")))
            if words[:2] != ["dedup-store", "put"]:
                raise UsageError(
                    f"destination_path of {self._path} is not 'dedup-store put ...':"
                    " give --qube and --store-profile"
                )
            store_profile = store_profile or _option(words, "--profile") or "default"
            qube = qube or str(content.get("destination_vm") or "")
        if not _QUBE.fullmatch(qube) or not _PROFILE.fullmatch(store_profile):
            raise UsageError("that is no name of a qube or of a profile of dedup-store")
        return Source(qube, store_profile)

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
                raise UsageError(f"passphrase_text of {self._path} is no text: put it in quotes")
        if not text:
            raise UsageError(f"no passphrase: {self._path} has none, use --passphrase-file")
        return text.encode()

    def _read(self) -> dict[str, Any]:
        try:
            content = yaml.safe_load(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"there is no {self._path}: name another with --profile, or give --qube,"
                " --store-profile and --passphrase-file"
            ) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            # a YAML error quotes what is around it, perhaps the passphrase
            raise UsageError(f"can't read {self._path} ({type(error).__name__})") from None
        if not isinstance(content, dict):
            raise UsageError(f"{self._path} is no backup profile")
        return content


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
