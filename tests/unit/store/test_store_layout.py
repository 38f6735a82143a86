# SPDX-License-Identifier: GPL-3.0-or-later
"""What docs/design/formats.md says of a run in each engine: its commands, run by hand."""

import json
import re
import shlex

from testing.paths import PROJECT
from testing.store import archives
from testing.store.driver import ENCRYPTED, Store

PAGE = PROJECT / "docs/design/formats.md"


@ENCRYPTED
def test_commands_of_the_page_give_the_objects(store: Store) -> None:
    run = store.put(archives.join(archives.members(archives.small_qubes())))["run"]
    commands = re.findall(rf"^    {store.engine} (.*) > (\w+)$", PAGE.read_text(), re.MULTILINE)
    payload = "payload" if store.engine == "restic" else "0"
    assert [name for _, name in commands] == ["manifest", payload]
    words = {"RUN": run, "REPOSITORY": str(store.repository)}
    found = {}
    for command, name in commands:
        text = re.sub("RUN|REPOSITORY", lambda word: words[word[0]], command)
        found[name] = store.native(*shlex.split(text))
    line, _, recipe = found["manifest"].partition(b"\n")
    manifest = json.loads(line)
    assert (manifest["run"], manifest["recipe_length"]) == (run, len(recipe))
    (length,) = manifest["objects"]
    if store.engine == "restic":
        assert found[payload][length:] == bytes(64)
        length += 64
    assert len(found[payload]) == length
