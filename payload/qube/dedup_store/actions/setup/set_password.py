# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `set-password`: keeps the repository's password that comes on stdin."""

import argparse
import getpass
import os

from dedup_store.config import Config
from dedup_store.errors import UsageError
from dedup_store.repository import password
from dedup_store.system import notify

_STDIN = 0


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Keep the password from stdin, if there is none yet."""
    if not settings.is_encrypted:
        raise UsageError(f"there is no password to set: {password.UNENCRYPTED}")
    if os.isatty(_STDIN):
        line = getpass.getpass("Password of the repository: ").encode() + b"\n"
    else:
        with open(_STDIN, "rb", closefd=False) as stdin:
            line = stdin.readline(password.MAX_LINE)
    path = settings.password_file
    changed = password.store(path, line)
    text = f"stored in {path}" if changed else f"nothing changed: there is a password in {path}"
    report = {"changed": changed, "password_file": str(path)}
    notify.report(report, text, to_program=arguments.json)
    return 0
