# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade of scrypt means for backups: nothing, or the fail-safe state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.guard.dom0 import BROKEN, NEW, OLD, PACKAGE, SECONDS, Dom0, within
from testing.shim.driver import CONFIRM, ENTER, MEMBER, Call, line

HEADER_BYTES, TRAILER_BYTES = 96, 32  # of a container
PROMPT = "Please write passphrase"  # the broken scrypt's: see repositories.sh
WORK = "/root/work"
PAYLOAD = bytes(range(256)) * 4096


@pytest.fixture
def guarded(clean: Dom0) -> Iterator[Dom0]:
    """dom0 with our package, the shim, and all triggers."""
    clean.transaction("install", PACKAGE, repositories="lab,own")
    clean.output("shimctl", "install")
    yield clean
    clean.clean()


def test_without_a_trigger_nothing_puts_it_back(clean: Dom0) -> None:
    """So the other tests show what the triggers do; and status tells, and reconcile repairs."""
    clean.lay_down()
    clean.keep_only("none")
    clean.transaction("upgrade", repositories="lab,new")
    assert clean.version("/usr/bin/scrypt") == NEW
    assert clean.scrypt() != clean.shim()
    status = clean.status()
    assert status["healthy"] is False
    assert "shimctl reconcile" in status["problems"][0]
    clean.output("shimctl", "reconcile")
    assert clean.shim_is_in_place(NEW)
    clean.clean()


def test_a_boot_puts_it_back(clean: Dom0) -> None:
    """As after a release upgrade, for which the system runs without us."""
    if not clean.boots:
        pytest.skip("no systemd runs in this dom0")
    clean.lay_down()
    clean.keep_only("boot")
    clean.transaction("upgrade", repositories="lab,new")
    assert clean.scrypt() != clean.shim()
    clean.output("systemctl", "start", "multi-user.target")  # what systemd does at boot
    assert within(SECONDS, lambda: clean.shim_is_in_place(NEW))
    assert clean.status()["last"]["trigger"] == "boot"
    clean.clean()


def encoded(dom0: Dom0, passphrase: bytes) -> bytes:
    """Return what a backup would have of PAYLOAD: `scrypt enc` as qubesd calls it, in dom0."""
    source, target = f"{WORK}/source", f"{WORK}/{MEMBER}"
    dom0.file(target).parent.mkdir(parents=True, exist_ok=True)
    dom0.file(source).write_bytes(PAYLOAD)
    call = Call([*dom0.enter, "/usr/bin/scrypt", "enc", source, target])
    for prompt in (ENTER, CONFIRM):
        call.expect(prompt)
        call.answer(passphrase)
    result = call.finish()
    assert result.status == 0, result.stderr
    return dom0.file(target).read_bytes()


def test_backups_deduplicate_as_before(guarded: Dom0) -> None:
    """The payload is the same bytes at the same place; a backup with another passphrase is not."""
    before = encoded(guarded, line())
    guarded.transaction("upgrade", repositories="lab,new")
    assert within(SECONDS, lambda: guarded.shim_is_in_place(NEW))
    after = encoded(guarded, line())
    assert before[:7] == after[:7] == b"scrypt\x80"
    assert before[HEADER_BYTES:-TRAILER_BYTES] == after[HEADER_BYTES:-TRAILER_BYTES] == PAYLOAD
    ordinary = encoded(guarded, line(b"an ordinary passphrase"))
    assert ordinary[:7] == b"scrypt\x00"
    assert PAYLOAD[:64] not in ordinary


def test_a_scrypt_with_other_prompts_stays_in_front(guarded: Dom0) -> None:
    """The transaction succeeds, scrypt is the package's, and the user learns why."""
    guarded.transaction("upgrade", repositories="lab,broken")
    real = guarded.file("/usr/bin/scrypt").read_bytes()
    assert within(SECONDS, lambda: not guarded.status()["healthy"])
    assert guarded.scrypt() == real
    assert guarded.version("/usr/bin/scrypt") == BROKEN
    guarded.output("rpm", "-V", "scrypt")
    status = guarded.run("shimctl", "status")
    assert status.returncode == 3
    assert PROMPT in status.stdout
    if guarded.boots:
        journal = guarded.output("journalctl", "--priority=warning", "--grep=shimctl")
        assert PROMPT in journal

    guarded.transaction("downgrade", "scrypt", repositories="lab")
    assert within(SECONDS, lambda: guarded.shim_is_in_place(OLD))
    assert guarded.status()["healthy"] is True
