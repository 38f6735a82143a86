# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways to call the shim: by a symbolic link, a hard link, where it was laid down."""

import subprocess

import pytest

from testing.shim.driver import PAYLOAD, Root, line, real_scrypt

ORDINARY = b"an ordinary one"
LINKS = ("usr/local/bin", "usr/local/sbin", "usr/sbin", "bin", "home/user/bin")


@pytest.mark.parametrize("folder", LINKS)
@pytest.mark.parametrize("hops", [1, 2])
def test_called_by_a_symbolic_link_it_is_the_shim_that_the_link_leads_to(
    root: Root, folder: str, hops: int
) -> None:
    shim, called = root.scrypt, root.path / folder / "scrypt"
    called.parent.mkdir(parents=True)
    if hops == 2:
        (root.path / "opt").symlink_to("usr/bin")
        shim = root.path / "opt/scrypt"
    called.symlink_to(shim)
    root.scrypt = called
    assert root.becomes_real(root.start_enc(line(ORDINARY)))[0] == "enc"
    assert root.enc(b"payload", line()).status == 0
    assert len(root.ledger()) == 1
    assert root.dec(line()).status == 0
    done = subprocess.run([called, "--version"], capture_output=True, check=False)
    assert (done.returncode, done.stdout[:7]) == (0, b"scrypt ")


@pytest.mark.parametrize("folder", ["usr/local/bin", "usr/bin"])
def test_called_by_a_link_to_where_it_was_laid_down_it_uses_the_system_s_scrypt(
    root: Root, folder: str
) -> None:
    called = root.path / folder / "scrypt"
    called.parent.mkdir(parents=True, exist_ok=True)
    called.unlink(missing_ok=True)
    called.symlink_to(PAYLOAD / "scrypt")
    root.scrypt, root.real = called, real_scrypt()
    assert root.becomes_real(root.start_enc(line(ORDINARY)))[0] == "enc"


def test_called_as_a_copy_beside_the_installed_one_it_finds_the_real_scrypt(root: Root) -> None:
    """Neither becomes the other, again and again."""
    copy = root.path / "usr/local/bin/scrypt"
    copy.parent.mkdir(parents=True)
    copy.hardlink_to(root.scrypt)
    root.scrypt = copy
    assert root.becomes_real(root.start_enc(line(ORDINARY)))[0] == "enc"
    root.real.unlink()
    done = subprocess.run([copy, "--version"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"the real scrypt is not at" in done.stderr) == (1, True)
