# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that end a command, and the cleaning of foreign text."""


class StorageError(Exception):
    """A failure here: of a file, a program, or a state that forbids the command."""

    exit_code = 1


class UsageError(StorageError):
    """The command line, the service's argument or the configuration is wrong."""

    exit_code = 2


class RefusedError(StorageError):
    """The other side asked for what it must not have."""

    exit_code = 3


def clean(text: str, limit: int = 400) -> str:
    """Make foreign text one line without control characters, of at most limit characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
