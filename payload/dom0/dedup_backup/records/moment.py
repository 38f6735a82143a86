# SPDX-License-Identifier: GPL-3.0-or-later
"""The display of moments: always in UTC, so that one moment has one label."""

from datetime import UTC, datetime


def utc(seconds: int) -> datetime:
    """Return the moment of Unix time."""
    return datetime.fromtimestamp(seconds, UTC)


def label(moment: datetime) -> str:
    """Write a moment as `2026-11-24T10:15:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def earliest(seconds: int) -> int:
    """Return the earliest Unix time that qubesd can record for this moment.

    It asks libc for the Unix time of the local time (qubes-core-admin qubes/backup.py
    Backup.backup_do: `strftime("%s")` of a date without zone). In the hour that comes twice when
    summer time ends, that may be the hour before.
    """
    local = datetime.fromtimestamp(seconds)
    return min(int(local.replace(fold=fold).timestamp()) for fold in (0, 1))
