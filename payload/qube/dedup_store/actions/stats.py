# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `stats`: reports the runs' size, with and without deduplication."""

import argparse
from typing import Any

from dedup_store.archive.manifest import STATUSES
from dedup_store.config import Config
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.runs.catalog import list_runs
from dedup_store.system import notify

_UNKNOWN = "not known"


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Report what is in the repository, and how much room it takes."""
    repository = open_repository(settings, Purpose.READ).engine
    runs = list_runs(repository)
    usage = repository.usage()
    streams = sum(run["stream_bytes"] for run in runs)
    newest = runs[-1] if runs else None
    ratio = None
    if streams and usage.stored_bytes is not None:
        ratio = round(usage.stored_bytes / streams, 4)
    report: dict[str, Any] = {
        "runs": {kind: sum(run["status"] == kind for run in runs) for kind in STATUSES},
        "stream_bytes": streams,
        "newest": newest and {"run": newest["run"], "stream_bytes": newest["stream_bytes"]},
        "stored_bytes": usage.stored_bytes,
        "stored_is": usage.how,
        "ratio": ratio,
    }
    notify.report(report, _text(report), to_program=arguments.json)
    return 0


def _text(report: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in report["runs"].items() if count)
    newest, stored, ratio = report["newest"], report["stored_bytes"], report["ratio"]
    size = _UNKNOWN if stored is None else f"{notify.size(stored)} ({report['stored_is']})"
    rows = [
        ("runs", counts or "none"),
        ("their streams", notify.size(report["stream_bytes"])),
        ("newest", f"{newest['run']}, {notify.size(newest['stream_bytes'])}" if newest else "none"),
        ("stored", size),
        ("stored / streams", _UNKNOWN if ratio is None else f"{100 * ratio:.1f} %"),
    ]
    return "\n".join(f"{name + ':':<17} {value}" for name, value in rows)
