# SPDX-License-Identifier: GPL-3.0-or-later
"""The counter of backups was lost, or a ledger couldn't be begun: later backups come to no harm."""

import json

import pytest

from testing.shim.driver import BACKUP, Root, limit_file_size, line


@pytest.mark.parametrize("left", [None, 1], ids=["gone", "shorter"])
def test_counter_that_was_lost_goes_on_behind_what_is_known(root: Root, left: int | None) -> None:
    """By the ledgers, and by the records of confirmed runs, whose ledger may be gone."""
    counter, records = root.ledgers.with_name("order"), root.ledgers.with_name("confirmed")
    root.enc_header()
    path = root.ledgers / BACKUP
    path.write_text(path.read_text().replace('"order": 1,', '"order": 4711,'))
    records.mkdir()
    for known, in_record in ((4711, 4), (5000, 5000)):
        (records / "run.json").write_text(json.dumps({"run": "x", "order": in_record}, indent=1))
        counter.unlink()
        if left is not None:
            counter.write_bytes(b"\n" * left)
        path.rename(root.ledgers / f"before-{known}")
        root.enc_header()
        assert root.ledger()[0]["order"] == known + 1
        assert counter.stat().st_size == known + 1


def test_full_disk_leaves_no_empty_ledger(root: Root) -> None:
    """It would look like a later backup's, of which nothing is known."""
    with root.journal() as logged:
        call = root.start_enc(line(), setup=limit_file_size(200))  # a container, but no row
        assert call.process.stdin
        call.process.stdin.write(b"x")
        assert call.finish().status == 0
        assert "can't be confirmed" in logged()[0]
    assert list(root.ledgers.iterdir()) == []
