# SPDX-License-Identifier: GPL-3.0-or-later
"""What qubesd says of the qubes there are: dom0's own word."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from dedup_backup.errors import BackupError, clean

if TYPE_CHECKING:  # else only in _asked, so that --help works outside dom0
    from qubesadmin import Qubes
    from qubesadmin.vm import QubesVM

_T = TypeVar("_T")


def stamps() -> dict[str, int | None]:
    """Give the time of the last successful backup of each qube, in seconds of Unix time.

    qubesd sets the property backup_timestamp of the qubes of a backup, one after the other, when
    the backup has succeeded, and only then (qubes-core-admin qubes/backup.py Backup.backup_do).

    Raises:
        BackupError: qubesd can't be asked.
    """
    return _asked(lambda app: {str(vm.name): _stamp(vm) for vm in app.domains})


def wanted(include: Iterable[str] | None, exclude: Iterable[str]) -> list[str]:
    """List the qubes that a backup profile means.

    Stands beside qubes-core-admin qubes/api/admin.py _load_backup_profile and qubes/utils.py
    match_vm_name_with_special.

    Args:
        include: names, `@tag:...` or `@type:...`; None for those with include_in_backups.
        exclude: the same, for what is left out.

    Raises:
        BackupError: qubesd can't be asked.
    """

    def chosen(vm: "QubesVM") -> bool:
        if include is None:
            return bool(vm.include_in_backups)
        return any(_matches(vm, entry) for entry in include)

    def chosen_names(app: "Qubes") -> list[str]:
        found = [vm for vm in app.domains if chosen(vm)]
        return [str(vm.name) for vm in found if not any(_matches(vm, e) for e in exclude)]

    return _asked(chosen_names)


def _asked(question: "Callable[[Qubes], _T]") -> _T:
    import qubesadmin  # noqa: PLC0415
    import qubesadmin.exc  # noqa: PLC0415

    try:
        return question(qubesadmin.Qubes())
    except (qubesadmin.exc.QubesException, OSError) as error:
        raise BackupError(f"can't ask qubesd about the qubes: {clean(str(error))}") from error


def _stamp(vm: "QubesVM") -> int | None:
    found = getattr(vm, "backup_timestamp", None)  # dom0 has no such property
    return found if type(found) is int else None


def _matches(vm: "QubesVM", entry: str) -> bool:
    entry = entry.replace("$", "@")  # as Qubes' profiles were written once
    if entry.startswith("@tag:"):
        return entry.removeprefix("@tag:") in vm.tags
    if entry.startswith("@type:"):
        return entry.removeprefix("@type:") == str(vm.klass)
    return entry == str(vm.name)
