# SPDX-License-Identifier: GPL-3.0-or-later
"""The context of an action: the command line, and what it names."""

import argparse
import contextlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from dom0_common.paths import Paths
from dom0_common.text import clean
from shimctl_lib import alarm
from shimctl_lib.errors import ShimctlError

from dedup_backup.calls.backup_qube import RUN, Store
from dedup_backup.errors import UsageError
from dedup_backup.output import say
from dedup_backup.records import confirmed
from dedup_backup.settings import Profile, StoreAddress


class Context:
    """The command line, and what it names; read when it is needed.

    Attributes:
        arguments: the command line.
        paths: where dom0's files are.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.paths = Paths(Path(arguments.root))

    @cached_property
    def profile(self) -> Profile:
        """The backup profile."""
        return Profile(self.paths, self.arguments.profile)

    @cached_property
    def address(self) -> StoreAddress:
        """The place of the store."""
        return self.profile.address(self.arguments.qube, self.arguments.repository)

    @cached_property
    def store(self) -> Store:
        """The store."""
        return Store(self.address, self.arguments.patience)

    @cached_property
    def confirmed(self) -> dict[str, dict[str, Any]]:
        """dom0's records of the store's confirmed runs, oldest first."""
        return confirmed.read(self.paths, self.address)


def start(arguments: argparse.Namespace) -> Context:
    """Return the context of an action; warn when the shim or all of its guard is off.

    Raises:
        UsageError: we aren't root.
    """
    if os.geteuid():
        raise UsageError("only root in dom0 can run this: use sudo")
    context = Context(arguments)
    with contextlib.suppress(OSError, ShimctlError):  # the action itself matters more
        if text := alarm.warning(context.paths):
            say(f"warning: {text}")
    return context


def id_of(run: str) -> str:
    """Return the backup's id from a run's name; reading/run_verifier.py proves it."""
    found = RUN.fullmatch(run)
    if not found:
        raise UsageError(f"'{clean(run, 120)}' isn't a run's name: see `qubes-dedup-backup list`")
    return found[1]
