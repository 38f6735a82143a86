# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that end a command, each with its exit code, and the cleaning of foreign text."""

import re

EXIT_WRONG = 1  # something is not as it was backed up
EXIT_UNCHECKED = 3  # nothing wrong was found, but not everything could be checked

_ODD = re.compile("[^ -~]+")


class BackupError(Exception):
    """The qube or its store failed or made no sense, so there is no verdict."""

    exit_code = 4


class UsageError(BackupError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class WrongError(BackupError):
    """Something is not as it was backed up."""

    exit_code = EXIT_WRONG


def clean(text: str, limit: int = 300) -> str:
    """Make foreign text fit for dom0's terminal: one line of printable ASCII.

    Args:
        text: anything.
        limit: longest result, in characters; the end is kept, where the cause of an error stands.
    """
    end = text[-4 * limit :]  # first: it may be long, and there may be much of it
    line = " ".join(_ODD.sub(" ", end).split())
    if len(end) == len(text) and len(line) <= limit:
        return line
    return "..." + line[-(limit - 3) :]
