# SPDX-License-Identifier: GPL-3.0-or-later
"""A scrypt that comes to where qubesd looks first: the path unit notices, and the user is told."""

from __future__ import annotations

import pytest

from testing.guard.dom0 import OLD, SECONDS, Dom0, within

# The forum guide's, which copies.
SCRIPT = '#!/bin/sh\nprintf "Please enter passphrase: " >&2\ncat "$2" >"$3"\n'


@pytest.fixture(scope="module")
def watched(clean: Dom0) -> Dom0:
    """dom0 with the shim, and the path unit as the only trigger."""
    if not clean.boots:
        pytest.skip("no systemd runs in this dom0")
    clean.lay_down()
    clean.keep_only("path")
    return clean


@pytest.mark.parametrize("folder", ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin"])
def test_it_is_told_at_once(watched: Dom0, folder: str) -> None:
    place = f"{folder}/scrypt"
    warned = ("journalctl", "--quiet", "--no-pager", "--priority=warning", "--identifier=shimctl")
    program = watched.file(place)
    program.write_text(SCRIPT)
    program.chmod(0o755)
    assert within(SECONDS, lambda: f"{place} is" in watched.run(*warned).stdout)
    status = watched.run("shimctl", "status")
    assert status.returncode == 3
    assert f"problem: {place}" in status.stdout
    assert watched.run("shimctl", "install").returncode != 0
    assert watched.shim_is_in_place(OLD)

    program.unlink()
    assert within(SECONDS, lambda: place not in watched.status()["last"]["result"])
    watched.output("shimctl", "install")
