# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `init`: makes a repository's password in dom0, and the repository in its qube."""

import argparse
import json
import secrets
from typing import Any

from dedup_backup.calls.backup_qube import UNENCRYPTED, UNENCRYPTED_WARNING, Store
from dedup_backup.context import start
from dedup_backup.errors import BackupError
from dedup_backup.output import say

_ENTROPY = 32  # bytes


def run(arguments: argparse.Namespace) -> int:
    """Make the password and the repository, unless they are there; with --check, only look."""
    context = start(arguments)
    check, known = arguments.check, len(context.confirmed)
    result = _make(context.store, known, check=check, new=arguments.new)
    if result["engine"] == UNENCRYPTED:
        say(f"warning: {context.address}: {UNENCRYPTED_WARNING}")
    if arguments.json:
        print(json.dumps(result))
        return 0
    made = "would be made" if check else "made"
    steps = [("password", result["new_password"])] if result["engine"] != UNENCRYPTED else []
    steps.append((f"{result['engine']} repository {result['location']}", result["new_repository"]))
    for what, new in steps:
        print(f"{context.address}: {what} {made if new else 'is there'}")
    return 0


def _make(store: Store, confirmed: int, *, check: bool, new: bool) -> dict[str, Any]:
    """Give the store a password when it needs one, and have it make its repository.

    The password goes from here to the qube's file, through a pipe; dom0 keeps no copy. When it is
    killed in between, the next call uses the password that is there.

    Args:
        store: where; its qube must be running.
        confirmed: how many of its runs dom0 has confirmed. If any, its repository must be there:
            an empty place isn't a new one then.
        check: only report what would be done.
        new: the user wants a new repository instead of the earlier one.

    Returns:
        changed, new_password, new_repository: whether something was, or would be, made; engine
        and location: which, and where.

    Raises:
        BackupError: the qube or dedup-store failed, or the repository is gone. One whose password
            is lost is such a case, too: it gets no new one.
    """
    found = store.repository(make=False, new=new)
    if found.changed and confirmed and not new:
        raise BackupError(
            f"the repository {found.place} can't be opened, or is gone, and dom0 has confirmed"
            f" {confirmed} run(s) in it: is what holds it attached, mounted, reachable, and not"
            " renamed? Only to have a new, empty one there: `sudo qubes-dedup-backup init --new`,"
            " with the same --qube and --repository"
        )
    new_password = not found.has_password and found.engine != UNENCRYPTED
    if not check:
        if new_password:
            password = secrets.token_urlsafe(_ENTROPY).encode()
            new_password = store.set_password(password)
        found = store.repository(make=True, new=new)
    return {
        "changed": new_password or found.changed,
        "new_password": new_password,
        "new_repository": found.changed,
        "engine": found.engine,
        "location": found.place,
    }
