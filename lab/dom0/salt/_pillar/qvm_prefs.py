# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for qubes-mgmt-salt-base _pillar/qvm_prefs.py ext_pillar: a qube's type."""

from __future__ import annotations

import qubesadmin

TYPES = {"AdminVM": "admin", "TemplateVM": "template", "StandaloneVM": "standalone"}


def ext_pillar(minion_id: str, _pillar: dict[str, object], *_args: object) -> dict[str, object]:
    """Return the pillar's key `qubes`."""
    vm = qubesadmin.Qubes().domains.get(minion_id)
    return {} if vm is None else {"qubes": {"type": TYPES.get(vm.klass, "app")}}
