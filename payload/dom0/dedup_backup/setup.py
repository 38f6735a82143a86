# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a repository's password in dom0, and the repository in the backup qube."""

import secrets
from typing import Any

from dedup_backup.store import UNENCRYPTED, Store

_ENTROPY = 32  # bytes


def init(store: Store, *, check: bool) -> dict[str, Any]:
    """Give the store a password when it needs one, and have it make its repository.

    The password goes from here to the qube's file, through a pipe; dom0 keeps no copy. Killed in
    between, the next call goes on with the password that is there.

    Args:
        store: where; its qube must be running.
        check: only tell what would be done.

    Returns:
        changed, new_password, new_repository: whether something was, or would be, made; engine
        and repository: which, and where.

    Raises:
        BackupError: the qube or dedup-store failed. A repository whose password is lost is one
            such case: it gets no new one.
    """
    found = store.repository(make=False)
    new_password = not found.has_password and found.engine != UNENCRYPTED
    if not check:
        if new_password:
            password = secrets.token_urlsafe(_ENTROPY).encode()
            new_password = store.set_password(password)
        found = store.repository(make=True)
    return {
        "changed": new_password or found.changed,
        "new_password": new_password,
        "new_repository": found.changed,
        "engine": found.engine,
        "repository": found.place,
    }
