# SPDX-License-Identifier: GPL-3.0-or-later
"""A hostile store: whatever it does to a backup, verify names the member.

tests/upstream does the same to the official restore.
"""

import itertools

import pytest
from dom0_system import Dom0, run_name
from hostile_streams import IN_LIST, IN_MEMBERS, LEDGER_ONLY, MIDDLE, XML
from real_backup import Backup, join, outer

ALL = IN_MEMBERS | IN_LIST


def names(dom0: Dom0, member: str, *words: str) -> None:
    """Verify must fail and name the member."""
    result = dom0.json("verify", dom0.run, *words, code=1)
    assert result["verdict"] == "wrong"
    assert any(member in text for text in result["problems"]), result["problems"]


@pytest.mark.parametrize("case", ALL)
def test_data_with_the_ledger(dom0: Dom0, backup: Backup, other_backup: Backup, case: str) -> None:
    make, member = ALL[case]
    stream = make(backup, other_backup)
    assert stream != backup.stream()
    # it lies: the list is that of the real backup
    dom0.serve(stream, listed=backup.stream(), run=run_name(backup.backup_id))
    names(dom0, member, "--data")


@pytest.mark.parametrize("case", sorted(IN_LIST.keys() - LEDGER_ONLY))
def test_data_without_the_ledger(
    dom0: Dom0, backup: Backup, other_backup: Backup, case: str
) -> None:
    make, member = IN_LIST[case]
    # it lies better: the list fits to the stream
    dom0.serve(make(backup, other_backup), run=run_name(backup.backup_id))
    with dom0.without_ledger():
        names(dom0, member, "--data")


@pytest.mark.parametrize("case", IN_LIST)
def test_list_with_the_ledger(dom0: Dom0, backup: Backup, other_backup: Backup, case: str) -> None:
    make, member = IN_LIST[case]
    dom0.serve(make(backup, other_backup), run=run_name(backup.backup_id))
    names(dom0, member)
    assert dom0.json("confirm", dom0.run, code=1)["verdict"] == "not confirmed"
    assert not dom0.confirmed.exists()


@pytest.mark.parametrize("case", sorted(IN_LIST.keys() - LEDGER_ONLY))
def test_list_without_the_ledger(
    dom0: Dom0, backup: Backup, other_backup: Backup, case: str
) -> None:
    make, member = IN_LIST[case]
    dom0.serve(make(backup, other_backup), run=run_name(backup.backup_id))
    with dom0.without_ledger():
        names(dom0, member)


@pytest.mark.parametrize("case", sorted(LEDGER_ONLY))
def test_without_the_ledger_it_says_what_it_cannot_tell(
    dom0: Dom0, backup: Backup, other_backup: Backup, case: str
) -> None:
    dom0.serve(IN_LIST[case][0](backup, other_backup), run=run_name(backup.backup_id))
    with dom0.without_ledger():
        result = dom0.json("verify", dom0.run, "--data", code=3)
    assert result["verdict"] == "nothing wrong found"
    assert "firewall rules" in result["unchecked"][0]


def boundaries(backup: Backup) -> list[tuple[int, str]]:
    """Where the members begin, each with the name of what would be missing first."""
    ends = itertools.accumulate((len(outer(*part)) for part in backup.parts), initial=0)
    return list(zip(ends, backup.names, strict=False))


def inside(backup: Backup, name: str) -> int:
    """Where a member's data are half through."""
    starts = {found: start for start, found in boundaries(backup)}
    return starts[name] + len(backup.member(name)) // 2


def test_cut_stream(dom0: Dom0, backup: Backup) -> None:
    stream, run = backup.stream(), run_name(backup.backup_id)
    places = boundaries(backup) + [(inside(backup, name), name) for name in (XML, MIDDLE)]
    for length, member in [*places, (len(stream) - 1, backup.names[-1])]:
        dom0.serve(stream[:length], listed=stream, run=run)
        names(dom0, member, "--data")


def test_cut_list(dom0: Dom0, backup: Backup) -> None:
    stream = backup.stream()
    for length, member in [*boundaries(backup), (inside(backup, MIDDLE), MIDDLE)]:
        dom0.serve(stream[:length], run=run_name(backup.backup_id))
        names(dom0, member)


def test_another_backup_in_its_place(dom0: Dom0, backup: Backup, other_backup: Backup) -> None:
    dom0.serve(other_backup.stream(), run=run_name(backup.backup_id))
    names(dom0, "backup-header.hmac")
    names(dom0, "backup-header: it is of backup", "--data")
    with dom0.without_ledger():
        names(dom0, "backup-header: it is of backup")


def test_wrong_passphrase(dom0: Dom0) -> None:
    wrong = ("--data", "--passphrase-file", "-")
    done = dom0("verify", dom0.run, *wrong, stdin=b"dedup:but-another-one-than-it-was\n")
    assert done.returncode == 1
    assert b"backup-header.hmac: the passphrase is wrong" in done.stdout


def test_really_encrypted_is_never_called_checked(dom0: Dom0, backup: Backup) -> None:
    parts = [backup.parts[0]]
    for name, data in backup.parts[1:]:
        dom0.root.real_enc(data[96:-32], b"some line", "x")
        parts.append((name, (dom0.root.work / "x").read_bytes()))
    dom0.serve(join(parts), run=run_name(backup.backup_id))
    names(dom0, "backup-header.hmac", "--data")  # the ledger knows better
    with dom0.without_ledger():
        for words in ((), ("--data",)):
            result = dom0.json("verify", dom0.run, *words, code=3)
            assert any("really encrypted" in text for text in result["unchecked"])
            assert any("qubes.xml can't be read" in text for text in result["unchecked"])
