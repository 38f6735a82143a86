#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code=no-untyped-call
"""Ansible module: a file of dom0's qrexec policy is as described."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils.dedup_common import ProvisionError
    from module_utils.dedup_policy_apply import PolicyApplier
else:
    from ansible.module_utils.dedup_common import ProvisionError
    from ansible.module_utils.dedup_policy_apply import PolicyApplier

DOCUMENTATION = r"""
---
module: qrexec_policy
short_description: A file of dom0's qrexec policy has these rules
description:
  - Writes C(/etc/qubes/policy.d/NAME) in one step, with the owner, group and mode of Qubes' own.
  - One error in one policy file makes Qubes deny every call. So each rule is parsed as Qubes does,
    and checked with C(qubes-policy-lint) where that is installed, before the file is replaced.
  - The first rule that matches decides, in the order of the files' names. Rules of earlier files,
    and a file of the same name in C(/run/qubes/policy.d), that take a decision from one of these
    rules are warned about, with file and line. So are errors in other files.
  - Works in dom0 only, as root.
options:
  name:
    description:
      - Name of the file. Two digits and C(-), then digits, lowercase letters, C(_), C(.) and C(-),
        and C(.policy) at the end.
      - One that comes before C(30-qubes-ansible.policy) or C(30-qubesctl-salt.policy) is refused.
        Qubes writes these while it provisions qubes.
    type: str
    required: true
  rules:
    description:
      - The rules, in order. Each is a line as in a policy file, with service, argument, source,
        target, action and its parameters. An entry that begins with C(#) is a comment, an empty
        one an empty line.
      - Needed unless O(state=absent). Directives such as C(!include) are refused.
    type: list
    elements: str
  state:
    description: Whether the file is there.
    type: str
    choices: [present, absent]
    default: present
  root:
    description: Where dom0's file system is; another place than C(/) is for tests.
    type: path
    default: /
  owner:
    description: Owner of the file.
    type: str
    default: root
  group:
    description: Group of the file; its members may change it with the tools of Qubes.
    type: str
    default: qubes
attributes:
  check_mode:
    description: All is checked, nothing is written.
    support: full
  diff_mode:
    description: The whole file.
    support: full
author:
  - The qubes-dedup-backup authors (@qubes-dedup-backup)
"""

EXAMPLES = r"""
- name: Only the backup qube may reach the repository, and nobody may restore but dom0
  qrexec_policy:
    name: 75-dedup-backup.policy
    rules:
      - "# The ciphertext's way out"
      - dedupbackup.Repository +restic+default dedup-backup sys-storage allow
      - dedupbackup.Repository * * * deny
      - dedupbackup.Restore * * * deny

- name: Take the file out again
  qrexec_policy:
    name: 75-dedup-backup.policy
    state: absent
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /etc/qubes/policy.d/75-dedup-backup.policy
overridden:
  description:
    - Where the rules don't decide. Each with C(rule), as written, C(by), the file and line that
      comes first, and C(entirely), whether that is so for all calls or only for some.
    - Not looked at when the file is to be absent.
  returned: success
  type: list
  elements: dict
  sample:
    - rule: dedupbackup.Restore * * * deny
      by: "/etc/qubes/policy.d/30-user.policy:7"
      entirely: false
errors:
  description: Errors in other files, with file and line. Qubes denies every call because of them.
  returned: success
  type: list
  elements: str
  sample: []
"""

ARGUMENT_SPEC: dict[str, dict[str, object]] = {
    "name": {"type": "str", "required": True},
    "rules": {"type": "list", "elements": "str"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "root": {"type": "path", "default": "/"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "qubes"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ["rules"])],
        supports_check_mode=True,
    )
    try:
        result = PolicyApplier(module.params, module.check_mode, module.warn).apply()
    except ProvisionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
