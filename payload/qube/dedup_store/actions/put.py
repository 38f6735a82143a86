# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `put`: stores the backup that comes on stdin."""

import argparse
import os

from dedup_store.archive.manifest import PARTIAL, WHOLE
from dedup_store.config import Config
from dedup_store.errors import EXIT_PARTIAL, UsageError
from dedup_store.repository import counter
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.runs.catalog import list_runs
from dedup_store.runs.writer import store
from dedup_store.system import notify

_STDIN = 0


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Store what comes on stdin."""
    if os.isatty(_STDIN):
        raise UsageError("put reads a backup from stdin, and that is a terminal")
    opened = open_repository(settings, Purpose.STORE)

    def number() -> int:
        return counter.count(settings, lambda: list_runs(opened.engine))

    summary = store(opened.engine, _STDIN, number, notify.warn)
    opened.lock.end()
    if summary is None:
        notify.say("nothing came on stdin, nothing was stored")
        notify.report({"run": None, "status": PARTIAL}, "", to_program=arguments.json)
        return EXIT_PARTIAL
    status, name = summary["status"], summary["run"]
    if os.uname().nodename in [qube["name"] for qube in summary["qubes"]]:
        notify.warn(
            "this backup has the qube in it that keeps it, and so all that was kept before: leave"
            f" {os.uname().nodename} out of the next one"
        )
    if status == PARTIAL:
        notify.say(f"not a whole backup, kept as partial run {name}: {summary['reason']}")
    elif status != WHOLE:
        notify.warn(f"{name} is kept as it came, without deduplication: {summary['reason']}")
    text = f"stored {name} ({status}, {notify.size(summary['stream_bytes'])})"
    notify.report(summary, text, to_program=arguments.json)
    return EXIT_PARTIAL if status == PARTIAL else 0
