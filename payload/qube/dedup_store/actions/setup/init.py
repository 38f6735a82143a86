# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `init`: makes a repository."""

import argparse

from dedup_store.config import Config
from dedup_store.engines import folder
from dedup_store.repository import device, known_repositories, password
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.system import notify


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Make the repository, or report whether it must be made; refuse where one was before."""
    path = settings.password_file
    device.require(settings)
    record = None if arguments.new else known_repositories.read(settings)
    has_folder = settings.local_repository is not None and folder.check(settings)
    has_password = settings.is_encrypted and password.is_there(path)
    if record and settings.local_repository and not has_folder:
        raise known_repositories.gone(settings, record)
    if has_password or has_folder or record or not arguments.check:
        password.require(settings)
    changed = True
    if has_password or not settings.is_encrypted:
        repository = open_repository(settings, Purpose.MAKE).engine
        if record:
            known_repositories.require(settings, repository, record)
        changed = record is None and not repository.exists()
        if changed and not arguments.check:
            device.make_folder(settings)
            repository.create()
        if not arguments.check:
            known_repositories.remember(settings, repository)
    report = {
        "changed": changed,
        "has_password": has_password,
        "engine": settings.engine,
        "location": settings.location,
        "password_file": str(path) if settings.is_encrypted else None,
    }
    if changed and not settings.is_encrypted:
        notify.warn(password.UNENCRYPTED)
    text = f"{settings.engine} repository {settings.location}"
    if not changed:
        text += " is already there"
    elif arguments.check:
        text += " would be made"
    else:
        text = f"made {text}"
    notify.report(report, text, to_program=arguments.json)
    return 0
