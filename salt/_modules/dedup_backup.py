# SPDX-License-Identifier: GPL-3.0-or-later
"""Salt execution module: what qubes-dedup-backup provisions in dom0, beyond what Salt's own can do.

The work is done by the code that the Ansible modules use, so that both ways write the same files.
It is in _utils/dedup_provision, which Salt brings to the minion along with this module.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARED = "dedup_provision"
Report = dict[str, Any]


def __virtual__() -> tuple[bool, str] | bool:
    """Load in dom0 only."""
    try:
        _shared("dedup_common").Qubes()
    except Exception as error:  # noqa: BLE001 -- Salt wants a reason, whatever it is
        return False, f"dedup_backup works in dom0 only: {error}"
    return True


def _shared(name: str) -> Any:  # noqa: ANN401 -- a module
    # Salt puts this folder on the path by itself only from the next run on: salt/config/__init__.py
    # insert_system_path skips a folder that isn't there yet.
    folder = str(Path(__file__).resolve().parents[1] / "utils")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"{SHARED}.{name}")


def _report(work: Callable[[list[str]], tuple[Report, Report, str]]) -> Report:
    """Do it and return changes, comment and warnings, or the error's text in their place."""
    warnings: list[str] = []
    try:
        before, after, comment = work(warnings)
    except _shared("dedup_common").ProvisionError as error:
        return {"error": str(error), "warnings": warnings}
    moved = {**before, **after}
    changes = {key: {"old": before.get(key), "new": after.get(key)} for key in moved}
    return {"changes": changes, "comment": comment, "warnings": warnings}


def policy(name: str, rules: list[str] | None, test: bool = False, root: str = "/") -> Report:
    """Bring a file of dom0's qrexec policy to these rules, or take it out when they are None.

    Args:
        name: the file's, in /etc/qubes/policy.d.
        rules: see the option `rules` of library/qrexec_policy.py.
        test: change nothing, report what would change.
        root: where dom0's file system is, for tests.

    Returns:
        changes, comment and warnings, or error and warnings.
    """
    params = {
        "name": name,
        "rules": rules,
        "state": "absent" if rules is None else "present",
        "root": root,
        "owner": "root",
        "group": "qubes",
    }

    def work(warnings: list[str]) -> tuple[Report, Report, str]:
        applier = _shared("dedup_policy_apply").PolicyApplier(params, test, warnings.append)
        result = applier.apply()
        if not result["changed"]:
            return {}, {}, f"{result['path']} is as it should be"
        before = {diff.get("before_header", "rights"): diff["before"] for diff in result["diff"]}
        after = {diff.get("before_header", "rights"): diff["after"] for diff in result["diff"]}
        return before, after, str(result["path"])

    return _report(work)


def profile(  # noqa: PLR0913 -- a profile has these keys
    name: str,
    state: str = "present",
    destination_vm: str | None = None,
    destination_path: str | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    never_include: list[str] | None = None,
    test: bool = False,
) -> Report:
    """Bring a backup profile to what is described, with its passphrase; see policy().

    Args:
        name: the profile's.
        state: present, or absent, which destroys the passphrase with it.
        destination_vm: see library/backup_profile.py for this and what follows.
        destination_path: see there.
        include: see there.
        exclude: see there.
        never_include: see there.
        test: change nothing, report what would change.

    Returns:
        as policy() does; never a passphrase.
    """
    params = {
        "name": name,
        "state": state,
        "confirm_removal": name if state == "absent" else None,
        "destination_vm": destination_vm,
        "destination_path": destination_path,
        "include": include,
        "exclude": exclude or [],
        "never_include": never_include or [],
        "folder": "/etc/qubes/backup",
        "owner": "root",
        "group": "qubes",
    }

    def work(warnings: list[str]) -> tuple[Report, Report, str]:
        applier = _shared("dedup_profile_apply").ProfileApplier(params, test, warnings.append)
        result = applier.apply()
        diff = result["diff"]
        return diff["before"], diff["after"], str(result["path"])

    return _report(work)


def qube(name: str, test: bool = True, **options: Any) -> Report:  # noqa: ANN401 -- as written
    """Return what would have to change so that a qube is as described, or why it can't be.

    Upstream's qvm states do it. They look at nothing beforehand, and some of them change a qube
    with test=True too (qubes-mgmt-salt-dom0-qvm _modules/ext_module_qvm.py prefs).

    Args:
        name: the qube's.
        test: False does it; only for what upstream has no state for.
        options: those of library/qube.py.

    Returns:
        as policy() does.
    """
    nothing: Report = dict.fromkeys(
        ("confirm_removal", "klass", "template", "clone_of", "label", "netvm")
    )
    empty: Report = {"properties": {}, "features": {}, "services": {}, "volume_sizes": {}}
    params = {"state": "present", **nothing, **empty, "tags": [], **options, "name": name}

    def work(warnings: list[str]) -> tuple[Report, Report, str]:
        outcome = _shared("dedup_qube_apply").apply(params, test)
        warnings.extend(outcome.warnings)
        comment = f"{name} {'differs' if outcome.before or outcome.after else 'is as it should be'}"
        return outcome.before, outcome.after, comment

    return _report(work)


def qube_exists(name: str) -> bool:
    """Return whether there is a qube of this name."""
    return _shared("dedup_common").Qubes().find(name) is not None


def is_half_made(name: str) -> bool:
    """Return whether a clone of this name was begun and not ended."""
    features = _shared("dedup_common").Qubes().app.domains["dom0"].features
    return f"{_shared('dedup_qube').CLONING}{name}" in features
