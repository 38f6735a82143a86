#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code=no-untyped-call
"""Ansible module: a backup profile of dom0 is as described."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils.dedup_common import ProvisionError
    from module_utils.dedup_profile_apply import ProfileApplier
else:
    from ansible.module_utils.dedup_common import ProvisionError
    from ansible.module_utils.dedup_profile_apply import ProfileApplier

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
    description:
      - What to leave out of that, written the same way. O(destination_vm), O(never_include) and
        the destinations of other profiles that send to dedup-store are added.
    type: list
    elements: str
    default: []
  never_include:
    description:
      - Qubes that keep backups, as a storage qube. They are left out whatever O(include) says, and
        when it names one, that is a warning.
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
    destination_path: dedup-store put --repository default

- name: Back up two qubes and everything with a tag
  backup_profile:
    name: documents
    destination_vm: dedup-backup
    destination_path: dedup-store put --repository default
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
    "never_include": {"type": "list", "elements": "str", "default": []},
    "folder": {"type": "path", "default": "/etc/qubes/backup"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "qubes"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ["destination_vm", "destination_path"])],
        supports_check_mode=True,
    )
    try:
        result = ProfileApplier(module.params, module.check_mode, module.warn).apply()
    except ProvisionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
