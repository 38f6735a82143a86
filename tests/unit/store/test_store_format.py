# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository with runs of another version's format: refused by name, and left as it is."""

import json

import pytest
from dedup_store.archive.manifest import pack_summary

from testing.store import archives
from testing.store.driver import Store, mostly

RUN = "20260101T000000Z-20260101T000000-1-beef"
FIRST = {  # of format 1, which no key named then
    "run": RUN,
    "order": 1,
    "time": "2026-01-01T00:00:00Z",
    "backup_id": "20260101T000000-1",
    "status": "whole",
    "reason": "",
    "stream_bytes": 30720,
    "qubes": [],
}


def backup() -> bytes:
    return archives.join(archives.members([archives.Qube("work", 7, volumes={"private": b"x"})]))


def leave_run(store: Store, summary: dict[str, object]) -> None:
    """Store a run's manifest, as another version does."""
    text = pack_summary(summary)
    if store.engine == "borg":
        store.native("create", "--comment", text, f"::{RUN}.manifest", "-", data=b"{}\n")
    elif store.engine == "restic":
        words = ("backup", "--stdin", "--stdin-filename=manifest", "--host=dedup-store")
        store.native(*words, "--tag", f"run={RUN},summary={text}", data=b"{}\n")
    else:
        run = store.stored / RUN
        run.mkdir()
        index = {"run": RUN, "summary": text, "objects": {}, "format": 1}
        (run / "objects.json").write_text(json.dumps(index))


@mostly("store", "restic", "directory")
@pytest.mark.parametrize("summary", [FIRST, FIRST | {"format": 3}], ids=["1", "3"])
def test_run_of_another_format(store: Store, summary: dict[str, object]) -> None:
    leave_run(store, summary)
    words = (
        f"the run {RUN} is of format {summary.get('format', 1)}, and this version of dedup-store"
    )
    for arguments in (["list"], ["get", "latest"], ["put"], ["forget", RUN], ["check"]):
        result = store.run(*arguments, data=backup() if arguments == ["put"] else b"")
        assert result.returncode == 1, (arguments, result)
        assert result.stdout == b"", arguments
        assert words in result.stderr.decode(), arguments
    if store.engine != "directory":
        listed = store.native("list" if store.engine == "borg" else "snapshots", "--json")
        assert len(json.loads(listed)["archives" if store.engine == "borg" else slice(None)]) == 1
