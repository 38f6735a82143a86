#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code=no-untyped-call
"""Ansible module: a backup profile of dom0 is as described."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils import dedup_profile as profiles
    from module_utils.dedup_common import ProvisionError, Qubes
    from module_utils.dedup_values import plain
else:
    from ansible.module_utils import dedup_profile as profiles
    from ansible.module_utils.dedup_common import ProvisionError, Qubes
    from ansible.module_utils.dedup_values import plain

DOCUMENTATION = r"""
---
module: backup_profile
short_description: A profile for C(qvm-backup --profile) exists, or not
description:
  - Writes C(/etc/qubes/backup/NAME.conf) in one step, mode 0660, with compression off.
  - Generates a passphrase that asks for deduplication, 256 bits, and keeps it when run again. It is
    only in that file, never in a result, a diff or a log. Without it no backup can be restored, so
    keep a copy of it off this machine.
  - A file with another kind of passphrase is never touched, nor removed.
  - Works in dom0 only, as root.
options:
  name:
    description: Name of the profile.
    type: str
    required: true
  state:
    description:
      - Whether the profile is there.
      - V(absent) removes it with its passphrase, when O(confirm_removal) says so too. Of the other
        options, only O(folder) counts then.
    type: str
    choices: [present, absent]
    default: present
  confirm_removal:
    description:
      - The profile's name once more. Without it, O(state=absent) fails when the profile has a
        passphrase, as no backup made with it could be restored without a copy.
      - Only looked at with O(state=absent).
    type: str
  destination_vm:
    description: Qube that gets the backup. Needed unless O(state=absent).
    type: str
  destination_path:
    description:
      - Command in that qube that reads the backup on its standard input, or a folder.
      - Needed unless O(state=absent).
    type: str
  include:
    description:
      - What to back up. Names of qubes, C(@tag:NAME) and C(@type:CLASS).
      - When omitted, all qubes with the property C(include_in_backups).
      - A name that no qube has is a warning; Qubes itself would ignore it silently.
    type: list
    elements: str
  exclude:
    description: What to leave out of that, written the same way.
    type: list
    elements: str
    default: []
  folder:
    description: Where the profiles are; Qubes looks nowhere else.
    type: path
    default: /etc/qubes/backup
  owner:
    description: Owner of the file.
    type: str
    default: root
  group:
    description: Group of the file; its members may run backups.
    type: str
    default: qubes
attributes:
  check_mode:
    description: A missing destination is a warning then; an earlier task may make it.
    support: full
  diff_mode:
    description: Only the keys that move; of the passphrase, only that it is new, or goes.
    support: full
author:
  - The qubes-dedup-backup authors (@qubes-dedup-backup)
"""

EXAMPLES = r"""
- name: Back up all qubes that are marked for it
  backup_profile:
    name: dedup-backup
    destination_vm: dedup-backup
    destination_path: dedup-store put --profile default

- name: Back up two qubes and everything with a tag
  backup_profile:
    name: documents
    destination_vm: dedup-backup
    destination_path: dedup-store put --profile default
    include: [work, personal, "@tag:documents"]
    exclude: [work-old]

- name: Remove that profile, after its passphrase was copied or isn't needed any more
  backup_profile:
    name: documents
    state: absent
    confirm_removal: documents
"""

RETURN = r"""
path:
  description: The profile's file.
  returned: success
  type: str
  sample: /etc/qubes/backup/dedup-backup.conf
passphrase_generated:
  description: Whether a passphrase was generated (or would have been, in check mode).
  returned: success
  type: bool
  sample: false
missing:
  description: Entries of O(include) and O(exclude) that name qubes which don't exist.
  returned: success
  type: list
  elements: str
  sample: []
"""

ARGUMENT_SPEC: dict[str, dict[str, object]] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "confirm_removal": {"type": "str"},
    "destination_vm": {"type": "str"},
    "destination_path": {"type": "str"},
    "include": {"type": "list", "elements": "str"},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "folder": {"type": "path", "default": "/etc/qubes/backup"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "qubes"},
}
SECRET = "passphrase_text"  # noqa: S105 - a key's name


# The keys whose values may be shown; what else a file has is told by its name only.
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
        raise ProvisionError(f"can't ask qubesd for the qubes: {qubes.tell(error)}") from error


def shown(key: str, value: object) -> object:
    """Return a value of the file for a diff: nothing that could be a secret, and only text."""
    if key not in SHOWN:
        return "(not shown)"
    return [str(entry) for entry in value] if isinstance(value, list) else plain(value)


def moved(
    before: dict[str, object], after: dict[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Return what differs, keys of both sides, without any passphrase."""
    keys = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
    old = {key: shown(key, before[key]) for key in keys if key in before and key != SECRET}
    new = {key: shown(key, after[key]) for key in keys if key in after and key != SECRET}
    if SECRET in keys and SECRET in after:
        new[SECRET] = "(a new one)"
    elif SECRET in keys:
        old[SECRET] = "(this one is lost)"
    return old, new


class Run:
    """One run of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        """Take the parameters."""
        self.module = module
        self.params = module.params
        self.name: str = self.params["name"]
        self.folder = Path(self.params["folder"])

    def result(self) -> dict[str, object]:
        """Validate, write if something differs, and return the module's result.

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
        missing = self._check_qubes(profile)
        file = self._file()
        existing = file.read()
        passphrase = file.passphrase(existing)
        content = {**profile.content(), SECRET: passphrase or profiles.new_passphrase()}
        before, after = moved(existing or {}, content)
        if existing is not None and not file.rights_are_right():
            before["rights"], after["rights"] = "other", "0660"
        changed = bool(before or after)
        if changed and not self.module.check_mode:
            file.write(content)
        return self._told(changed, file, before, after) | {
            "passphrase_generated": passphrase is None,
            "missing": missing,
        }

    def _remove(self) -> dict[str, object]:
        file = self._file()
        existing = file.read()
        if existing is None:
            return self._told(False, file, {}, {})
        passphrase = file.passphrase(existing)
        confirmation = self.params["confirm_removal"]
        if passphrase is not None and confirmation != self.name:
            given = "" if confirmation is None else f"confirm_removal names {confirmation!r}. "
            raise ProvisionError(
                f"{given}{file.path} holds the only passphrase of the backups made with it, which "
                "can't be restored without it: keep a copy off this machine, then say "
                f"`confirm_removal: {self.name}`"
            )
        if not self.module.check_mode:
            file.remove()
        before, _ = moved(existing, {})
        return self._told(True, file, {"state": "present", **before}, {"state": "absent"})

    def _file(self) -> profiles.ProfileFile:
        owner, group = self.params["owner"], self.params["group"]
        return profiles.ProfileFile(self.folder, self.name, owner, group)

    @staticmethod
    def _told(
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

    def _check_qubes(self, profile: profiles.Profile) -> list[str]:
        names = existing_names()
        destination = profile.destination_vm
        if destination not in names:
            message = f"{destination}, the destination of profile {self.name}, does not exist"
            if not self.module.check_mode:
                raise ProvisionError(f"{message}: make it first, or correct the name")
            self.module.warn(f"{message} yet")
        missing = profiles.missing_qubes(profile, names)
        if missing:
            self.module.warn(
                f"profile {self.name} names qubes that do not exist, Qubes will ignore them: "
                + ", ".join(missing)
            )
        return missing


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ["destination_vm", "destination_path"])],
        supports_check_mode=True,
    )
    try:
        result = Run(module).result()
    except ProvisionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
