#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code=no-untyped-call
"""Ansible module: a file of dom0's qrexec policy is as described."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils import dedup_policy_files as files
    from module_utils.dedup_common import ProvisionError, tell
    from module_utils.dedup_files import Rights, remove_file, replace_file
else:
    from ansible.module_utils import dedup_policy_files as files
    from ansible.module_utils.dedup_common import ProvisionError, tell
    from ansible.module_utils.dedup_files import Rights, remove_file, replace_file

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
MODE = 0o664
WARNINGS_MAX = 10
LINT = "qubes-policy-lint"


def lint(text: str) -> None:
    """Let Qubes' own tool check a file's text, if it is installed.

    Raises:
        ProvisionError: it found an error.
    """
    program = shutil.which(LINT)
    if program is None:
        return
    try:
        done = subprocess.run(
            [program, "-"], input=text, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ProvisionError(f"can't run {program}: {error.strerror}") from error
    if done.returncode:
        raise ProvisionError(f"{LINT} refuses the rules: {tell(done.stdout + done.stderr)}")


class Run:
    """One run of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        """Take the parameters."""
        self.module = module
        self.params = module.params
        self.name: str = self.params["name"]
        self.root = Path(self.params["root"])
        self.path: Path = self.root / files.POLICY_DIR / self.name
        self.rights = Rights.of(self.params["owner"], self.params["group"], MODE)

    def result(self) -> dict[str, object]:
        """Validate, write if something differs, and return the module's result.

        Raises:
            ProvisionError: something is wrong; the file is as before.
        """
        files.check_file_name(self.name)
        if not self.path.parent.is_dir():
            raise ProvisionError(f"{self.path.parent} does not exist: is this dom0?")
        if self.params["state"] == "absent":
            return self._remove()
        files.check_order(self.name)
        text = files.render(self.params["rules"] or [])
        lint(text.content)
        found = self._look(text)
        before = self._content()
        after = text.content
        rights = before is None or self.rights.are_those_of(self.path)
        changed = before != after or not rights
        if changed and not self.module.check_mode:
            replace_file(self.path, after, self.rights)
        diff = [self._diff(before or "", after)]
        if not rights:
            diff.append({"before": "other rights\n", "after": f"rights 0{MODE:o}\n"})
        return {"changed": changed, "path": str(self.path), "diff": diff, **found}

    def _remove(self) -> dict[str, object]:
        before = self._content()
        if before is not None and not self.module.check_mode:
            remove_file(self.path)
        return {
            "changed": before is not None,
            "path": str(self.path),
            "overridden": [],
            "errors": [],
            "diff": [self._diff(before or "", "")],
        }

    def _diff(self, before: str, after: str) -> dict[str, str]:
        header = str(self.path)
        return {
            **{"before": before, "after": after},
            **{"before_header": header, "after_header": header},
        }

    def _content(self) -> str | None:
        """Return the file as it is, or None when there is none."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "" if self.path.is_symlink() else None
        except OSError as error:
            raise ProvisionError(f"can't read {self.path}: {error.strerror}") from error

    def _look(self, text: files.Text) -> dict[str, object]:
        """Look for what other files do to these rules, and warn about it."""
        policy = files.Policy(self.root)
        policy.load_before(self.name)
        for error in policy.errors[:WARNINGS_MAX]:
            self.module.warn(f"{error}: Qubes denies every call until this is mended")
        instead = self.root / files.RUNTIME_DIR / self.name
        if instead.is_file():
            self.module.warn(f"{instead} takes the place of {self.path} until it is removed")
            found = [files.Override(line, str(instead), True) for _, line in text.rules]
            return {"overridden": [vars(entry) for entry in found], "errors": policy.errors}
        found = list(files.overrides(text.rules, policy.rules))
        for entry in found[:WARNINGS_MAX]:
            extent = "all" if entry.entirely else "some"
            self.module.warn(
                f"{entry.by} comes before {self.name} and decides otherwise about {extent} calls "
                f"that match its rule: {entry.rule}"
            )
        return {"overridden": [vars(entry) for entry in found], "errors": policy.errors}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "present", ["rules"])],
        supports_check_mode=True,
    )
    try:
        result = Run(module).result()
    except ProvisionError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
