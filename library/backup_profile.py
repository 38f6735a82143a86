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
    from module_utils.dedup_common import ProvisionError, Qubes, tell
    from module_utils.dedup_values import check_name
else:
    from ansible.module_utils import dedup_profile as profiles
    from ansible.module_utils.dedup_common import ProvisionError, Qubes, tell
    from ansible.module_utils.dedup_values import check_name

DOCUMENTATION = r"""
---
module: backup_profile
short_description: A profile for C(qvm-backup --profile) exists
description:
  - Writes C(/etc/qubes/backup/NAME.conf) in one step, mode 0660, with compression off.
  - Generates a passphrase that asks for deduplication, 256 bits, and keeps it when run again. It is
    only in that file, never in a result, a diff or a log. Without it no backup can be restored, so
    keep a copy of it off this machine.
  - A file with another kind of passphrase is never touched.
  - Works in dom0 only, as root.
options:
  name:
    description: Name of the profile.
    type: str
    required: true
  destination_vm:
    description: Qube that gets the backup.
    type: str
    required: true
  destination_path:
    description: Command in that qube that reads the backup on its standard input, or a folder.
    type: str
    required: true
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
    description: Only the keys that move; of the passphrase, only that it is new.
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
    "destination_vm": {"type": "str", "required": True},
    "destination_path": {"type": "str", "required": True},
    "include": {"type": "list", "elements": "str"},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "folder": {"type": "path", "default": "/etc/qubes/backup"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "qubes"},
}
SECRET = "passphrase_text"  # noqa: S105 - a key's name


def existing_names() -> set[str]:
    """Return the names of all qubes.

    Raises:
        ProvisionError: qubesd can't be asked.
    """
    qubes = Qubes()
    try:
        return qubes.names()
    except qubes.errors as error:
        raise ProvisionError(f"can't ask qubesd for the qubes: {tell(error)}") from error


def moved(
    before: dict[str, object], after: dict[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Return what differs, keys of both sides, without any passphrase."""
    keys = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
    old = {key: before[key] for key in keys if key in before and key != SECRET}
    new = {key: after[key] for key in keys if key in after and key != SECRET}
    if SECRET in keys:
        new[SECRET] = "(a new one)"
    return old, new


class Run:
    """One run of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        """Take the parameters."""
        params = module.params
        self.module = module
        self.name = params["name"]
        self.profile = profiles.Profile(
            destination_vm=params["destination_vm"],
            destination_path=params["destination_path"],
            include=None if params["include"] is None else tuple(params["include"]),
            exclude=tuple(params["exclude"]),
        )
        self.folder = Path(params["folder"])

    def result(self) -> dict[str, object]:
        """Validate, write if something differs, and return the module's result.

        Raises:
            ProvisionError: something is wrong; the file is as before.
        """
        check_name(self.profile.destination_vm)
        profiles.check_profile(self.name, self.profile)
        missing = self._check_qubes()
        file = profiles.ProfileFile(
            self.folder, self.name, self.module.params["owner"], self.module.params["group"]
        )
        existing = file.read()
        passphrase = file.passphrase(existing)
        content = {**self.profile.content(), SECRET: passphrase or profiles.new_passphrase()}
        before, after = moved(existing or {}, content)
        if existing is not None and not file.rights_are_right():
            before["rights"], after["rights"] = "other", "0660"
        changed = bool(before or after)
        if changed and not self.module.check_mode:
            file.write(content)
        return {
            "changed": changed,
            "path": str(file.path),
            "passphrase_generated": passphrase is None,
            "missing": missing,
            "diff": {"before": before, "after": after},
        }

    def _check_qubes(self) -> list[str]:
        names = existing_names()
        destination = self.profile.destination_vm
        if destination not in names:
            message = f"{destination}, the destination of profile {self.name}, does not exist"
            if not self.module.check_mode:
                raise ProvisionError(f"{message}: make it first, or correct the name")
            self.module.warn(f"{message} yet")
        missing = profiles.missing_qubes(self.profile, names)
        if missing:
            self.module.warn(
                f"profile {self.name} names qubes that do not exist, Qubes will ignore them: "
                + ", ".join(missing)
            )
        return missing


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        result = Run(module).result()
    except ProvisionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
