#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code=no-untyped-call
"""Ansible module: the scrypt shim is in place, or gone; shimctl does the work."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils.dedup_common import ProvisionError, error_text
else:
    from ansible.module_utils.dedup_common import ProvisionError, error_text

DOCUMENTATION = r"""
---
module: scrypt_shim
short_description: The scrypt shim is in place in dom0, or gone
description:
  - Runs C(shimctl), which does all the work and must lie there already.
options:
  state:
    description:
      - V(present) installs it, around whatever scrypt is there.
      - V(reconciled) puts an installed one back after something overwrote it; else does nothing.
      - V(absent) puts the real scrypt back as its package shipped it.
    type: str
    choices: [present, absent, reconciled]
    default: present
  mode:
    description:
      - What the shim does with backups; when omitted, as configured, or V(authenticated).
      - Only for O(state=present).
    type: str
    choices: [authenticated, "off"]
  method:
    description:
      - How the shim comes before the real scrypt; when omitted, as installed, or V(replace).
      - Only for O(state=present).
    type: str
    choices: [replace, path]
  shimctl:
    description: The program.
    type: path
    default: /usr/lib/qubes-dedup-backup/shimctl
  root:
    description: Folder that stands for C(/), for tests.
    type: path
    default: /
attributes:
  check_mode:
    description: Where C(shimctl) isn't laid down yet, says only that the shim would be installed.
    support: full
  diff_mode:
    description: What C(shimctl) found, and what it made of it; only what moves.
    support: full
author:
  - The qubes-dedup-backup authors (@qubes-dedup-backup)
"""

EXAMPLES = r"""
- name: Install the shim
  scrypt_shim:
    state: present
    mode: authenticated

- name: Put it back after an update of scrypt
  scrypt_shim:
    state: reconciled

- name: Remove it
  scrypt_shim:
    state: absent
"""

RETURN = r"""
steps:
  description: What C(shimctl) did (or would do, in check mode), in words.
  returned: success
  type: list
  elements: str
  sample: ["put the shim at /usr/bin/scrypt (now: real)"]
"""

ARGUMENT_SPEC: dict[str, dict[str, object]] = {
    "state": {
        "type": "str",
        "choices": ["present", "absent", "reconciled"],
        "default": "present",
    },
    "mode": {"type": "str", "choices": ["authenticated", "off"]},
    "method": {"type": "str", "choices": ["replace", "path"]},
    "shimctl": {"type": "path", "default": "/usr/lib/qubes-dedup-backup/shimctl"},
    "root": {"type": "path", "default": "/"},
}
COMMANDS = {"present": "install", "absent": "remove", "reconciled": "reconcile"}
# shimctl's exit status for "with --check: something would change".
WOULD_CHANGE = 3


def command(params: dict[str, Any], check_mode: bool) -> list[str]:
    """Return shimctl's argv.

    Raises:
        ProvisionError: the parameters contradict each other.
    """
    argv = [params["shimctl"], COMMANDS[params["state"]], "--json", "--root", params["root"]]
    for name in ("mode", "method"):
        if params[name]:
            if params["state"] != "present":
                raise ProvisionError(f"{name} goes with state=present only")
            argv += [f"--{name}", params[name]]
    return [*argv, "--check"] if check_mode else argv


def without_shimctl(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return the result when the program isn't there.

    Raises:
        ProvisionError: it is needed.
    """
    if params["state"] == "absent":
        return {"changed": False, "before": {}, "after": {}, "steps": []}
    if params["state"] == "present" and check_mode:
        after = {"installed": "yes", "mode": params["mode"] or "authenticated"}
        steps = ["install the shim, once its programs are laid down"]
        return {"changed": True, "before": {"installed": "no"}, "after": after, "steps": steps}
    raise ProvisionError(f"there is no {params['shimctl']}: apply the role shim first")


def run(module: AnsibleModule) -> dict[str, Any]:
    """Run shimctl and return what it reports.

    Raises:
        ProvisionError: it failed; with its message.
    """
    argv = command(module.params, module.check_mode)
    if not Path(argv[0]).is_file():
        return without_shimctl(module.params, module.check_mode)
    status, stdout, stderr = module.run_command(argv, environ_update={"LC_ALL": "C.UTF-8"})
    report: object = None
    with contextlib.suppress(ValueError):
        report = json.loads(stdout)
    if not isinstance(report, dict):
        raise ProvisionError(
            f"{argv[0]} did not answer as expected (exit status {status}): {error_text(stderr)}"
        )
    if "error" in report:
        raise ProvisionError(str(report["error"]))
    if status not in (0, WOULD_CHANGE if module.check_mode else 0):
        raise ProvisionError(f"{argv[0]} failed with exit status {status}: {error_text(stderr)}")
    return report


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        report = run(module)
    except ProvisionError as error:
        module.fail_json(msg=str(error))
    before, after = report["before"], report["after"]
    moved = [key for key in after if before.get(key) != after[key]]
    module.exit_json(
        changed=report["changed"],
        steps=report["steps"],
        diff={
            "before": {key: before[key] for key in moved if key in before},
            "after": {key: after[key] for key in moved},
        },
    )


if __name__ == "__main__":
    main()
