# SPDX-License-Identifier: GPL-3.0-or-later
"""The service dedupbackup.Restore, with the lab's tar2qfile and dom0's unpacker behind it."""

import functools
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from testing.paths import LAB
from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import ENCRYPTED, PAYLOAD, Store
from testing.store.memory_engine import split

UNPACKER = LAB / "dom0" / "lib" / "qfile-dom0-unpacker"
HEADER = ["backup-header", "backup-header.hmac"]


class Restored(NamedTuple):
    """What came of a call: exit codes, stderr, and the files in the order in which they came."""

    service: int
    unpacker: int
    errors: str
    files: dict[str, bytes]


@functools.cache
def parts() -> dict[str, bytes]:
    qubes = [
        Qube("one", 7, volumes={"private": archives.noise(17 << 20, 1)}),
        Qube("small", 71, volumes={"private": archives.noise(200_000, 2)}, files={"x": b"<x/>"}),
        Qube("two", 9, volumes={"private": archives.noise(17 << 20, 3)}),
        Qube("dom0", 0),
    ]
    return dict(archives.members(qubes))


@functools.cache
def backup() -> bytes:
    return archives.join(list(parts().items()))


def restore(
    store: Store, argument: str, line: str, caller: str = "dom0", path: str = ""
) -> Restored:
    """Call the service as qvm-backup-restore does, both ways connected."""
    text = (PAYLOAD / "rpc" / "dedupbackup.Restore").read_text()
    service = store.folder / "dedupbackup.Restore"
    service.write_text(text.replace("/usr/lib/qubes-dedup-backup", str(PAYLOAD)))
    service.chmod(0o755)
    variables = store.environment | {"QREXEC_REMOTE_DOMAIN": caller}
    variables["PATH"] = f"{path}{LAB / 'qube' / 'lib'}:{variables['PATH']}"
    out = store.folder / f"out{len(list(store.folder.iterdir()))}"
    command = [UNPACKER, str(os.getuid()), out, "-v", "-w", "1"]
    limits = {"UPDATES_MAX_BYTES": "0", "UPDATES_MAX_FILES": "0"}
    with subprocess.Popen(
        [service, argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
    ) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        assert sender.stderr is not None
        sender.stdin.write(f"{line}\n".encode())
        sender.stdin.flush()
        receiver = subprocess.Popen(
            command,
            stdin=sender.stdout,
            stdout=sender.stdin,
            stderr=subprocess.PIPE,
            env=os.environ | limits,
        )
        sender.stdin.close()
        sender.stdout.close()
        names = receiver.communicate()[1].decode().splitlines()
        errors = sender.stderr.read().decode()
    files = {name: (out / name).read_bytes() for name in names if (out / name).is_file()}
    return Restored(sender.returncode, receiver.returncode, errors, files)


@pytest.mark.parametrize("beginnings", [["vm7/"], ["vm9/", "dom0-home/"], ["vm71/", "qubes.xml"]])
def test_wanted_members_have_their_exact_bytes(beginnings: list[str]) -> None:
    found = split(backup())
    slices = [
        backup()[member.offset : member.offset + member.length]
        for member in found.manifest.members
        if member.name and member.name.startswith(tuple(beginnings))
    ]
    assert slices
    assert found.join(beginnings) == b"".join(slices)


def test_members_on_the_command_line(borg_store: Store) -> None:
    borg_store.put(backup())
    result = borg_store.run("get", "latest", "--members", "vm71/", "backup-header")
    assert result.returncode == 0, result.stderr
    wanted = [item for item in parts().items() if item[0].startswith(("vm71/", "backup-header"))]
    listing = subprocess.run(
        ["tar", "-it"], input=result.stdout, capture_output=True, check=True, text=False
    ).stdout.decode()
    assert listing.split() == [name for name, _ in wanted]


@pytest.mark.sampled(2)
@ENCRYPTED
def test_what_dom0_asks_for(store: Store, tmp_path: Path) -> None:
    """As the official restore reads: header, qubes.xml, then the qubes; no object but theirs."""
    run = store.put(backup())["run"]
    log = tmp_path / "calls"
    counter = tmp_path / "bin" / store.engine
    counter.parent.mkdir()
    real = os.environ["PATH"]
    counter.write_text(f'#!/bin/sh\necho "$*" >>{log}\nPATH={real} exec {store.engine} "$@"\n')
    counter.chmod(0o755)

    def ask(beginnings: list[str], argument: str, objects: int) -> None:
        log.unlink(missing_ok=True)
        got = restore(store, argument, " ".join(beginnings), path=f"{counter.parent}:")
        assert (got.service, got.unpacker) == (0, 0)
        assert got.errors in ("", "EOF\n")  # tar2qfile's, at the end of its input
        wanted = {n: d for n, d in parts().items() if n.startswith(tuple(beginnings))}
        assert wanted
        assert got.files == wanted
        calls = log.read_text().splitlines()
        if store.engine == "restic":
            assert sum(" mount " in call for call in calls) == min(objects, 1)
            assert not any("/payload" in call for call in calls)
        else:
            read = [call for call in calls if ".payload" in call]
            assert len(read) == (1 if objects else 0)
            assert sum(call.count(" 00000") for call in read) == objects

    ask(HEADER, "latest", 0)
    ask(["qubes.xml.000.enc"], "default+latest", 0)
    ask(["vm9/"], run, 1)
    ask(["vm7/", "dom0-home/user"], f"default+{run}", 2)


def test_damage_is_an_error_in_dom0(restic_store: Store) -> None:
    """The official tool looks at the unpacker's exit code, not at the service's."""
    restic_store.put(backup())
    restic_store.native("forget", "-q", *payload_snapshots(restic_store))
    assert restore(restic_store, "latest", " ".join(HEADER)).unpacker == 0
    got = restore(restic_store, "latest", "vm7/ vm71/ vm9/ dom0-home/user")
    assert got.service == 1
    assert got.unpacker != 0
    assert "(reading the payload of " in got.errors
    assert got.errors.count("\n") == 1


def payload_snapshots(store: Store) -> list[str]:
    text = store.native("snapshots", "--compact", "--path", "/payload", "--json").decode()
    return [item.split('"')[0] for item in text.split('"id":"')[1:]]


def test_engine_that_breaks_off(borg_store: Store, tmp_path: Path) -> None:
    """At the end of a member, where a stream that ends looks whole."""
    borg_store.put(backup())
    program = tmp_path / "bin" / "borg"
    program.parent.mkdir()
    real = os.environ["PATH"]
    program.write_text(
        f"#!/bin/sh\nPATH={real}\n"
        'case "$*" in *payload*) borg "$@" | head -c 17000000; exit 2;; esac\n'
        'exec borg "$@"\n'
    )
    program.chmod(0o755)
    got = restore(borg_store, "latest", "vm7/ vm9/", path=f"{program.parent}:")
    assert got.service == 1
    assert got.unpacker != 0


@pytest.mark.parametrize(
    "argument", ["", "other", "latest+default", "default+", "../x+latest", "-h"]
)
def test_runs_that_are_none(borg_store: Store, argument: str) -> None:
    got = restore(borg_store, argument, "vm7/")
    assert got.service in (2, 4)
    assert got.unpacker != 0
    assert got.files == {}
    assert "Traceback" not in got.errors


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "vm7/ ",
        "../x",
        "vm7/../vm9/",
        "-x",
        "/etc/passwd",
        "vm7\t",
        "a" * 300,
        "x " * 40_000,
    ],
)
def test_lines_that_are_none(borg_store: Store, line: str) -> None:
    got = restore(borg_store, "latest", line)
    assert got.service == 2
    assert got.unpacker != 0
    assert got.files == {}
    assert "Traceback" not in got.errors


def test_only_dom0_may_call(borg_store: Store) -> None:
    borg_store.put(backup())
    got = restore(borg_store, "latest", "vm7/", caller="work")
    assert got.service == 2
    assert got.files == {}
    assert "only dom0 may call" in got.errors
