# SPDX-License-Identifier: GPL-3.0-or-later
"""Salt states: the scrypt shim is in place, gone, or put back; shimctl does the work."""

from __future__ import annotations

from typing import Any

# Set by Salt.
__opts__: dict[str, Any]
__salt__: dict[str, Any]


def installed(name: str, mode: str | None = None, method: str | None = None) -> dict[str, Any]:
    """The shim is in place.

    Args:
        name: nothing but the state's name.
        mode: what it does with backups: authenticated or off.
        method: how it comes before the real scrypt: replace or path.

    Returns:
        what Salt expects of a state.
    """
    return _result(name, __salt__["scrypt_shim.install"](mode, method, test=__opts__["test"]))


def absent(name: str) -> dict[str, Any]:
    """The real scrypt is as its package shipped it; see installed()."""
    return _result(name, __salt__["scrypt_shim.remove"](test=__opts__["test"]))


def reconciled(name: str) -> dict[str, Any]:
    """An installed shim is in place again after something overwrote it; see installed()."""
    return _result(name, __salt__["scrypt_shim.reconcile"](test=__opts__["test"]))


def _result(name: str, report: dict[str, Any]) -> dict[str, Any]:
    if "error" in report:
        return {"name": name, "result": False, "changes": {}, "comment": report["error"]}
    before, after = report["before"], report["after"]
    moved = {
        key: {"old": before.get(key), "new": after[key]}
        for key in after
        if before.get(key) != after[key]
    }
    changes = (moved or {"steps": report["steps"]}) if report["changed"] else {}
    comment = "; ".join(report["steps"]) or "nothing to do"
    result = None if changes and __opts__["test"] else True
    return {"name": name, "result": result, "changes": changes, "comment": comment}
