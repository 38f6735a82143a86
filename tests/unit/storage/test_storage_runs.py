# SPDX-License-Identifier: GPL-3.0-or-later
"""dedup-store through the storage qube's service, with real engines."""

import functools

import archives
from storage_qube import QUBE, QrexecStore


@functools.cache
def backup() -> bytes:
    qubes = archives.small_qubes()
    qubes[1].volumes["private"] = archives.image(20_000_000, 7)
    return archives.join(archives.members(qubes))


def test_from_init_to_get(store: QrexecStore) -> None:
    again = store.run("init", "--json")
    assert again.returncode == 0, again.stderr
    assert b'"changed": false' in again.stdout
    stored = store.put(backup())
    assert stored["status"] == "whole"
    assert store.runs() == [stored]
    assert store.get() == backup()
    assert store.qube is not None
    assert (store.qube.data / "main" / "config").is_file()
    calls = set((store.qube.folder / "calls").read_text().splitlines())
    assert calls == {f"{QUBE} dedupbackup.Repository+{store.engine}+main"}
