# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `export-keys`: shows the password and borg's key, to keep off this machine."""

import argparse

from dedup_store.config import Config
from dedup_store.errors import UsageError
from dedup_store.repository import password
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.system import notify


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Show the secrets to keep elsewhere, or (`--names`) only which there are."""
    report: dict[str, object] = {
        "repository": settings.name,
        "engine": settings.engine,
        "location": settings.location,
    }
    if arguments.names:
        names = ["password", "borg key"] if settings.engine == "borg" else ["password"]
        if not settings.is_encrypted or not password.is_there(settings.password_file):
            names = []
        none = "none yet" if settings.is_encrypted else f"none: {password.UNENCRYPTED}"
        report["secrets"] = names
        notify.report(report, "\n".join(names) or none, to_program=arguments.json)
        return 0
    if not settings.is_encrypted:
        raise UsageError(
            f"there is nothing to keep but the repository itself: {password.UNENCRYPTED}"
        )
    repository = open_repository(settings, Purpose.READ).engine
    report["password"] = password.read(settings.password_file)
    report["borg_key"] = key = repository.key()
    lines = [f"{name}: {value}" for name, value in report.items() if name != "borg_key"]
    if key:
        lines += ["borg key, for `borg key import`:", key.rstrip("\n")]
    notify.report(report, "\n".join(lines), to_program=arguments.json)
    return 0
