# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may call what, as a table over all qubes, services, arguments and ways to name a target."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from qubeslab.policy import Call, Domains

BACKUP, STORAGE = "dedup-backup", "dedup-storage"
OTHERS = """
# Whoever is allowed most by later files still has no way to our services.
* * * @default allow target=dom0
* * * * allow
"""


def _domain(klass: str, number: int, *tags: str, **more: object) -> dict[str, object]:
    """Return a qube's part of the system info; qubes-core-admin qubes/api/internal.py."""
    return {
        "type": klass,
        "uuid": f"7c7d3f0e-97d2-4f40-9f7c-{number:012d}",
        "tags": list(tags),
        "template_for_dispvms": False,
        "default_dispvm": "dvm",
        "power_state": "Running",
        "internal": None,
        "icon": "",
        "guivm": None,
        "relayvm": None,
        "transport_rpc": None,
    } | more


DOMAINS: Domains = {
    "dom0": _domain("AdminVM", 0) | {"uuid": "00000000-0000-0000-0000-000000000000"},
    BACKUP: _domain("AppVM", 1, "office", "created-by-dom0"),
    STORAGE: _domain("AppVM", 2, "office", power_state="Halted"),
    "work": _domain("AppVM", 3, "office"),
    "vault": _domain("StandaloneVM", 4, default_dispvm=None),
    f"{BACKUP}-2": _domain("AppVM", 5),
    f"{STORAGE}2": _domain("AppVM", 6),
    "dvm": _domain("AppVM", 7, "office", template_for_dispvms=True),
    "debian": _domain("TemplateVM", 8),
    "disp1234": _domain("DispVM", 9, "disp-created-by-dedup-backup"),
    f"disp-mgmt-{BACKUP}": _domain("DispVM", 10),
    "disp-backup-restore": _domain("DispVM", 11, "backup-restore-mgmt"),
    "sys-gui": _domain("AppVM", 12, "backup-restore-storage"),
}
TARGETS = (
    *("", "@default", *DOMAINS, "nope", "@adminvm", "@anyvm", "@dispvm", "@dispvm:dvm", "*"),
    *(f"@dispvm:{STORAGE}", f"@dispvm:{BACKUP}", "@dispvm:nope", "@dispvm:@tag:office"),
    *("@tag:office", "@type:AppVM", *(f"uuid:{qube['uuid']}" for qube in DOMAINS.values())),
    *(f"@dispvm:uuid:{DOMAINS['dvm']['uuid']}", "uuid:11111111-2222-3333-4444-555555555555"),
)
OURS = (
    *("dedupbackup.Repository", "dedupbackup.Restore"),
    *("dedupbackup.Maintenance", "dedupbackup.MaintenanceOpen"),
)
SERVICES = (*OURS, "dedupbackup.repository", "dedupbackup", "qubes.Filecopy")
ARGUMENTS = (
    *("+", "+restic+default", "+borg+default", "+restic+Default", "+restic+default+", "+restic"),
    *("+restic-default", "+restic+default2", "+restic+other", "++restic+default", "+borg+archive"),
    *("+latest", "+default", "+restic+restic", "+borg+borg"),
)


def calls() -> Iterator[Call]:
    """Yield all calls; dom0's own are never looked up in the policy."""
    callers = [name for name in DOMAINS if name != "dom0"]
    for entry in itertools.product(SERVICES, ARGUMENTS, callers, TARGETS):
        yield Call(*entry)


def is_allowed(call: Call, storage: str, repositories: tuple[str, ...]) -> bool:
    """Tell what must come out for one of our services.

    Args:
        call: what is asked for.
        storage: the storage qube, or empty.
        repositories: each as ENGINE+NAME.
    """
    names = (storage, f"uuid:{DOMAINS[storage]['uuid']}") if storage else ()
    return (
        call.service in ("dedupbackup.Repository", "dedupbackup.Maintenance")
        and call.source == BACKUP
        and call.target in names
        and call.argument in {f"+{repository}" for repository in repositories}
    )
