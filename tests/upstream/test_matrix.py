# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's qvm-backup and qvm-backup-restore over our shim and store, in all combinations."""

import shutil

import pytest

from testing.paths import PROJECT
from testing.upstream.corpus import CHUNK, assert_same, give_store
from testing.upstream.dom0 import CHUNK_SIZE, PASSPHRASE, QUBE, Dom0, complaints

ODD = "dedup:a!b \"c\" 'd' $(e) `f` \\g %s {} #h: é ß 漢字 🗝 0123456789"
ALL = ("work", "alone", "exact", "edge", "hollow", "sparse")
ANY = "anything"
SOME = ("alone", "edge", "hollow")


STORED = [
    # engine, passphrase, compression, chunk size
    pytest.param("restic", PASSPHRASE, False, CHUNK, id="restic"),
    pytest.param("borg", PASSPHRASE, False, CHUNK, id="borg"),
    pytest.param("borg", ODD, True, CHUNK, id="borg-odd-gzip"),
    pytest.param("restic", PASSPHRASE, "zstd", CHUNK_SIZE, id="restic-zstd-one"),
]


@pytest.mark.parametrize(("engine", "passphrase", "compress", "chunk"), STORED)
def test_stored_backup_comes_back_on_a_new_machine(  # noqa: PLR0913
    old: Dom0, new: Dom0, engine: str, passphrase: str, compress: bool | str, chunk: int
) -> None:
    names = ALL
    old.chunk_size(chunk)
    to = f"dedup-store put --repository {engine}"
    old.backup(*names, to=to, qube=QUBE, passphrase=passphrase, compress=compress)
    run = old.runs(engine)[-1]
    if compress == "zstd":  # the store has no zstd, and says that it can't tell
        assert run["status"] == "opaque"
    else:
        assert run["status"] == "whole"
        assert {qube["name"] for qube in run["qubes"]} == set(names)
    give_store(old, new)
    source = f"dedup-store get --repository {engine} {run['run']}"
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


@pytest.mark.parametrize("engine", ["restic", "borg"])
def test_backup_of_the_guides_script_comes_back_unchecked(
    old: Dom0, new: Dom0, engine: str
) -> None:
    """The guide's readers have their archives whole in an engine; put keeps them unsealed, too."""
    to = f"dedup-store put --repository {engine}"
    old.remove_shim()
    scrypt = old.machine.path("/usr/local/bin/scrypt")
    shutil.copy(PROJECT / "lab/guide-scrypt", scrypt)
    try:
        old.backup(*SOME, to=to, qube=QUBE, passphrase=ANY)
    finally:
        scrypt.unlink()
        old.install_shim()
    run = old.runs(engine)[-1]
    assert run["status"] == "whole"
    give_store(old, new)
    source = f"dedup-store get --repository {engine} {run['run']}"
    refused = new.restore(source=source, qube=QUBE, passphrase=ANY, check=False)
    assert "Corrupted backup header" in refused.stdout + refused.stderr
    options = ["-p", str(new.passphrase_file("another")), "--ignore-size-limit", "-d", QUBE]
    program = PROJECT / "payload/dom0/qubes-dedup-backup"
    for how in ("--verify-only", "--rename-conflicting"):
        done = new.machine.run(program, "restore-guide", "--unchecked", how, *options, source)
        assert complaints(done) == []
    assert_same(old, new, *SOME)
