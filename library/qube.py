#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-core is typed only in part.
# mypy: disable-error-code=no-untyped-call
"""Ansible module: a qube exists and is as described."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from module_utils.dedup_common import ProvisionError
    from module_utils.dedup_qube_apply import apply
else:
    from ansible.module_utils.dedup_common import ProvisionError
    from ansible.module_utils.dedup_qube_apply import apply

DOCUMENTATION = r"""
---
module: qube
short_description: A qube or template exists, with these settings and in this power state, or not
description:
  - Creates a qube, or clones it from another one, and brings its settings to what is described.
    What is not described is left alone.
  - Never shrinks a volume, never changes the class or the template of an existing qube, and
    removes a qube only after a second confirmation. It fails instead and says what to do.
  - Works in dom0 only, on the C(qubesadmin) library that dom0 ships.
  - Upstream's M(qubesos.core.qube) can do more (devices, notes), but has no check mode, removes a
    qube without confirmation, and is not in Qubes R4.2.
options:
  name:
    description: Name of the qube.
    type: str
    required: true
  state:
    description:
      - V(present) leaves the power state alone; a new qube is halted.
      - V(running) starts it, V(halted) shuts it down and waits; it is never killed.
      - V(absent) removes it with all that it holds, when O(confirm_removal) says so too. One that
        runs, or that other qubes need, is not removed. All other options are ignored then.
    type: str
    choices: [present, running, halted, absent]
    default: present
  confirm_removal:
    description:
      - The qube's name once more. Without it, O(state=absent) fails when there is such a qube, and
        says what would be lost.
      - Only looked at with O(state=absent).
    type: str
  klass:
    description:
      - Class of a new qube. When omitted, V(AppVM), or that of O(clone_of).
      - An existing qube of another class is an error.
    type: str
    choices: [AppVM, TemplateVM, StandaloneVM, DispVM]
  template:
    description:
      - Template of a new qube. When omitted, the system's default template.
      - An existing qube on another template is an error.
    type: str
  clone_of:
    description:
      - Qube to clone when O(name) doesn't exist yet. It must be halted.
      - The clone starts without the source's C(backup_timestamp); devices are not copied.
    type: str
  label:
    description: Label of the qube. A new qube without one gets V(red), a clone that of its source.
    type: str
  netvm:
    description:
      - Qube that gives network access; V(none) for no network, V(*default*) for the default one.
      - For a new qube, this is set before anything else.
    type: str
  properties:
    description:
      - Further properties by name, as C(qvm-prefs) shows them.
      - V(null) is no value, V(*default*) resets.
      - A value is set even when the default is the same today.
    type: dict
    default: {}
  features:
    description: Features by name. True is stored as V(1), false as nothing; V(null) removes one.
    type: dict
    default: {}
  services:
    description: Services by name (features C(service.NAME)). True, false, or V(null) to remove.
    type: dict
    default: {}
  tags:
    description: Tags that the qube must have. Others are kept.
    type: list
    elements: str
    default: []
  volume_sizes:
    description:
      - Least size by volume, in bytes or with C(KiB), C(MiB), C(GiB), C(TiB).
      - A volume that is larger already is left alone, with a warning.
    type: dict
    default: {}
attributes:
  check_mode:
    description: A missing template or netvm is a warning then; an earlier task may make it.
    support: full
  diff_mode:
    description: Only what moves. For a new qube, all that was asked for.
    support: full
author:
  - The qubes-dedup-backup authors (@qubes-dedup-backup)
"""

EXAMPLES = r"""
- name: Clone a template
  qube:
    name: debian-13-dedup-backup
    clone_of: debian-13-minimal
    klass: TemplateVM
    label: black

- name: Make an offline qube with a large private volume
  qube:
    name: dedup-backup
    klass: AppVM
    template: debian-13-dedup-backup
    label: gray
    netvm: none
    properties:
      include_in_backups: false
      memory: 1024
    services:
      cups: false
    volume_sizes:
      private: 200GiB

- name: Start it
  qube:
    name: dedup-backup
    state: running

- name: Remove it, with all backups in it
  qube:
    name: dedup-backup
    state: absent
    confirm_removal: dedup-backup
"""

RETURN = r"""
name:
  description: Name of the qube.
  returned: success
  type: str
  sample: dedup-backup
created:
  description: Whether the qube was made (or would have been, in check mode).
  returned: success
  type: bool
  sample: false
power_state:
  description:
    - How the qube really is now, V(absent) or as qubesd calls it in lower case.
    - In check mode that may differ from what was asked for.
  returned: success
  type: str
  sample: halted
"""

ARGUMENT_SPEC: dict[str, dict[str, object]] = {
    "name": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["present", "running", "halted", "absent"],
        "default": "present",
    },
    "confirm_removal": {"type": "str"},
    "klass": {"type": "str", "choices": ["AppVM", "TemplateVM", "StandaloneVM", "DispVM"]},
    "template": {"type": "str"},
    "clone_of": {"type": "str"},
    "label": {"type": "str"},
    "netvm": {"type": "str"},
    "properties": {"type": "dict", "default": {}},
    "features": {"type": "dict", "default": {}},
    "services": {"type": "dict", "default": {}},
    "tags": {"type": "list", "elements": "str", "default": []},
    "volume_sizes": {"type": "dict", "default": {}},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        mutually_exclusive=[("template", "clone_of")],
        supports_check_mode=True,
    )
    try:
        outcome = apply(module.params, module.check_mode)
    except ProvisionError as error:
        module.fail_json(msg=str(error))
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(
        name=module.params["name"],
        changed=bool(outcome.before or outcome.after),
        created=outcome.created,
        power_state=outcome.power_state,
        diff={"before": outcome.before, "after": outcome.after},
    )


if __name__ == "__main__":
    main()
