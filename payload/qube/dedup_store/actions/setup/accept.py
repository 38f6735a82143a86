# SPDX-License-Identifier: GPL-3.0-or-later
"""The command accept: a person says that a repository is as it should be (borg_questions.py)."""

import argparse
import dataclasses
import json
import os
import time

from dedup_store import config, device, folder, lock, password, tell
from dedup_store.engine_borg import Borg
from dedup_store.errors import StoreError, UsageError, clean


def accept(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Answer one of borg's questions, if it asks that one now."""
    kind, location = arguments.kind, config.normal(arguments.location)
    if settings.engine != "borg":
        raise UsageError(f"there is nothing to accept: {settings.engine} asks nothing like that")
    if location != settings.repository:
        raise UsageError(
            f"the repository of profile {settings.profile} is {settings.repository},"
            f" not {clean(location, 120)}"
        )
    password.require(settings)
    device.require(settings)
    folder.require(settings)
    held = lock.take(settings, exclusive=True)  # what others do goes by what is changed here
    # but nothing is removed from the repository
    repository = Borg(settings, dataclasses.replace(held, exclusive=False))
    repository.unlock()
    changed = repository.is_asking(kind)
    if changed:
        _record({"profile": settings.profile, "accepted": kind, "repository": location})
        repository.accept(kind)
    text = f"accepted: {location} is {kind}" if changed else f"nothing to accept at {location}"
    report = {"changed": changed, "accepted": kind, "repository": location}
    tell.report(report, text, to_program=arguments.json)
    return 0


def _record(what: dict[str, str]) -> None:
    """Keep what was accepted, and when."""
    path = config.state_folder() / "accepted"
    row = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())} | what
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}") from None
