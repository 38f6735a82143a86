# SPDX-License-Identifier: GPL-3.0-or-later
"""A hostile store against upstream's qvm-backup-restore, and against our verify.

What it does is in testing/dom0/hostile_streams.py, where our verify meets all of it without
upstream, too.
"""

import itertools
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.dom0.backup import CHUNK, Backup, outer
from testing.dom0.hostile_streams import IN_LIST, IN_MEMBERS, MIDDLE, XML
from testing.dom0.system import member_list, run_name
from testing.paths import PROJECT
from testing.upstream.dom0 import PASSPHRASE, QUBE, Dom0, Qube, complaints
from testing.upstream.sources import PYTHON

MEMORY = 1 << 30  # bytes of address space for each program; a key derivation may take 128 MiB
COMMAND = PROJECT / "payload/dom0/qubes-dedup-backup"
STORE = "/usr/local/bin/dedup-store"
ALL = {name: case for name, case in (IN_MEMBERS | IN_LIST).items() if "home" not in name}
UNEXPECTED, NOTHING = "Unexpected file in archive", ""
# What upstream lets pass, in --verify-only and in a restore, or says otherwise than by the name.
LETS_PASS = {
    "first chunk dropped": (NOTHING, NOTHING),  # but UNEXPECTED if another qube came before
    "middle chunk dropped": (NOTHING, UNEXPECTED),
    "last chunk dropped": (NOTHING, "not enough data"),
    "firewall dropped": (NOTHING, NOTHING),
    "only volume dropped": (NOTHING, NOTHING),
    "chunk moved": (NOTHING, UNEXPECTED),
    "qube moved": (NOTHING, NOTHING),
    "header doubled": ("Backup header retrieval failed",) * 2,
}


QUBES = {"vm5": "debian", "vm7": "work", "vm8": "personal"}


def noise(path: Path, size: int) -> str:
    """Make an image without holes."""
    path.write_bytes(os.urandom(size))
    return str(path)


def parts(stream: bytes) -> list[tuple[str, bytes]]:
    """Take an archive apart: names and contents of its members."""
    found, start = [], 0
    while start < len(stream):
        at = start + 512 + -(-int(stream[start + 124 : start + 135], 8) // 512) * 512
        size = int(stream[at + 124 : at + 135], 8)
        name = stream[at : at + 100].rstrip(b"\0").decode()
        found.append((name, stream[at + 512 : at + 512 + size]))
        start += -(-(at - start + 512 + size + -size % 512 + 1024) // 10240) * 10240
    return found


def limit_memory() -> None:
    """Give a program and its children little memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


class Target:
    """A dom0 whose qubes have the numbers that hostile_streams.py uses; two backups of them."""

    def __init__(self, dom0: Dom0, folder: Path) -> None:
        """Make the qubes and the backups."""
        self.dom0, self.folder = dom0, folder
        third, fourth, sixth = (Qube(f"fill{number}") for number in (3, 4, 6))
        images = {
            "root": noise(folder / "root", 40_960),
            "private": noise(folder / "small", 4096),
        }
        debian = Qube("debian", "StandaloneVM", volumes=images)
        rules = ["action=accept dsthost=192.0.2.1", "action=drop"]
        private = {"private": noise(folder / "work", 204_800)}
        work = Qube("work", volumes=private, firewall=rules)
        personal = Qube("personal", volumes={"private": noise(folder / "personal", 40_960)})
        dom0.make([third, fourth, debian, sixth, work, personal])
        dom0.chunk_size(CHUNK)
        dom0.start()
        service = dom0.machine.path("/usr/local/etc/qubes-rpc/qubes.VMExec")
        service.write_bytes((PROJECT / "lab/qube/rpc/qubes.VMExec").read_bytes())
        service.chmod(0o755)
        self.one, self.other = (self.backup(name) for name in ("one", "other"))

    def backup(self, name: str) -> Backup:
        """Make a backup with upstream's tool."""
        before = set(self.dom0.ledger())
        self.dom0.backup("debian", "work", "personal", to=self.folder / name)
        (backup_id,) = set(self.dom0.ledger()) - before
        return Backup(backup_id, parts((self.folder / name).read_bytes()))

    def restore(self, stream: bytes, mode: str, *qubes: str) -> tuple[int, str]:
        """Restore from the qube with upstream's tool; return its status and what it complained."""
        self.dom0.machine.path("/srv/stream").write_bytes(stream)
        secret = self.dom0.passphrase_file(PASSPHRASE)
        argv = ("qvm-backup-restore", "-p", secret, "-d", QUBE, "--ignore-size-limit", mode)
        run = self.dom0.machine.run
        done = run(*argv, "cat /srv/stream", *qubes, check=False, preexec_fn=limit_memory)
        return done.returncode, "\n".join(complaints(done))

    def serve(self, stream: bytes, listed: bytes) -> str:
        """Make the qube's store answer with a stream, and the list of one; return the run."""
        run = run_name(self.one.backup_id)
        (self.dom0.machine.path("/srv/get")).write_bytes(stream)
        (self.dom0.machine.path("/srv/show")).write_bytes(member_list(listed, run))
        store = self.dom0.machine.path(STORE)
        store.unlink()
        store.write_text('#!/bin/sh\nexec cat "/srv/$1"\n')
        store.chmod(0o755)
        return run

    def ours(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run qubes-dedup-backup with upstream's client library; return status and report."""
        # -I in its first line would hide upstream's checkout
        start = (
            "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        secret: list[str | Path] = []
        if words[0] == "verify":
            secret = ["--passphrase-file", self.dom0.passphrase_file(PASSPHRASE)]
        command: list[str | Path] = [PYTHON, "-c", start, COMMAND, *words, "--json"]
        done = self.dom0.machine.run(
            *command,
            *("--qube", QUBE, "--repository", "default"),
            *secret,
            check=False,
            preexec_fn=limit_memory,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)

    def verify(self, stream: bytes, member: str, *words: str, listed: bytes) -> None:
        """Our verify must fail and name the member."""
        status, report = self.ours("verify", self.serve(stream, listed), *words)
        assert (status, report["verdict"]) == (1, "wrong"), report
        assert any(member in problem for problem in report["problems"]), report


@pytest.fixture(scope="module")
def target(make_dom0: Callable[[], Dom0], tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The dom0, for all tests here."""
    return Target(make_dom0(), tmp_path_factory.mktemp("hostile"))


def test_honest_store(target: Target) -> None:
    dom0 = target.dom0
    dom0.make_store("borg")
    dom0.backup("debian", "work", "personal", to="dedup-store put", qube=QUBE)
    status, report = target.ours("confirm")
    assert (status, report["verdict"]) == (0, "confirmed"), report
    assert sorted(report["qubes"]) == ["debian", "personal", "work"]
    for words in ((), ("--data",)):
        status, report = target.ours("verify", *words)
        assert (status, report["problems"], report["unchecked"]) == (0, [], [])
    status, report = target.ours("list")
    assert (status, [run["dom0"] for run in report["runs"]]) == (0, ["confirmed"])
    # upstream takes an archive that these tests put together, when nothing is altered in it
    for mode in ("--verify-only", "--rename-conflicting"):
        assert target.restore(target.one.stream(), mode) == (0, "")


def stamps(dom0: Dom0) -> dict[str, str | None]:
    """Return each qube's backup_timestamp, None when it has none."""
    return {name: dom0.properties(name).get("backup_timestamp") for name in dom0.names()}


def test_only_success_is_noted(target: Target) -> None:
    """Upstream sets backup_timestamp of a backup's qubes when it succeeded, and only then."""
    dom0 = target.dom0
    before, qubes = stamps(dom0), ("work", "personal")
    # all was sent and stored, and yet it failed
    failing = "sh -c 'dedup-store put; exit 1'"
    assert dom0.backup(*qubes, to=failing, qube=QUBE, check=False).returncode != 0
    assert dom0.runs()[-1]["status"] == "whole"
    assert stamps(dom0) == before
    for words in ((), ("--succeeded",)):
        status, report = target.ours("confirm", *words)
        assert (status, report["verdict"]) == (1, "not confirmed"), report
        assert "Qubes has not noted that this backup succeeded" in report["problems"][0]

    start = int(time.time())
    dom0.backup(*qubes, to="dedup-store put", qube=QUBE)
    after = stamps(dom0)
    assert {name for name in after if after[name] != before[name]} == set(qubes)
    found = [int(after[name] or 0) for name in qubes]
    assert start <= min(found) <= max(found) <= time.time()
    assert max(found) - min(found) <= 60
    assert dom0.api("dom0", "admin.vm.property.Get", "backup_timestamp").startswith(b"2\0")
    status, report = target.ours("confirm")
    assert (status, report["verdict"]) == (0, "confirmed"), report
    assert dom0.ledger()[report["run"][17:-5]][0]["order"] == max(
        row.get("order") or 0 for rows in dom0.ledger().values() for row in rows
    )


@pytest.mark.parametrize("case", ALL)
def test_whatever_changes_a_member(target: Target, case: str) -> None:
    make, member = ALL[case]
    stream = make(target.one, target.other)
    said = LETS_PASS.get(case, (member, member))
    qube = QUBES.get(member.partition("/")[0], "work")
    for mode, words in zip(("--verify-only", "--rename-conflicting"), said, strict=True):
        status, told = target.restore(stream, mode, qube)
        if not words:
            assert (status, told) == (0, ""), (
                "upstream notices it now: docs/security/threat-model.md"
            )
        elif words.startswith("backup-header"):
            assert "backup-header" in told or "Corrupted backup header" in told
            assert status != 0
        else:
            assert words in told
    honest = target.one.stream()
    target.verify(stream, member, "--data", listed=honest)
    if case in IN_LIST:
        target.verify(stream, member, listed=stream)


def test_a_restore_that_failed_ends_with_success(target: Target) -> None:
    # Not what we want, but what docs/security/threat-model.md says
    for case in ("payload altered", "middle chunk dropped"):
        status, told = target.restore(
            ALL[case][0](target.one, target.other), "--rename-conflicting"
        )
        assert (status, bool(told)) == (0, True)


def test_a_stream_cut_between_members(target: Target) -> None:
    honest, names = target.one.stream(), target.one.names
    ends = list(itertools.accumulate(len(outer(*part)) for part in target.one.parts))
    for end, name in zip(ends, names[1:], strict=False):
        cut = honest[:end]
        status, told = target.restore(cut, "--verify-only")
        # without the first three members there is nothing to begin with
        assert (status == 0 and not told) == (ends.index(end) >= 2), name
        target.verify(cut, name, "--data", listed=honest)
        target.verify(cut, name, listed=cut)


@pytest.mark.parametrize("name", [XML, MIDDLE])
def test_a_stream_cut_inside_a_member(target: Target, name: str) -> None:
    honest = target.one.stream()
    before = itertools.takewhile(lambda part: part[0] != name, target.one.parts)
    cut = honest[: sum(len(outer(*part)) for part in before) + 5000]
    for mode in ("--verify-only", "--rename-conflicting"):
        assert target.restore(cut, mode)[1]
    target.verify(cut, name, "--data", listed=honest)
    target.verify(cut, name, listed=cut)
