# SPDX-License-Identifier: GPL-3.0-or-later
"""The summaries of runs, kept in this qube.

borg lists the archives with one read of the repository, and reads each archive for its comment,
one after the other: at a distance, a list of 1,000 runs would take 1,000 round trips. An archive's
id is a MAC of its content, so what was read once needn't be read again. Without the file, or with
an old one, only time is lost.
"""

import contextlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from dedup_store.config import Config, state_file
from dedup_store.system import files

_MAX_FILE = 256 << 20


class Archive(NamedTuple):
    """An archive: its name, and its id (borg/archive.py Archive.id)."""

    name: str
    id: str


class Summaries:
    """The summaries of a repository's runs, by their manifests' archives."""

    def __init__(self, config: Config) -> None:
        self._path = state_file(config, "summaries")

    def add(self, name: str, summary: str) -> None:
        """Keep the summary of what was just stored; borg doesn't report the archive's id."""
        known = self._read()
        known[name] = ("", summary)
        self._write(known)

    def known(self, archives: Iterable[Archive]) -> dict[str, str]:
        """Return the summaries that are known of these archives, by name."""
        known = self._read()
        found = {}
        for name, identity in archives:
            if name in known and known[name][0] in ("", identity):
                found[name] = known[name][1]
        return found

    def keep(self, archives: Iterable[Archive], found: dict[str, str]) -> None:
        """Keep the summaries of these archives, and no others."""
        known = {name: (identity, found[name]) for name, identity in archives if name in found}
        if known != self._read():
            self._write(known)

    def _read(self) -> dict[str, tuple[str, str]]:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, LookupError):
            with self._path.open("rb") as file:
                rows = json.loads(file.read(_MAX_FILE))
            return {str(name): (str(row[0]), str(row[1])) for name, row in rows.items()}
        return {}

    def _write(self, known: dict[str, tuple[str, str]]) -> None:
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.replace(self._path, json.dumps(known) + "\n")
