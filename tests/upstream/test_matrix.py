# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's qvm-backup and qvm-backup-restore over our shim and store, in all combinations."""

import pytest
from corpus import CHUNK, assert_same
from dom0 import CHUNK_SIZE, PASSPHRASE, QUBE, Dom0, complaints

ODD = "dedup:a!b \"c\" 'd' $(e) `f` \\g %s {} #h: é ß 漢字 🗝 0123456789"
ALL = ("work", "alone", "exact", "edge", "hollow", "sparse")
SOME = ("alone", "edge", "hollow")


def give_store(old: Dom0, new: Dom0) -> None:
    """Bring the backup qube's files to the new machine."""
    new.machine.run("cp", "-a", f"{old.folder}/rw/.", "/rw/")


STORED = [
    # engine, mode, passphrase, compression, chunk size
    pytest.param("restic", "authenticated", PASSPHRASE, False, CHUNK, id="restic"),
    pytest.param("borg", "authenticated", PASSPHRASE, False, CHUNK, id="borg"),
    pytest.param("borg", "authenticated", ODD, True, CHUNK, id="borg-odd-gzip"),
    pytest.param("restic", "authenticated", PASSPHRASE, "zstd", CHUNK_SIZE, id="restic-zstd-one"),
    pytest.param("restic", "plain", "guide's way", False, CHUNK, id="restic-plain"),
    pytest.param("borg", "plain", PASSPHRASE, False, CHUNK, id="borg-plain"),
]


@pytest.mark.parametrize(("engine", "mode", "passphrase", "compress", "chunk"), STORED)
def test_stored_backup_comes_back_on_a_new_machine(  # noqa: PLR0913
    old: Dom0,
    new: Dom0,
    engine: str,
    mode: str,
    passphrase: str,
    compress: bool | str,
    chunk: int,
) -> None:
    names = ALL if mode == "authenticated" else SOME
    old.install_shim(mode)
    old.chunk_size(chunk)
    to = f"dedup-store put --profile {engine}"
    old.backup(*names, to=to, qube=QUBE, passphrase=passphrase, compress=compress)
    run = old.runs(engine)[-1]
    if compress == "zstd":  # the store has no zstd, and says that it can't tell
        assert run["status"] == "opaque"
    else:
        assert run["status"] == "whole"
        assert {qube["name"] for qube in run["qubes"]} == set(names)
    give_store(old, new)
    new.install_shim(mode)
    source = f"dedup-store get --profile {engine} {run['run']}"
    for verify_only in (True, False):
        done = new.restore(
            "--ignore-size-limit",
            source=source,
            qube=QUBE,
            passphrase=passphrase,
            verify_only=verify_only,
        )
        assert complaints(done) == []
    assert_same(old, new, *names)
