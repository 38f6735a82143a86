# SPDX-License-Identifier: GPL-3.0-or-later
"""The findings in a run."""

from dataclasses import dataclass, field

from dom0_common.text import clean

from dedup_backup.errors import EXIT_UNCHECKED, EXIT_WRONG

MAX_PROBLEMS = 20  # then nothing more is looked at


class EnoughError(Exception):
    """The signal that enough was found; to go on would add nothing."""


@dataclass
class Report:
    """The findings.

    Attributes:
        problems: what is wrong, each with the member's name.
        unchecked: what could not be checked.
        notes: other facts for the user.
        qubes: names of the qubes in the backup, as far as its qubes.xml could be read.
        lacking: names of the qubes that the backup profile selects but the backup lacks.
        members: how many members were checked.
        bytes: of their payload.
    """

    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    qubes: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    members: int = 0
    bytes: int = 0

    @property
    def exit_code(self) -> int:
        """The command's exit code for the findings so far."""
        if self.problems:
            return EXIT_WRONG
        return EXIT_UNCHECKED if self.unchecked else 0

    def add_problem(self, text: str) -> None:
        """Add something that is wrong.

        Raises:
            EnoughError: it is the last one that is recorded.
        """
        text = clean(text)
        if text not in self.problems:
            self.problems.append(text)
        if len(self.problems) >= MAX_PROBLEMS:
            raise EnoughError

    def add_note(self, text: str) -> None:
        """Add something that the user may want to know."""
        self.notes.append(clean(text, 2000))

    def add_unchecked(self, text: str) -> None:
        """Add something that can't be checked."""
        text = clean(text)
        if text not in self.unchecked:
            self.unchecked.append(text)
