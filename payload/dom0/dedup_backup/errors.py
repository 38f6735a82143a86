# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that end a command, each with its exit code."""

EXIT_WRONG = 1  # something is not as it was backed up
EXIT_UNCHECKED = 3  # nothing wrong was found, but not everything could be checked


class BackupError(Exception):
    """The qube or its store failed or made no sense, so there is no verdict."""

    exit_code = 4


class UsageError(BackupError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class WrongError(BackupError):
    """Something is not as it was backed up."""

    exit_code = EXIT_WRONG
