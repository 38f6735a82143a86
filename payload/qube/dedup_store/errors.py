# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that end a command, each with its exit code, and the cleaning of foreign text."""

MOVED, OLDER = "moved", "older"  # kinds of QuestionError
EXIT_PARTIAL = 3
EXIT_READER_GONE = 141  # as a shell reports a program that SIGPIPE ended


class StoreError(Exception):
    """The engine or the repository failed, or a file could not be read or written."""

    exit_code = 1


class EngineError(StoreError):
    """The engine failed.

    Attributes:
        stderr: the end of what it wrote to stderr.
    """

    def __init__(self, text: str, stderr: str) -> None:
        """Tell of it in one line, and keep what the engine said."""
        super().__init__(text)
        self.stderr = stderr


class DiskError(EngineError):
    """A disk is full, read-only, broken: waiting doesn't mend it (system/disk_errors.py).

    Attributes:
        is_damage: whether it may be of what is read alone, so that a check goes on.
    """

    def __init__(self, text: str, stderr: str, *, is_damage: bool) -> None:
        super().__init__(text, stderr)
        self.is_damage = is_damage


class QuestionError(EngineError):
    """A repository isn't as this qube saw it last, and a person has to decide about it.

    Attributes:
        kind: MOVED or OLDER, which can be accepted; or another.
    """

    def __init__(self, kind: str, text: str, stderr: str) -> None:
        """Take the kind, the error in one line, and what the engine said."""
        super().__init__(text, stderr)
        self.kind = kind


class UsageError(StoreError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class NoRunError(StoreError):
    """The run asked for isn't in the repository."""

    exit_code = 4


class DamagedError(StoreError):
    """What the repository gave back isn't what was stored."""

    exit_code = 5


def clean(text: str, limit: int = 400) -> str:
    """Make foreign text fit for a terminal and a log.

    Args:
        text: anything, for example an engine's stderr.
        limit: longest result, in characters; the end is kept, that is where the cause stands.

    Returns:
        One line without control characters.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else "..." + line[-(limit - 3) :]
