# SPDX-License-Identifier: GPL-3.0-or-later
"""Salt states: what qubes-dedup-backup provisions in dom0; see _modules/dedup_backup.py."""

from __future__ import annotations

from typing import Any

# Set by Salt.
__opts__: dict[str, Any]
__salt__: dict[str, Any]

Result = dict[str, Any]


def __virtual__() -> tuple[bool, str] | bool:
    """Load where the execution module does."""
    if "dedup_backup.policy" in __salt__:
        return True
    return False, "dedup_backup works in dom0 only"


def policy(name: str, rules: list[str]) -> Result:
    """A file of dom0's qrexec policy has these rules.

    Args:
        name: the file's, in /etc/qubes/policy.d.
        rules: as in library/qrexec_policy.py.

    Returns:
        what Salt expects of a state.
    """
    return _result(name, __salt__["dedup_backup.policy"](name, rules, test=__opts__["test"]))


def policy_absent(name: str) -> Result:
    """A file of dom0's qrexec policy is not there; see policy()."""
    return _result(name, __salt__["dedup_backup.policy"](name, None, test=__opts__["test"]))


def profile(  # noqa: PLR0913 -- a profile has these keys
    name: str,
    destination_vm: str,
    destination_path: str,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    never_include: list[str] | None = None,
) -> Result:
    """A backup profile is as described; its passphrase is made once and kept.

    Args:
        name: the profile's, as in `qvm-backup --profile NAME`.
        destination_vm: as in library/backup_profile.py.
        destination_path: see there.
        include: see there.
        exclude: see there.
        never_include: see there.

    Returns:
        what Salt expects of a state; never a passphrase.
    """
    options: dict[str, Any] = {
        "destination_vm": destination_vm,
        "destination_path": destination_path,
    }
    options |= {"include": include, "exclude": exclude, "never_include": never_include}
    report = __salt__["dedup_backup.profile"](name, test=__opts__["test"], **options)
    return _result(name, report)


def profile_absent(name: str) -> Result:
    """A backup profile is not there, nor its passphrase; see profile()."""
    return _result(name, __salt__["dedup_backup.profile"](name, "absent", test=__opts__["test"]))


def qube_possible(name: str, **options: Any) -> Result:  # noqa: ANN401 -- as written
    """A qube is, or can be made, as described; looks only, upstream's qvm states do it.

    Args:
        name: the qube's.
        options: those of library/qube.py.

    Returns:
        what Salt expects of a state; with test=True, the changes that the qvm states would make.
    """
    report = __salt__["dedup_backup.qube"](name, **options)
    if not __opts__["test"]:
        report = {**report, "changes": {}}
    return _result(name, report)


def qube_removable(name: str) -> Result:
    """A qube is gone, or nothing is in the way of its removal; see qube_possible()."""
    return qube_possible(name, state="absent", confirm_removal=name)


def volumes(name: str, sizes: dict[str, str]) -> Result:
    """Volumes of a qube have at least these sizes; upstream has no state for it.

    Args:
        name: the qube's.
        sizes: size by volume.

    Returns:
        what Salt expects of a state.
    """
    report = __salt__["dedup_backup.qube"](name, test=__opts__["test"], volume_sizes=sizes)
    return _result(name, report)


def _result(name: str, report: dict[str, Any]) -> Result:
    ret: Result = {"name": name}
    if report["warnings"]:
        ret["warnings"] = report["warnings"]
    if "error" in report:
        return {**ret, "result": False, "changes": {}, "comment": report["error"]}
    result = None if report["changes"] and __opts__["test"] else True
    return {**ret, "result": result, "changes": report["changes"], "comment": report["comment"]}
