# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `get`: writes a stored backup to stdout."""

import argparse

from dedup_store.config import Config
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.runs.reader import RunReader
from dedup_store.system import notify

_STDOUT = 1


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Write a run, or some members of it."""
    repository = open_repository(settings, Purpose.READ).engine
    with RunReader(repository, arguments.run, arguments.members) as reader:
        reader.warn_unless_whole()
        reader.write(_STDOUT)
    if arguments.json:
        notify.as_json(reader.manifest.summary(), on_stderr=True)
    return 0
