# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures to show to the user, and the advice that several of them end with."""

GUIDES_BACKUPS = (
    "what the forum guide's script made is restored with `qubes-dedup-backup restore-guide`"
)
REINSTALL = (
    "reinstall its package (dom0: sudo qubes-dom0-update --action=reinstall scrypt; Debian:"
    " sudo apt-get install --reinstall scrypt), then try again"
)


class ShimctlError(Exception):
    """A failure to show to the user: what, where, and what to do."""


class ChangedError(ShimctlError):
    """A file was replaced after the look, so the plan is void."""
