# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that end a command, each with its exit code, and the cleaning of foreign text."""

MOVED, OLDER = "moved", "older"  # kinds of QuestionError
EXIT_PARTIAL = 3
EXIT_READER_GONE = 141  # as a shell reports a program that SIGPIPE ended


class StoreError(Exception):
    """A failure of the engine, of the repository, or of reading or writing a file."""

    exit_code = 1


class EngineError(StoreError):
    """A failure of the engine.

    Attributes:
        stderr: the end of what it wrote to stderr.
    """

    def __init__(self, text: str, stderr: str) -> None:
        """Describe it in one line, and keep the engine's stderr."""
        super().__init__(text)
        self.stderr = stderr


class DiskError(EngineError):
    """A disk that is full, read-only or broken: waiting doesn't help (system/disk_errors.py).

    Attributes:
        is_damage: whether it may be of what is read alone, so that a check goes on.
    """

    def __init__(self, text: str, stderr: str, *, is_damage: bool) -> None:
        super().__init__(text, stderr)
        self.is_damage = is_damage


class QuestionError(EngineError):
    """A change of the repository since this qube last saw it, about which a person must decide.

    Attributes:
        kind: MOVED or OLDER, which can be accepted; or another.
    """

    def __init__(self, kind: str, text: str, stderr: str) -> None:
        """Take the kind, the error in one line, and the engine's stderr."""
        super().__init__(text, stderr)
        self.kind = kind


class UsageError(StoreError):
    """A mistake in the command line or the configuration."""

    exit_code = 2


class NoRunError(StoreError):
    """A run that isn't in the repository."""

    exit_code = 4


class FormatError(StoreError):
    """A repository of another version of dedup-store."""


class DamagedError(StoreError):
    """A difference between what the repository returned and what was stored."""

    exit_code = 5


def another_repository(location: str, name: str, identity: str | None) -> str:
    """Describe that another repository than before is at a location.

    Args:
        location: the location.
        name: of the configuration.
        identity: the id of what is there, if it has one.
    """
    which = clean(identity[:8]) if identity else "one without an id"
    return (
        f"at {location} is another repository than before, {which}: has another disk its name, or"
        " something else its place? If it shall be used from now on:"
        f" `dedup-store init --new --repository {name}`"
    )


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
