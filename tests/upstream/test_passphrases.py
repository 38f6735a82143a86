# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose passphrase makes what, and who can read it: upstream's tools with and without the shim."""

import tarfile
from pathlib import Path

import pytest

from testing.upstream.corpus import assert_same
from testing.upstream.dom0 import PASSPHRASE, Dom0, complaints

ORDINARY = "ordinary ! passphrase \"with\" 'all' é 漢字 dedup: inside"
OURS, SCRYPTS = b"scrypt\x80", b"scrypt\x00"
REFUSED = "Corrupted backup header (hmac verification failed). Is the password correct?"


def containers(archive: Path) -> dict[str, bytes]:
    """Return the first seven bytes of each file of an archive that scrypt wrote."""
    with tarfile.open(archive, ignore_zeros=True) as tar:
        return {
            member.name: file.read(7)
            for member in tar
            if member.name != "backup-header" and (file := tar.extractfile(member))
        }


@pytest.fixture(scope="session")
def before(session_old: Dom0, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive made before the shim was there."""
    archive = tmp_path_factory.mktemp("archives") / "before"
    session_old.remove_shim()
    session_old.backup("hollow", to=archive, passphrase=ORDINARY)
    session_old.install_shim()
    return archive


@pytest.fixture(scope="session")
def ours(session_old: Dom0, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the shim's containers."""
    archive = tmp_path_factory.mktemp("archives") / "ours"
    session_old.backup("work", to=archive)
    return archive


def test_ordinary_passphrase_is_for_the_real_scrypt_alone(
    old: Dom0, new: Dom0, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    rows = len(old.ledger())
    old.backup("hollow", to=archive, passphrase=ORDINARY)
    assert set(containers(archive).values()) == {SCRYPTS}
    assert len(old.ledger()) == rows
    new.remove_shim()
    assert new.machine.run("scrypt", "--version").stdout.startswith("scrypt ")
    assert complaints(new.restore(source=archive, passphrase=ORDINARY)) == []
    assert_same(old, new, "hollow")


def test_archive_from_before_the_shim_is_restored_with_it(
    old: Dom0, new: Dom0, before: Path
) -> None:
    assert complaints(new.restore(source=before, passphrase=ORDINARY)) == []
    assert_same(old, new, "hollow")


def test_mode_off_makes_no_container(old: Dom0, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    old.install_shim("off")
    old.backup("hollow", to=archive)
    assert set(containers(archive).values()) == {SCRYPTS}


def test_mode_off_still_restores_containers(old: Dom0, new: Dom0, ours: Path) -> None:
    assert set(containers(ours).values()) == {OURS}
    new.install_shim("off")
    assert complaints(new.restore(source=ours)) == []
    assert_same(old, new, "work")


def test_machine_without_the_shim_refuses_containers(old: Dom0, ours: Path) -> None:
    old.remove_shim()
    for verify_only in (True, False):
        done = old.restore(source=ours, verify_only=verify_only, check=False)
        assert done.returncode != 0
        assert REFUSED in done.stderr
    assert "work-1" not in old.names()


@pytest.mark.parametrize("archive", ["ours", "before"])
@pytest.mark.parametrize("verify_only", [True, False])
def test_wrong_passphrase(
    old: Dom0, archive: str, verify_only: bool, request: pytest.FixtureRequest
) -> None:
    wrong = {"ours": PASSPHRASE[:-1] + "J", "before": ORDINARY + "!"}[archive]
    names = old.names()
    path = request.getfixturevalue(archive)
    done = old.restore(source=path, passphrase=wrong, verify_only=verify_only, check=False)
    assert done.returncode != 0
    assert REFUSED in done.stderr
    assert old.names() == names
