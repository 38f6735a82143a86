# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing of Qubes, or of ours, that a developer's machine has is seen in the tests' machine."""

import shutil
from pathlib import Path

from testing.upstream.dom0 import QUBE, new_dom0
from testing.upstream.sources import PYTHON, Sources

MARK = "this is of the host"
FILES = (
    "etc/group",
    "etc/pam.d/sudo",
    "etc/passwd",
    "etc/qubes-dedup-backup/scrypt.conf",
    "etc/qubes-release",
    "etc/qubes-rpc/admin.vm.volume.Import",
    "etc/qubes/backup/other.conf",
    "etc/sudoers.d/user",
    "home/user/file",
    "root/file",
    "rw/config/dedup-store/default.toml",
    "srv/file",
    "usr/bin/qrexec-client",
    "usr/bin/qubes-dom0-update",
    "usr/bin/qvm-backup",
    "usr/bin/scrypt",
    "usr/lib/python3/dist-packages/qubesadmin/__init__.py",
    "usr/lib/qubes/qrexec-client",
    "usr/libexec/qubes/qfile-dom0-unpacker",
    "usr/local/bin/dedup-store",
    "usr/local/bin/scrypt",
    "usr/local/etc/qubes-rpc/qubes.Backup",
    "usr/local/lib/dedup-store/file",
    "var/lib/qubes-dedup-backup/ledger/20240101T120000-1234",
    "var/lib/qubes/qubes.xml",
    "var/log/qubes/file",
)


def host(folder: Path) -> Path:
    """Make what such a machine has: the shim, an empty group `qubes`, the rest made up."""
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n# {MARK}\nexit 1\n")
        path.chmod(0o755)
    (folder / "etc/group").write_text(f"qubes:x:98:\nroot:x:0:\n{MARK}:x:99:\n")
    (folder / "etc/passwd").write_text(f"root:x:0:0:{MARK}:/root:/bin/sh\n")
    shutil.copy("/usr/bin/scrypt", folder / "usr/bin/scrypt.bak")
    return folder


def test_nothing_shows_through(sources: Sources, tmp_path: Path) -> None:
    with new_dom0(tmp_path / "dom0", sources, host=host(tmp_path / "host")) as dom0:
        paths = [dom0.machine.path(name) for name in FILES]
        assert [
            path for path in paths if path.is_file() and MARK in path.read_text("latin-1")
        ] == []
        members = "import grp; print(grp.getgrnam('qubes').gr_mem[0])"
        assert dom0.machine.run(PYTHON, "-c", members).stdout == "user\n"
        status = dom0.machine.run("scrypt", "--version").stdout
        assert status.startswith("scrypt ")
        dom0.make([])
        dom0.start()
        assert dom0.names() == {"dom0", "tmpl", QUBE}
        dom0.make_store("restic")
        dom0.backup("tmpl", to="dedup-store put", qube=QUBE)
        assert dom0.runs()[-1]["status"] == "whole"
        assert len(dom0.ledger()) == 1
        dom0.stop()
