# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `show`: lists the members of a run."""

import argparse
import sys
from typing import Any

from dedup_store.archive.manifest import Member
from dedup_store.config import Config
from dedup_store.errors import clean
from dedup_store.repository.opening import Purpose, open_repository
from dedup_store.runs.catalog import read_manifest, resolve, without_qubes
from dedup_store.system import notify

_MAX_NAME = 200  # characters of a member's name in the output; Qubes' own are shorter


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """List the members of a run."""
    repository = open_repository(settings, Purpose.READ).engine
    found, _ = read_manifest(repository, resolve(repository, arguments.run))
    members = map(_public, found.members)
    if arguments.lines:
        notify.as_lines([without_qubes(found.summary()) | {"members": len(found.members)}])
        notify.as_lines(members)
    elif arguments.json:
        notify.as_json(found.summary() | {"members": list(members)})
    else:
        for member in members:
            cells = (member["container"], member["payload_length"], clean(member["name"] or "-"))
            sys.stdout.write("{:<13} {:>12}  {}\n".format(*cells))
        sys.stdout.flush()
    return 0


def _public(member: Member) -> dict[str, Any]:
    """Return the public facts of a member, without its place."""
    return {
        "name": member.name if member.name is None else member.name[:_MAX_NAME],
        "container": member.container,
        "payload_length": member.payload_length,
        "payload_sha256": member.payload_sha256,
    }
