# SPDX-License-Identifier: GPL-3.0-or-later
"""Which secrets a person must keep off this machine, and the commands that show them."""

from typing import Any

from dedup_backup.errors import BackupError
from dedup_backup.settings import Layout, Profile, Source, profiles
from dedup_backup.store import Store

_NAMES = {"password": "repository password", "borg key": "borg key"}


def secrets(
    layout: Layout, patience: int | None
) -> tuple[list[dict[str, Any]], list[Source], list[str]]:
    """Find the secrets of all backup profiles that send to dedup-store.

    Args:
        layout: where the profiles are.
        patience: as for Store.

    Returns:
        A row for each: profile, secret, place, and the command that shows it (None for a
        passphrase that isn't in dom0); which stores aren't encrypted; and what couldn't be found
        out.
    """
    rows: list[dict[str, Any]] = []
    unknown: list[str] = []
    known: dict[Source, list[str] | None] = {}
    for profile in profiles(layout):
        try:
            source = profile.store()
            if source is None:
                continue
            rows.append(_passphrase(profile))
            if source not in known:
                known[source] = []  # asked once, also when it can't tell
                known[source] = Store(source, patience).secret_names()
        except BackupError as error:
            unknown.append(f"profile {profile.name}: {error}")
            continue
        rows += [_of_store(profile, source, name) for name in known[source] or ()]
    return rows, [source for source, names in known.items() if names is None], unknown


def _passphrase(profile: Profile) -> dict[str, Any]:
    row = {"profile": profile.name, "secret": "backup passphrase"}
    if not profile.has_passphrase():
        return row | {"place": "not in the profile", "command": None}
    command = f"sudo grep passphrase_text {profile.path}"
    return row | {"place": str(profile.path), "command": command}


def _of_store(profile: Profile, source: Source, name: str) -> dict[str, Any]:
    command = f"dedup-store export-keys --profile {source.store_profile}"
    return {
        "profile": profile.name,
        "secret": _NAMES[name],
        "place": f"the store {source.store_profile} in {source.qube}",
        "command": f"qvm-run --pass-io {source.qube} '{command}'",
    }
