# SPDX-License-Identifier: GPL-3.0-or-later
"""The update of a backup profile of dom0 to its description (library/backup_profile.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import dedup_profile as profiles
from .dedup_common import ProvisionError, Qubes
from .dedup_values import check_name, plain

SECRET = "passphrase_text"  # noqa: S105 -- a key's name


# The keys whose values may be shown; of others only the name is shown.
SHOWN = ("destination_vm", "destination_path", "include", "exclude", "compression")


def existing_names() -> set[str]:
    """Return the names of all qubes.

    Raises:
        ProvisionError: qubesd can't be asked.
    """
    qubes = Qubes()
    try:
        return qubes.names()
    except qubes.errors as error:
        raise ProvisionError(
            f"can't ask qubesd for the qubes: {qubes.error_text(error)}"
        ) from error


def shown(key: str, value: object) -> object:
    """Return a value of the file as the diff shows it: only text, and nothing secret."""
    if key not in SHOWN:
        return "(not shown)"
    return [str(entry) for entry in value] if isinstance(value, list) else plain(value)


def differences(
    before: dict[str, object], after: dict[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Return the keys and values that differ, on both sides, without any passphrase."""
    keys = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
    old = {key: shown(key, before[key]) for key in keys if key in before and key != SECRET}
    new = {key: shown(key, after[key]) for key in keys if key in after and key != SECRET}
    if SECRET in keys and SECRET in after:
        new[SECRET] = "(a new one)"
    elif SECRET in keys:
        old[SECRET] = "(this one is lost)"
    return old, new


class ProfileApplier:
    """An update of one backup profile, for Ansible's module or Salt's state.

    Attributes:
        params: the options of library/backup_profile.py, all of them.
        check_mode: nothing is written.
        warn: takes each warning for the user.
    """

    def __init__(
        self, params: dict[str, Any], check_mode: bool, warn: Callable[[str], None]
    ) -> None:
        self.params = params
        self.check_mode = check_mode
        self.warn = warn
        self.name: str = params["name"]
        self.folder = Path(params["folder"])

    def apply(self) -> dict[str, object]:
        """Validate, write if something differs, and return the result.

        Raises:
            ProvisionError: something is wrong; the file is as before.
        """
        profiles.check_profile_name(self.name)
        if self.params["state"] == "absent":
            return self._remove()
        params = self.params
        profile = profiles.Profile(
            destination_vm=params["destination_vm"] or "",
            destination_path=params["destination_path"] or "",
            include=None if params["include"] is None else tuple(params["include"]),
            exclude=tuple(params["exclude"]),
        )
        profiles.check_profile(self.name, profile)
        for qube in params["never_include"]:
            check_name(qube)
        missing = self._check_qubes(profile)
        profile = profile.without(self._backup_qubes(profile))
        file = self._file()
        existing = file.read()
        passphrase = file.passphrase(existing)
        content = {**profile.content(), SECRET: passphrase or profiles.new_passphrase()}
        before, after = differences(existing or {}, content)
        if existing is not None and not file.rights_are_right():
            before["rights"], after["rights"] = "other", "0660"
        changed = bool(before or after)
        if changed and not self.check_mode:
            file.write(content)
        return self._result(changed, file, before, after) | {
            "passphrase_generated": passphrase is None,
            "missing": missing,
        }

    def _remove(self) -> dict[str, object]:
        file = self._file()
        existing = file.read()
        if existing is None:
            return self._result(False, file, {}, {})
        passphrase = file.passphrase(existing)
        confirmation = self.params["confirm_removal"]
        if passphrase is not None and confirmation != self.name:
            given = "" if confirmation is None else f"confirm_removal names {confirmation!r}. "
            raise ProvisionError(
                f"{given}{file.path} holds the only passphrase of the backups made with it, which "
                "can't be restored without it: keep a copy off this machine, then say "
                f"`confirm_removal: {self.name}`"
            )
        if not self.check_mode:
            file.remove()
        before, _ = differences(existing, {})
        return self._result(True, file, {"state": "present", **before}, {"state": "absent"})

    def _file(self) -> profiles.ProfileFile:
        owner, group = self.params["owner"], self.params["group"]
        return profiles.ProfileFile(self.folder, self.name, owner, group)

    @staticmethod
    def _result(
        changed: bool,
        file: profiles.ProfileFile,
        before: dict[str, object],
        after: dict[str, object],
    ) -> dict[str, object]:
        return {
            "changed": changed,
            "path": str(file.path),
            "passphrase_generated": False,
            "missing": [],
            "diff": {"before": before, "after": after},
        }

    def _backup_qubes(self, profile: profiles.Profile) -> set[str]:
        """Return the qubes that keep backups: these must not be backed up into themselves.

        Nor a backup qube of another profile: two that back each other up grow without end.
        """
        found = {profile.destination_vm, *self.params["never_include"]}
        found |= profiles.backup_qubes(self.folder)
        if named := sorted(found.intersection(profile.include or ())):
            self.warn(
                f"profile {self.name} names {', '.join(named)}, where backups are kept: left out,"
                " or they would be backed up with all that they keep"
            )
        return found

    def _check_qubes(self, profile: profiles.Profile) -> list[str]:
        names = existing_names()
        destination = profile.destination_vm
        if destination not in names:
            message = f"{destination}, the destination of profile {self.name}, does not exist"
            if not self.check_mode:
                raise ProvisionError(f"{message}: make it first, or correct the name")
            self.warn(f"{message} yet")
        missing = profiles.missing_qubes(profile, names)
        if missing:
            self.warn(
                f"profile {self.name} names qubes that do not exist, Qubes will ignore them: "
                + ", ".join(missing)
            )
        return missing
