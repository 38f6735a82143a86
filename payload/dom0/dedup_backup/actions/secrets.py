# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `secrets`: lists the secrets to keep off this machine, and how to show them."""

import argparse
import json
from typing import Any

from dom0_common.paths import Paths

from dedup_backup.calls.backup_qube import UNENCRYPTED_WARNING, Store
from dedup_backup.context import start
from dedup_backup.errors import EXIT_UNCHECKED, BackupError
from dedup_backup.output import say
from dedup_backup.settings import Profile, StoreAddress, all_profiles

_NAMES = {"password": "repository password", "borg key": "borg key"}


def run(arguments: argparse.Namespace) -> int:
    """List the secrets of all backup profiles that send to dedup-store; show none."""
    context = start(arguments)
    rows, clear, unknown = _find(context.paths, arguments.patience)
    if arguments.json:
        stores = [str(address) for address in clear]
        print(json.dumps({"secrets": rows, "unencrypted": stores, "unknown": unknown}))
    else:
        print("Keep these off this machine, or its backups can't be read after its loss.")
        for row in rows:
            print(f"{row['secret']} of the profile {row['profile']} ({row['place']})")
            if row["command"]:
                print(f"    {row['command']}")
        for address in clear:
            print(f"{address}: {UNENCRYPTED_WARNING}")
    for text in unknown:
        say(text)
    return EXIT_UNCHECKED if unknown else 0


def _find(
    paths: Paths, patience: int | None
) -> tuple[list[dict[str, Any]], list[StoreAddress], list[str]]:
    """Find the secrets of all backup profiles that send to dedup-store.

    Args:
        paths: where the profiles are.
        patience: as for Store.

    Returns:
        A row for each: profile, secret, place, and the command that shows it (None for a
        passphrase that isn't in dom0); which stores aren't encrypted; and what couldn't be found
        out.
    """
    rows: list[dict[str, Any]] = []
    unknown: list[str] = []
    known: dict[StoreAddress, list[str] | None] = {}
    for profile in all_profiles(paths):
        try:
            address = profile.store()
            if address is None:
                continue
            rows.append(_passphrase(profile))
            if address not in known:
                known[address] = []  # one call per store, even when it fails
                known[address] = Store(address, patience).secret_names()
        except BackupError as error:
            unknown.append(f"profile {profile.name}: {error}")
            continue
        rows += [_of_store(profile, address, name) for name in known[address] or ()]
    return rows, [address for address, names in known.items() if names is None], unknown


def _passphrase(profile: Profile) -> dict[str, Any]:
    row = {"profile": profile.name, "secret": "backup passphrase"}
    if not profile.has_passphrase():
        return row | {"place": "not in the profile", "command": None}
    command = f"sudo grep passphrase_text {profile.path}"
    return row | {"place": str(profile.path), "command": command}


def _of_store(profile: Profile, address: StoreAddress, name: str) -> dict[str, Any]:
    command = f"dedup-store export-keys --repository {address.repository}"
    return {
        "profile": profile.name,
        "secret": _NAMES[name],
        "place": str(address),
        "command": f"qvm-run --pass-io {address.qube} '{command}'",
    }
