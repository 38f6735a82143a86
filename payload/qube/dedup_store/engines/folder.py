# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine whose data a repository's folder in this qube holds."""

import contextlib
from pathlib import Path

from dedup_store.config import Config
from dedup_store.engines.directory.layout import ID_FILE, RUNS
from dedup_store.errors import UsageError
from dedup_store.system import disk_errors


def kind_of_folder(path: Path) -> str | None:
    """Return what a folder holds: `restic`, `borg`, `directory`, None without a repository.

    Raises:
        UsageError: when it holds something else.
    """
    try:
        names = {entry.name for entry in path.iterdir()}
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise UsageError(
            f"repository {path} can't be read: {error.strerror}: {disk_errors.DENIED.advice}"
        ) from None
    except OSError as error:
        raise UsageError(f"repository {path} can't be read: {error.strerror}") from None
    if names <= {ID_FILE}:  # a repository of plain files whose making was cut short
        return None
    if {"config", "keys", "snapshots"} <= names:
        return "restic"
    if RUNS in names:
        return "directory"
    if {"config", "data"} <= names:
        with contextlib.suppress(OSError), (path / "config").open("rb") as file:
            if file.read(12) == b"[repository]":
                return "borg"
    raise UsageError(f"repository {path} is not empty, and holds no engine's data")


def check(config: Config) -> bool:
    """Return whether a local repository of the configured engine exists; True for a remote one.

    Raises:
        UsageError: when another engine's data are there.
    """
    path = config.local_repository
    if path is None:
        return True
    kind, wanted = kind_of_folder(path), config.engine
    if kind not in (None, wanted):
        raise UsageError(
            f"repository {path} is of engine '{kind}', but its configuration says"
            f" engine = '{wanted}'"
        )
    return kind is not None


def has_restic_locks(config: Config) -> bool:
    """Return whether a local repository of restic's has locks."""
    path = config.local_repository
    with contextlib.suppress(OSError):
        return bool(path and config.engine == "restic" and any((path / "locks").iterdir()))
    return False
