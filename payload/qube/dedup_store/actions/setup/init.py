# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands set-password, init, export-keys: a profile is made ready, and kept safe."""

import argparse
import getpass
import os

from dedup_store import config, device, folder, known, password, tell
from dedup_store.commands import open_engine, open_repository
from dedup_store.errors import UsageError

_STDIN = 0
_CLEAR = (
    "the engine directory encrypts nothing. Whoever can read the repository's file system reads all"
    " backups in it, so that must be encrypted"
)


def set_password(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Keep the password that comes on stdin, if there is none yet."""
    if not settings.is_encrypted:
        raise UsageError(f"there is no password to set: {_CLEAR}")
    if os.isatty(_STDIN):
        line = getpass.getpass("Password of the repository: ").encode() + b"\n"
    else:
        with open(_STDIN, "rb", closefd=False) as stdin:
            line = stdin.readline(password.MAX_LINE)
    path = settings.password_file
    changed = password.store(path, line)
    text = f"stored in {path}" if changed else f"nothing changed: there is a password in {path}"
    report = {"changed": changed, "password_file": str(path)}
    tell.report(report, text, to_program=arguments.json)
    return 0


def init(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Make the repository, or tell whether it must be made; not where there was one before."""
    path = settings.password_file
    device.require(settings)
    record = None if arguments.new else known.read(settings)
    has_folder = settings.local_repository is not None and folder.check(settings)
    has_password = settings.is_encrypted and password.is_there(path)
    if record and settings.local_repository and not has_folder:
        raise known.gone(settings, record)
    if has_password or has_folder or record or not arguments.check:
        password.require(settings)
    changed = True
    if has_password or not settings.is_encrypted:
        repository = open_engine(settings)
        if record:
            known.require(settings, repository, record)
        changed = record is None and not repository.exists()
        if changed and not arguments.check:
            device.make_folder(settings)
            repository.create()
        if not arguments.check:
            known.note(settings, repository)
    report = {
        "changed": changed,
        "has_password": has_password,
        "engine": settings.engine,
        "repository": settings.repository,
        "password_file": str(path) if settings.is_encrypted else None,
    }
    if changed and not settings.is_encrypted:
        tell.warn(_CLEAR)
    text = f"{settings.engine} repository {settings.repository}"
    if not changed:
        text += " is already there"
    elif arguments.check:
        text += " would be made"
    else:
        text = f"made {text}"
    tell.report(report, text, to_program=arguments.json)
    return 0


def export_keys(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Show what must be kept elsewhere, or (`--names`) tell only what there is."""
    report: dict[str, object] = {
        "profile": settings.profile,
        "engine": settings.engine,
        "repository": settings.repository,
    }
    if arguments.names:
        names = ["password", "borg key"] if settings.engine == "borg" else ["password"]
        if not settings.is_encrypted or not password.is_there(settings.password_file):
            names = []
        none = "none yet" if settings.is_encrypted else f"none: {_CLEAR}"
        report["secrets"] = names
        tell.report(report, "\n".join(names) or none, to_program=arguments.json)
        return 0
    if not settings.is_encrypted:
        raise UsageError(f"there is nothing to keep but the repository itself: {_CLEAR}")
    repository = open_repository(settings)
    report["password"] = password.read(settings.password_file)
    report["borg_key"] = key = repository.key()
    lines = [f"{name}: {value}" for name, value in report.items() if name != "borg_key"]
    if key:
        lines += ["borg key, for `borg key import`:", key.rstrip("\n")]
    tell.report(report, "\n".join(lines), to_program=arguments.json)
    return 0
