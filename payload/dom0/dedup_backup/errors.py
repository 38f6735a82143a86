# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that end a command, each with its exit code."""

EXIT_WRONG = 1  # something is not as it was backed up
EXIT_UNCHECKED = 3  # nothing wrong was found, but not everything could be checked


class BackupError(Exception):
    """A failure, or a malformed reply, of the qube or its store: there is no verdict."""

    exit_code = 4


class UsageError(BackupError):
    """A mistake in the command line or the configuration."""

    exit_code = 2


class WrongError(BackupError):
    """A difference from what was backed up."""

    exit_code = EXIT_WRONG
