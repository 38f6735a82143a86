# SPDX-License-Identifier: GPL-3.0-or-later
"""A hostile store: whatever it does to a backup, verify names the member.

tests/upstream does the same to the official restore.
"""

import contextlib
import itertools
import json
import os

import pytest

from testing.dom0.backup import Backup, join, outer
from testing.dom0.hostile_streams import (
    FIRST,
    HMAC,
    IN_LIST,
    IN_MEMBERS,
    LEDGER_ONLY,
    MIDDLE,
    XML,
    Case,
    altered,
    costly,
    replace,
    swapped,
)
from testing.dom0.system import Dom0, member_list, run_name
from testing.shim.driver import MEMBER, SECRET

ALL = IN_MEMBERS | IN_LIST


def names(dom0: Dom0, member: str, *words: str) -> None:
    """Verify must fail and name the member."""
    result = dom0.json("verify", dom0.run, *words, code=1)
    assert result["verdict"] == "wrong"
    assert any(member in text for text in result["problems"]), result["problems"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", ALL)
def test_data_with_the_ledger(dom0: Dom0, backup: Backup, other_backup: Backup, case: str) -> None:
    make, member = ALL[case]
    stream = make(backup, other_backup)
    assert stream != backup.stream()
    # it lies: the list is that of the real backup
    dom0.serve(stream, listed=backup.stream(), run=run_name(backup.backup_id))
    names(dom0, member, "--data")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", sorted(IN_LIST.keys() - LEDGER_ONLY))
def test_data_without_the_ledger(
    dom0: Dom0, backup: Backup, other_backup: Backup, case: str
) -> None:
    make, member = IN_LIST[case]
    # it lies better: the list fits to the stream
    dom0.serve(make(backup, other_backup), run=run_name(backup.backup_id))
    with dom0.without_ledger():
        names(dom0, member, "--data")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", IN_LIST)
def test_list_with_the_ledger(dom0: Dom0, backup: Backup, other_backup: Backup, case: str) -> None:
    make, member = IN_LIST[case]
    dom0.serve(make(backup, other_backup), run=run_name(backup.backup_id))
    names(dom0, member)
    assert dom0.json("confirm", dom0.run, code=1)["verdict"] == "not confirmed"
    assert not dom0.confirmed.exists()


@pytest.mark.sampled(4)
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


def encrypted(dom0: Dom0, backup: Backup) -> Backup:
    """The same backup, really encrypted, as scrypt does it under an ordinary passphrase."""
    parts = [backup.parts[0]]
    for name, data in backup.parts[1:]:
        member = f"{backup.backup_id}!{name.removesuffix('.enc')}!".encode()
        dom0.root.real_enc(data[96:-32], (b"backup-header!" if name == HMAC else member) + SECRET)
        parts.append((name, (dom0.root.work / MEMBER).read_bytes()))
    return Backup(backup.backup_id, parts)


def test_really_encrypted(dom0: Dom0, backup: Backup) -> None:
    run, real = run_name(backup.backup_id), encrypted(dom0, backup)
    dom0.serve(real.stream(), run=run)
    for words in ((), ("--data",)):  # the ledger knows better
        names(dom0, HMAC, *words)
    with dom0.without_ledger():
        for words in ((), ("--data",)):
            result = dom0.json("verify", run, *words, code=3)
            assert any("inside really encrypted files" in text for text in result["unchecked"])
            assert any("qubes.xml can't be read" in text for text in result["unchecked"])
        wrong = ("--data", "--passphrase-file", "-")
        done = dom0("verify", run, *wrong, stdin=b"dedup:but-another-one-than-it-was\n")
        assert (done.returncode, b"the passphrase is wrong" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("change", "member"),
    [
        (altered(MIDDLE, 50_000), MIDDLE),
        (altered(MIDDLE, -1), MIDDLE),
        (altered(HMAC, 70), HMAC),
        (altered(HMAC, 100), HMAC),
        (altered(XML, -40), XML),
        (swapped(FIRST, MIDDLE), FIRST),
        (costly(MIDDLE, 21), MIDDLE),
        (costly(MIDDLE, 255), MIDDLE),
        (costly(MIDDLE, 0), MIDDLE),
    ],
)
def test_really_encrypted_and_altered(
    dom0: Dom0, backup: Backup, change: Case, member: str
) -> None:
    run, real = run_name(backup.backup_id), encrypted(dom0, backup)
    dom0.serve(change(real, real), listed=real.stream(), run=run)
    with dom0.without_ledger():
        names(dom0, member, "--data")


def garbage(start: bytes) -> Case:
    """Keep the header, which is in clear; all else is made up, but for how it starts."""
    return lambda one, _: join(
        [one.parts[0], *((n, start + os.urandom(len(d) - len(start))) for n, d in one.parts[1:])]
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no ledger"])
@pytest.mark.parametrize("words", [(), ("--data",)], ids=["list", "data"])
@pytest.mark.parametrize("start", [b"scrypt\x55", b"scrypt\0", b""])
def test_garbage_is_wrong(
    dom0: Dom0, backup: Backup, start: bytes, words: tuple[str, ...], ledger: bool
) -> None:
    run, made = run_name(backup.backup_id), garbage(start)(backup, backup)
    for listed in (made, backup.stream()):  # the list fits to it, or is that of the real backup
        dom0.serve(made, listed=listed, run=run)
        with contextlib.nullcontext() if ledger else dom0.without_ledger():
            names(dom0, XML if ledger and not words else HMAC, *words)


def test_the_beginning_is_not_what_the_list_says(dom0: Dom0, backup: Backup) -> None:
    unknown = b"scrypt\x55" + backup.member(XML)[7:]
    cases = {XML: replace(backup.parts, XML, unknown), HMAC: backup.parts[:1] + backup.parts[2:]}
    for member, parts in cases.items():
        dom0.serve(join(parts), listed=backup.stream(), run=run_name(backup.backup_id))
        with dom0.without_ledger():
            names(dom0, member)


@pytest.mark.parametrize("word", ["unknown", "sealed", "scrypt"])
def test_what_the_store_calls_the_containers(dom0: Dom0, backup: Backup, word: str) -> None:
    """Only what dom0 knows is right, whatever dedup-store calls the others."""
    rows = [json.loads(row) for row in member_list(backup.stream(), dom0.run).splitlines()]
    # it lies about the length, too: that of other containers is known from outside alone
    rows[2:] = [
        row | {"container": word, "payload_length": row["payload_length"] + 128} for row in rows[2:]
    ]
    dom0.answer(backup.stream(), b"".join(json.dumps(row).encode() + b"\n" for row in rows), b"")
    names(dom0, HMAC)
    assert dom0.json("confirm", dom0.run, code=1)["verdict"] == "not confirmed"
    assert not dom0.confirmed.exists()
