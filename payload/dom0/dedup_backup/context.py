# SPDX-License-Identifier: GPL-3.0-or-later
"""What every command of qubes-dedup-backup works with."""

import argparse
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from dedup_backup import ledger
from dedup_backup.errors import UsageError, clean
from dedup_backup.settings import Layout, Profile, Source
from dedup_backup.store import RUN, Store


class Context:
    """The command line, and what it names; read when it is needed.

    Attributes:
        arguments: the command line.
        layout: where dom0's files are.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Take what the command line says.

        Raises:
            UsageError: we aren't root.
        """
        if os.geteuid():
            raise UsageError("this is for root in dom0 alone: use sudo")
        self.arguments = arguments
        self.layout = Layout(Path(arguments.root))

    @cached_property
    def profile(self) -> Profile:
        """The backup profile."""
        return Profile(self.layout, self.arguments.profile)

    @cached_property
    def source(self) -> Source:
        """Which store the command is about."""
        return self.profile.source(self.arguments.qube, self.arguments.store_profile)

    @cached_property
    def store(self) -> Store:
        """That store."""
        return Store(self.source, self.arguments.patience)

    @cached_property
    def confirmed(self) -> dict[str, dict[str, Any]]:
        """dom0's records of the store's confirmed runs, oldest first."""
        return ledger.confirmed(self.layout, self.source)

    @property
    def place(self) -> str:
        """The store, for messages."""
        return place(self.source)


def place(source: Source) -> str:
    """Name a store for messages."""
    return f"the store {source.store_profile} in {source.qube}"


def say(text: str) -> None:
    """Tell the user something beside the result."""
    print(f"qubes-dedup-backup: {clean(text, 600)}", file=sys.stderr)


def id_of(run: str) -> str:
    """Take the backup's id from a run's name; the stream must prove it (check.py)."""
    found = RUN.fullmatch(run)
    if not found:
        raise UsageError(f"'{clean(run, 120)}' is no run's name: see `qubes-dedup-backup list`")
    return found[1]
