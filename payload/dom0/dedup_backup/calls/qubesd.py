# SPDX-License-Identifier: GPL-3.0-or-later
"""qubesd's knowledge of the qubes, and the services that it starts in them."""

import contextlib
import subprocess
from collections.abc import Callable, Iterable
from typing import TypeVar

from dom0_common.text import clean

from dedup_backup.errors import BackupError

with contextlib.suppress(ModuleNotFoundError):  # outside dom0 only --help works (packaging/man.py)
    import qubesadmin
    import qubesadmin.exc
    import qubesadmin.utils
    from qubesadmin import Qubes
    from qubesadmin.vm import QubesVM

_T = TypeVar("_T")


class NoQubeError(BackupError):
    """dom0 has no such qube."""


def stamps() -> dict[str, int | None]:
    """Return the time of the last successful backup of each qube, in seconds of Unix time.

    qubesd sets the property backup_timestamp of the qubes of a backup, one after the other, when
    the backup has succeeded, and only then (qubes-core-admin qubes/backup.py Backup.backup_do).

    Raises:
        BackupError: qubesd can't be asked.
    """
    return _query(lambda app: {str(vm.name): _stamp(vm) for vm in app.domains})


def wanted(include: Iterable[str] | None, exclude: Iterable[str]) -> list[str]:
    """List the qubes that a backup profile selects.

    Does the same as qubes-core-admin qubes/api/admin.py _load_backup_profile and qubes/utils.py
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

    return _query(chosen_names)


def start_service(
    qube: str, service: str, what: str, *, feed: bool, autostart: bool
) -> subprocess.Popen[bytes]:
    """Start a service in a qube as its default user, with pipes to it.

    Args:
        qube: its name.
        service: NAME or NAME+ARGUMENT.
        what: what it is, for messages.
        feed: whether its stdin is a pipe, too; else that is empty.
        autostart: whether to start the qube when it is off.

    Raises:
        NoQubeError: there is no such qube.
        BackupError: it is off, or can't be called.
    """
    try:
        return (
            qubesadmin.Qubes()
            .domains[qube]
            .run_service(
                service,
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                autostart=autostart,
            )
        )
    except KeyError:
        raise NoQubeError(f"there is no qube {qube}") from None
    except qubesadmin.exc.QubesVMNotRunningError:
        raise BackupError(f"{qube} is not running: start it with `qvm-start {qube}`") from None
    except (qubesadmin.exc.QubesException, OSError) as error:
        raise BackupError(f"can't call {qube} ({what}): {clean(str(error))}") from error


def exec_service(words: tuple[str, ...]) -> str:
    """Name the service that runs a program with these arguments, without a shell on either side.

    qubes-core-admin-client qubesadmin/vm/__init__.py run_with_args does the same, but keeps all
    output in memory.
    """
    return "qubes.VMExec+" + str(qubesadmin.utils.encode_for_vmexec(words))


def _query(query: "Callable[[Qubes], _T]") -> _T:
    try:
        return query(qubesadmin.Qubes())
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
