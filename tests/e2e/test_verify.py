# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's own judgement: confirm, verify and list, after the official backup."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qubeslab.session import Session

from testing.e2e.lab import BACKUP_QUBE

LEDGERS = "/var/lib/qubes-dedup-backup/ledger"
# What a hostile backup qube does to the stream: alters a byte of a member, or leaves it out.
FILTER = """
import sys
what, name = sys.argv[1], sys.argv[2].encode()
data = sys.stdin.buffer.read()
start = 0
while start < len(data):
    at = start + 512 + -(-int(data[start + 124 : start + 135], 8) // 512) * 512
    size = int(data[at + 124 : at + 135], 8)
    end = start + -(-(at - start + 512 + size + -size % 512 + 1024) // 10240) * 10240
    one = bytearray(data[start:end])
    if data[at : at + 100].strip(b"\\0") == name:
        one[at - start + 512 + size // 2] ^= 1
        one = one if what == "alter" else b""
    sys.stdout.buffer.write(one)
    start = end
"""
FAKE = """#!/bin/sh
if [ "$1" = get ]; then /usr/bin/dedup-store "$@" | python3 /home/user/filter.py {} {}
else exec /usr/bin/dedup-store "$@"; fi
"""


def command(lab: Session, *words: str, code: int) -> dict[str, Any]:
    """Run the command, expect an exit code, return what it reports."""
    argv = ("sudo", "qubes-dedup-backup", *words, "--profile", "dedup-restic", "--json")
    done = lab.dom0(*argv, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def run(lab: Session) -> str:
    """A confirmed run."""
    lab.dom0("qvm-firewall", "work", "add", "drop", "proto=icmp")  # so that there is such a member
    lab.dom0("qvm-backup", "--yes", "--profile", "dedup-restic")
    confirmed = command(lab, "confirm", code=0)
    assert confirmed["verdict"] == "confirmed"
    assert sorted(confirmed["qubes"]) == ["personal", "work"]
    return str(confirmed["run"])


@pytest.fixture
def hostile(lab: Session) -> Iterator[Callable[[str, str], None]]:
    """Give what makes the backup qube alter (or drop) a member of all that it gives back."""
    program = "/usr/local/bin/dedup-store"

    def become(what: str, member: str) -> None:
        lab.run(BACKUP_QUBE, "tee", "/home/user/filter.py", stdin=FILTER.encode())
        fake = FAKE.format(what, member).encode()
        lab.run(BACKUP_QUBE, "tee", program, stdin=fake, user="root")
        lab.run(BACKUP_QUBE, "chmod", "755", program, user="root")

    yield become
    lab.run(BACKUP_QUBE, "rm", "-f", program, user="root")


def members(lab: Session, run: str) -> list[str]:
    show = ("dedup-store", "show", run, "--repository", "restic", "--json")
    return [str(m["name"]) for m in json.loads(lab.run(BACKUP_QUBE, *show).stdout)["members"]]


def test_a_confirmed_run_is_right(lab: Session, run: str) -> None:
    for words in ((), ("--data",)):
        report = command(lab, "verify", *words, code=0)
        assert (report["run"], report["problems"], report["unchecked"]) == (run, [], [])
    listed = {row["run"]: row for row in command(lab, "list", code=0)["runs"]}
    assert (listed[run]["dom0"], listed[run]["store"]) == ("confirmed", "whole")
    assert run in lab.dom0("sudo", "qubes-dedup-backup", "list", "--profile", "dedup-restic").stdout


@pytest.mark.parametrize("what", ["alter", "drop"])
def test_hostile_backup_qube(
    lab: Session, run: str, hostile: Callable[[str, str], None], what: str
) -> None:
    names = members(lab, run)
    private, firewall = (next(n for n in names if part in n) for part in ("private", "firewall"))
    for member in (private, firewall, "qubes.xml.000.enc"):
        hostile(what, member)
        report = command(lab, "verify", "--data", code=1)
        assert any(member in text for text in report["problems"]), report


def test_member_missing_in_the_store(
    lab: Session, run: str, hostile: Callable[[str, str], None]
) -> None:
    member = next(name for name in members(lab, run) if "firewall" in name)
    hostile("drop", member)
    put = f"dedup-store get {run} --repository restic | dedup-store put --repository restic --json"
    partial = json.loads(lab.run(BACKUP_QUBE, "sh", "-c", put, check=False).stdout)["run"]
    for command_name in ("verify", "confirm"):
        report = command(lab, command_name, partial, code=1)
        assert any(member in text for text in report["problems"]), report
    listed = {row["run"]: row["dom0"] for row in command(lab, "list", code=0)["runs"]}
    assert (listed[run], listed[partial]) == ("confirmed", "unconfirmed")


def test_without_a_ledger(lab: Session, run: str) -> None:
    lab.dom0("sudo", "mv", LEDGERS, LEDGERS + ".away")
    try:
        report = command(lab, "verify", run, "--data", code=3)
    finally:
        lab.dom0("sudo", "mv", LEDGERS + ".away", LEDGERS)
    assert (report["problems"], sorted(report["qubes"])) == ([], ["personal", "work"])
    assert "firewall" in report["unchecked"][0]


def test_only_root_can_ask(lab: Session) -> None:
    done = lab.dom0("qubes-dedup-backup", "list", check=False)
    assert (done.returncode, "use sudo" in done.stderr) == (2, True)
