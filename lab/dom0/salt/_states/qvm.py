# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for Qubes' qvm states, as far as this project uses them.

Source: qubes-mgmt-salt-dom0-qvm _states/ext_state_qvm.py and _modules/ext_module_qvm.py. As there,
creating, cloning, removing and power are no `changes`, and `prefs` and `features` also set values
with test=True.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import qubesadmin

# Set by Salt.
__opts__: dict[str, Any]

Result = dict[str, Any]
QUBES = ("netvm", "guivm", "audiovm", "default_dispvm", "management_dispvm")
ALIASES = {"last_backup": "backup_timestamp"}  # ext_module_qvm.py prefs property_map


def _result(
    name: str, comment: str, ok: bool = True, changes: dict[str, Any] | None = None
) -> Result:
    result = None if ok and __opts__["test"] else ok
    return {"name": name, "result": result, "changes": changes or {}, "comment": comment}


def _tool(name: str, *argv: str) -> Result:
    """Run a command as dom0's user, the first of group qubes: module_utils.py ModuleBase.run."""
    if __opts__["test"]:
        return _result(name, f"[TEST] {' '.join(argv)}")
    done = subprocess.run(
        ["/usr/sbin/runuser", "-u", "user", "--", *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    return _result(name, f"{' '.join(argv)}\n{done.stdout}{done.stderr}", done.returncode == 0)


def _find(name: str) -> Any:  # noqa: ANN401 -- a qube
    return qubesadmin.Qubes().domains.get(name)


def present(name: str, template: str = "", label: str = "", **_options: object) -> Result:
    """Make a qube if there is none; ext_module_qvm.py create."""
    if _find(name) is not None:
        return _result(name, f"[SKIP] A VM with the name '{name}' already exists.")
    options = [f"--template={template}"] if template else []
    return _tool(name, "qvm-create", name, "--class=AppVM", *options, f"--label={label}")


def clone(name: str, source: str, **_options: object) -> Result:
    """Clone a qube if there is none."""
    if _find(name) is not None:
        return _result(name, f"[SKIP] A VM with the name '{name}' already exists.")
    return _tool(name, "qvm-clone", source, name)


def absent(name: str) -> Result:
    """Remove a qube, running or not."""
    vm = _find(name)
    if vm is None:
        return _result(name, f"[SKIP] The VM with the name '{name}' is already missing.")
    if vm.is_running():
        _tool(name, "qvm-shutdown", "--wait", name)
    return _tool(name, "qvm-remove", "--force", name)


def prefs(name: str, **wanted: object) -> Result:
    """Set properties."""
    vm = _find(name)
    if vm is None:
        return _result(name, "Virtual Machine does not exist!", ok=False)
    changes = {}
    for given, value in wanted.items():
        if given.startswith("__") or given in ("order", "fun", "state"):
            continue
        key = given.replace("-", "_")
        key = ALIASES.get(key, key)
        new = None if key in QUBES and value in ("none", "") else value
        old = "*default*" if vm.property_is_default(key) else getattr(vm, key, None)
        old = getattr(old, "name", old)
        if old == new:
            continue
        if new == "*default*":
            delattr(vm, key)
        else:
            setattr(vm, key, new)
        changes[key] = {"old": old, "new": new}
    return _result(name, "", changes={"qvm.create": changes} if changes else None)


def features(
    name: str, enable: Sequence[str] = (), disable: Sequence[str] = (), default: Sequence[str] = ()
) -> Result:
    """Set features to 1 or nothing, or remove them."""
    vm = _find(name)
    if vm is None:
        return _result(name, "Virtual Machine does not exist!", ok=False)
    wanted = dict.fromkeys(enable, "1") | dict.fromkeys(disable, "") | dict.fromkeys(default)
    changes = {}
    for key, new in wanted.items():
        old = vm.features.get(key)
        if old == new:
            continue
        if new is None:
            del vm.features[key]
        else:
            vm.features[key] = new
        changes[key] = {"old": old, "new": new}
    return _result(name, "", changes={"qvm.features": changes} if changes else None)


def service(name: str, enable: Sequence[str] = (), disable: Sequence[str] = ()) -> Result:
    """Set services, which are features; unlike features, not with test=True."""
    if __opts__["test"]:
        return _result(name, "")
    return features(
        name, [f"service.{key}" for key in enable], [f"service.{key}" for key in disable]
    )


def start(name: str) -> Result:
    """Start a qube if it doesn't run."""
    vm = _find(name)
    if vm is None:
        return _result(name, "Virtual Machine does not exist!", ok=False)
    return _result(name, "") if vm.is_running() else _tool(name, "qvm-start", "--quiet", name)


def shutdown(name: str) -> Result:
    """Shut a qube down if it runs, and wait."""
    vm = _find(name)
    if vm is None:
        return _result(name, "Virtual Machine does not exist!", ok=False)
    return _tool(name, "qvm-shutdown", "--wait", name) if vm.is_running() else _result(name, "")


def vm(name: str, actions: list[str], **wanted: list[Any]) -> Result:
    """Run several of these, up to the first that fails."""
    changes: dict[str, object] = {}
    comments = []
    for action in (action for action in actions if action in wanted):
        options = {key: value for entry in wanted[action] for key, value in entry.items()}
        result = globals()[action](name, **options)
        comments.append(f"====== ['{action}'] ======\n{result['comment']}")
        if result["changes"]:
            changes[f"qvm.{action}"] = result["changes"]
        if result["result"] is False:
            return _result(name, "\n\n".join(comments), ok=False, changes=changes)
    return _result(name, "\n\n".join(comments), changes=changes)
