# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands init and secrets."""

import json

from dedup_backup import kept, setup
from dedup_backup.context import Context, place, say
from dedup_backup.errors import EXIT_UNCHECKED
from dedup_backup.store import UNENCRYPTED

_CLEAR = "it is not encrypted: whoever can read its file system reads all backups in it"


def init(context: Context) -> int:
    """Make the store's password and repository, unless they are there."""
    check = context.arguments.check
    known = len(context.confirmed)
    result = setup.init(context.store, known, check=check, new=context.arguments.new)
    if result["engine"] == UNENCRYPTED:
        say(f"warning: {context.place}: {_CLEAR}")
    if context.arguments.json:
        print(json.dumps(result))
        return 0
    made = "would be made" if check else "made"
    steps = [("password", result["new_password"])] if result["engine"] != UNENCRYPTED else []
    steps.append(
        (f"{result['engine']} repository {result['repository']}", result["new_repository"])
    )
    for what, new in steps:
        print(f"{context.place}: {what} {made if new else 'is there'}")
    return 0


def secrets(context: Context) -> int:
    """Tell which secrets there are, and how each is shown; never the secrets."""
    rows, clear, unknown = kept.secrets(context.layout, context.arguments.patience)
    if context.arguments.json:
        places = [place(source) for source in clear]
        print(json.dumps({"secrets": rows, "unencrypted": places, "unknown": unknown}))
    else:
        print("Keep these off this machine, or its backups can't be read after its loss.")
        for row in rows:
            print(f"{row['secret']} of the profile {row['profile']} ({row['place']})")
            if row["command"]:
                print(f"    {row['command']}")
        for source in clear:
            print(f"{place(source)}: {_CLEAR}")
    for text in unknown:
        say(text)
    return EXIT_UNCHECKED if unknown else 0
