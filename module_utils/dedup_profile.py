# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup profiles of dom0: /etc/qubes/backup/NAME.conf.

Who reads them: qubes-core-admin qubes/api/admin.py _load_backup_profile. Rights of the folder:
qubes-core-admin rpm_spec/core-dom0.spec.in.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from .dedup_common import ProvisionError
from .dedup_files import Rights, remove_file, replace_file
from .dedup_values import QUBE_NAME, check_name, check_tag

# The name becomes the argument of admin.backup.Execute, a qrexec argument.
PROFILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+._-]{0,62}\Z")
# qubes-core-admin qubes/utils.py match_vm_name_with_special: no other keyword matches anything.
CLASSES = ("AppVM", "TemplateVM", "StandaloneVM", "DispVM", "AdminVM")
MODE = 0o660
# What makes the scrypt shim keep the data deduplicable, and how much must follow it: see the shim.
PREFIX = "dedup:"
LEAST_BYTES = 20
RANDOM_BYTES = 32
HEADER = "# Managed by qubes-dedup-backup. The passphrase is kept when this is run again.\n"


@dataclass(frozen=True)
class Profile:
    """The content of a profile, without the passphrase.

    Attributes:
        destination_vm: the qube that gets the backup.
        destination_path: a folder in it, or a command that reads the backup on its stdin.
        include: names, @tag:NAME or @type:CLASS; None means all with include_in_backups.
        exclude: the same, taken out again.
    """

    destination_vm: str
    destination_path: str
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def content(self) -> dict[str, object]:
        """Return the file's keys and values; `exclude` may be missing, but must not be null."""
        content: dict[str, object] = {
            "destination_vm": self.destination_vm,
            "destination_path": self.destination_path,
            "include": None if self.include is None else list(self.include),
        }
        if self.exclude:
            content["exclude"] = list(self.exclude)
        content["compression"] = False
        return content

    def without(self, qubes: Iterable[str]) -> Profile:
        """Return the profile that never backs these qubes up, whatever else is in it."""
        more = sorted(set(qubes).difference(self.exclude))
        return replace(self, exclude=(*self.exclude, *more))


def backup_qubes(folder: Path) -> set[str]:
    """Return the qubes that profiles of a folder send to dedup-store.

    A file that can't be read is skipped.
    """
    found = set()
    for path in folder.glob("*.conf"):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(content, dict):
            qube, command = content.get("destination_vm"), content.get("destination_path")
            if _is_store(str(command)) and QUBE_NAME.match(str(qube)):
                found.add(str(qube))
    return found


def _is_store(command: str) -> bool:
    """Return whether a destination is dedup-store; same rule as in dedup_backup/settings.py."""
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return bool(words) and Path(words[0]).name == "dedup-store" and "put" in words[1:]


def new_passphrase() -> str:
    """Return a passphrase with 256 bits of entropy that asks for deduplication."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def check_profile_name(name: str) -> None:
    """Check a profile's name.

    Raises:
        ProvisionError: qubesd couldn't use it.
    """
    if not PROFILE_NAME.match(name):
        raise ProvisionError(
            f"{name!r} can't be a profile's name: use letters, digits, '_', '+', '.' and '-', at "
            "most 63 characters"
        )


def check_profile(name: str, profile: Profile) -> None:
    """Check what can be checked without asking qubesd.

    Raises:
        ProvisionError: a qube's name or an entry that qubesd couldn't use, or would ignore
            silently.
    """
    check_name(profile.destination_vm)
    if not profile.destination_path.strip() or not profile.destination_path.isprintable():
        raise ProvisionError(f"destination_path of {name} must be one line that isn't empty")
    for entry in (*(profile.include or ()), *profile.exclude):
        kind, _, value = entry.partition(":")
        if not entry.startswith("@"):
            check_name(entry)
            continue
        if kind not in ("@tag", "@type") or not value:
            raise ProvisionError(
                f"{entry!r} in {name} matches nothing: use a qube's name, @tag:NAME or @type:CLASS"
            )
        if kind == "@tag":
            check_tag(value)
        elif value not in CLASSES:
            raise ProvisionError(
                f"{entry!r} in {name} matches nothing: use one of {', '.join(CLASSES)}"
            )
    if profile.destination_vm in (profile.include or ()):
        raise ProvisionError(
            f"{profile.destination_vm} can't be backed up into itself: take it out of include"
        )


def missing_qubes(profile: Profile, names: set[str]) -> list[str]:
    """Return the entries that name qubes which don't exist; qubesd ignores them silently."""
    entries = (*(profile.include or ()), *profile.exclude)
    return [entry for entry in entries if not entry.startswith("@") and entry not in names]


class ProfileFile:
    """One profile's file.

    Raises:
        ProvisionError: there is no such user or group here.
    """

    def __init__(self, folder: Path, name: str, owner: str, group: str) -> None:
        self.path = folder / f"{name}.conf"
        self.rights = Rights.of(owner, group, MODE)

    def read(self) -> dict[str, object] | None:
        """Return the file's content, or None when there is none.

        Raises:
            ProvisionError: it is there, but can't be read; it may hold a passphrase that is needed.
        """
        try:
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            # A YAML error quotes the text around it, so its message isn't passed on.
            raise ProvisionError(
                f"can't read {self.path} ({type(error).__name__}); it may hold a passphrase, so it "
                "is left as it is: repair it, or move it away"
            ) from None
        if not isinstance(content, dict):
            raise ProvisionError(f"{self.path} isn't a backup profile: move it away")
        return content

    def passphrase(self, content: dict[str, object] | None) -> str | None:
        """Return the passphrase in the file, or None when a new one is needed.

        Raises:
            ProvisionError: it has one for ordinary encryption, which must not be replaced.
        """
        if content is None:
            return None
        text = content.get("passphrase_text")
        if isinstance(text, str) and text.startswith(PREFIX):
            if len(text.encode()) - len(PREFIX) >= LEAST_BYTES:
                return text
        elif text is None and "passphrase_vm" not in content:
            return None
        raise ProvisionError(
            f"{self.path} exists with a passphrase that does not ask for deduplication: choose "
            "another name for the profile, or move the file away"
        )

    def rights_are_right(self) -> bool:
        """Return whether owner, group and mode of the existing file are as they must be."""
        return self.rights.are_those_of(self.path)

    def write(self, content: dict[str, object]) -> None:
        """Replace the file in one step; at no moment can others read it.

        Raises:
            ProvisionError: it can't be written.
        """
        replace_file(self.path, HEADER + yaml.safe_dump(content, sort_keys=False), self.rights)

    def remove(self) -> None:
        """Remove the file.

        Raises:
            ProvisionError: it can't be removed.
        """
        remove_file(self.path)
