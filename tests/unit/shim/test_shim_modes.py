# SPDX-License-Identifier: GPL-3.0-or-later
"""The shim's modes, and a config that is broken."""

import subprocess

import pytest

from testing.shim.driver import BACKUP, ENTER, MEMBER, Call, Root, line

ORDINARY = b"an ordinary one"
NOT_VALID = "Input is not valid scrypt-encrypted block"


@pytest.mark.parametrize("user", [ORDINARY, b"dedup:short"])
def test_mode_that_wrote_in_clear_counts_as_off_and_is_warned_about(
    root: Root, user: bytes
) -> None:
    """An ordinary passphrase must never send anything in clear, whatever the config says."""
    root.mode("mode = plain\n")
    with root.journal() as logged:
        call = Call([root.scrypt, "enc", "-", root.work / MEMBER], stdin=subprocess.PIPE)
        call.expect(ENTER)
        assert root.becomes_real(call) == ["enc", "-", str(root.work / MEMBER)]
        [text] = logged()
        assert str(root.config) in text
        assert "shimctl status" in text
    (root.work / MEMBER).write_bytes(b"put there by the backup qube")
    for passphrase in (line(user), line(), line(ORDINARY, "other"), ORDINARY):
        result = root.dec(passphrase)
        assert (result.status, result.stderr) == (1, f"scrypt: {NOT_VALID}\n".encode())
    assert root.files() == {MEMBER}


def test_off_mode_makes_no_container_but_reads_them(root: Root) -> None:
    root.enc(b"some data", line())
    root.mode("mode = off\n")
    call = Call([root.scrypt, "enc", "-", root.work / "x.000.enc"], stdin=subprocess.PIPE)
    call.expect(ENTER)
    assert root.becomes_real(call) == ["enc", "-", str(root.work / "x.000.enc")]
    assert root.dec(line()).status == 0
    assert (root.work / "out").read_bytes() == b"some data"


@pytest.mark.parametrize(
    "config",
    [
        *("mode = authentic\n", "off\n", "mode = authenticated\nmode = off\n", "mode\n", "x = y\n"),
        *("mode = plain\n", "\xff"),
    ],
)
def test_broken_config_is_safe_and_warned_about(root: Root, config: str) -> None:
    root.config.write_text(config, encoding="latin-1")
    with root.journal() as logged:
        call = Call([root.scrypt, "enc", "-", root.work / MEMBER], stdin=subprocess.PIPE)
        call.expect(ENTER)
        root.becomes_real(call)
        [text] = logged()
        assert str(root.config) in text
        (root.work / MEMBER).write_bytes(b"in clear")
        assert root.dec(line(ORDINARY)).status == 1


@pytest.mark.parametrize("config", ["", "# only this\n", "\n mode=authenticated # x\n", None])
def test_default_mode_is_authenticated(root: Root, config: str | None) -> None:
    if config is not None:
        root.mode(config)
    with root.journal() as logged:
        assert root.enc(b"some data", line()).status == 0
        assert logged() == []
    assert (root.work / MEMBER).read_bytes().startswith(b"scrypt\x80")
    assert [record["member"] for record in root.ledger(BACKUP)] == [MEMBER]
