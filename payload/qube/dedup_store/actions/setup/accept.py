# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `accept`: a person accepts a repository that changed since this qube last saw it."""

import argparse
import json
import os
import time

from dedup_store import config
from dedup_store.errors import StoreError, UsageError, clean
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.system import notify


def run(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Answer one of borg's questions, if borg asks it now."""
    kind, location = arguments.kind, config.normal(arguments.location)
    if settings.engine != "borg":
        raise UsageError(f"there is nothing to accept: {settings.engine} has no such questions")
    if location != settings.location:
        raise UsageError(
            f"the repository {settings.name} is {settings.location}, not {clean(location, 120)}"
        )
    repository = open_repository(settings, Purpose.ACCEPT).engine
    repository.unlock()
    changed = repository.is_asking(kind)
    if changed:
        _record({"repository": settings.name, "accepted": kind, "location": location})
        repository.accept(kind)
    text = f"accepted: {location} is {kind}" if changed else f"nothing to accept at {location}"
    report = {"changed": changed, "accepted": kind, "location": location}
    notify.report(report, text, to_program=arguments.json)
    return 0


def _record(what: dict[str, str]) -> None:
    """Record what was accepted, and when."""
    path = config.state_folder() / "accepted"
    row = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | what
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}") from None
