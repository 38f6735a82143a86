# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors for the user, and the advice that several of them share."""

GUIDES_BACKUPS = (
    "what the forum guide's script made is restored with `qubes-dedup-backup restore-guide`"
)
REINSTALL = (
    "reinstall its package (dom0: sudo qubes-dom0-update --action=reinstall scrypt; Debian:"
    " sudo apt-get install --reinstall scrypt), then try again"
)


class ShimctlError(Exception):
    """An error for the user: what, where, and what to do."""


class ChangedError(ShimctlError):
    """A change of a file after its inspection, so that the plan is void."""
