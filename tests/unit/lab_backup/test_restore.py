# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups made by qvm-backup come back by qvm-backup-restore; damaged ones as in upstream."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from qubesadmin.firewall import Rule
from qubesadmin.vm import QubesVM

from testing.lab.system import MIB, System, members, plain, sealed, write_archive

# As file systems have it: some zeros in each block, so the archive is smaller than the disk usage.
DATA = (os.urandom(3000) + bytes(1096)) * 700 + bytes(2 * MIB)

Content = list[tuple[str, bytes]]


def same(one: bytes, other: bytes) -> bool:
    """Compare large data without pytest printing it."""
    return hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


def settings(qube: QubesVM) -> dict[str, object]:
    """Return what a restore must bring back."""
    return {
        "class": qube.klass,
        "label": str(qube.label),
        "template": str(qube.template),
        "memory": qube.memory,
        "autostart": qube.autostart,
        "features": dict(qube.features.items()),
        "tags": sorted(qube.tags),
        "firewall": [rule.rule for rule in qube.firewall.rules],
        "notes": qube.get_notes(),
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves its archive for the others: each has the same qubes."""
    return tmp_path_factory.mktemp("stored") / "archive"


@pytest.fixture
def work(system: System, stored: Path) -> QubesVM:
    """A qube `work` with data and settings, behind a qube `net`; both are in the archive."""
    system.add_qube("net", provides_network=True)
    work = system.add_qube("work", DATA, netvm="net", memory=777, autostart=True)
    work.label = "blue"
    work.features["empty"] = ""
    work.features["menu-items"] = "a b"
    work.tags.add("mine")
    work.firewall.rules = [
        Rule("action=accept dst4=10.1.2.0/24 proto=tcp dstports=443-443"),
        Rule("action=accept dsthost=example.com proto=tcp comment=web server"),
        Rule("action=drop"),
    ]
    work.set_notes("several\nlines")
    system.profile()
    if not stored.exists():
        system.backup()
        shutil.copy(system.archive, stored)
    shutil.copy(stored, system.archive)
    return work


@pytest.fixture
def source(system: System) -> list[str]:
    """The options for the archive in the backup qube."""
    return ["-d", "backup", f"cat '{system.archive}'"]


def test_all_qubes_under_new_names(system: System, work: QubesVM, source: list[str]) -> None:
    done = system.restore("--rename-conflicting", *source)
    assert done.returncode == 0, done.stderr
    assert " <-- Will be renamed to 'work-1'" in done.stdout
    new = system.app.domains["work-1"]
    assert settings(new) == settings(work)
    assert str(new.netvm) == "net-1"
    assert new.property_is_default("backup_timestamp"), "it was set after the backup"
    assert same(system.data("work-1"), DATA)
    assert same(system.data("net-1"), bytes(MIB))
    assert done.stderr.splitlines()[-2:] == [
        "qubesadmin.backup: -> Done.",
        "qubesadmin.backup: -> Please install updates for all the restored templates.",
    ]
    assert not list((system.dom0 / "QubesIncoming/backup#restore").iterdir())
    assert system.restore("--rename-conflicting", *source, "work").returncode == 0
    assert "work-2" in system.app.domains
    assert "net-2" not in system.app.domains


def test_one_qube_after_it_was_removed(system: System, work: QubesVM, source: list[str]) -> None:
    before = settings(work)
    del system.app.domains["work"]
    done = system.restore("--skip-conflicting", *source)
    assert done.returncode == 0, done.stderr
    assert "A VM with the same name already exists on the host!" in done.stdout
    assert settings(system.app.domains["work"]) == before
    assert str(system.app.domains["work"].netvm) == "net"
    assert same(system.data("work"), DATA)
    done = system.restore(*source)
    assert done.returncode == 1
    assert "Remove VMs with conflicting names from the host before proceeding." in done.stderr


def test_sources(system: System, work: QubesVM) -> None:
    """A file in dom0, a file in the qube, and a service that gets only the line of names."""
    system.lab.service(
        "backup",
        "lab.Fetch",
        f'read -r names\ntest "$1" = arg && exec tar2qfile {system.archive} $names',
    )
    for source in (
        [str(system.archive)],
        ["-d", "backup", str(system.archive)],
        ["-d", "backup", "--location-is-service", "lab.Fetch+arg"],
    ):
        done = system.restore("--verify-only", *source)
        assert done.returncode == 0, (source, done.stderr)
        assert "qubesadmin.backup: -> Verifying work..." in done.stderr
    done = system.restore("--rename-conflicting", str(system.archive), work.name)
    assert (done.returncode, same(system.data("work-1"), DATA)) == (0, True)
    assert len(system.app.domains.keys()) == 6, "verifying creates nothing"


def test_the_source_is_read_three_times(system: System, work: QubesVM) -> None:
    log = system.state / "reads"
    system.program("fetch", f'echo begin >>{log}; cat "$1" && echo all >>{log}')
    done = system.restore("--verify-only", "-d", "backup", f"fetch {system.archive}")
    assert done.returncode == 0
    assert f"-> Verifying {work.name}" in done.stderr
    lines = log.read_text().split()
    assert lines.count("begin") == 3
    assert lines[:2] == ["begin", "all"], "the header costs a full read"


def test_a_wrong_passphrase_is_seen_at_the_first_read(
    system: System, work: QubesVM, source: list[str]
) -> None:
    done = system.restore("--verify-only", *source, passphrase="wrong")  # noqa: S106
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "qvm-backup-restore: error: Corrupted backup header (hmac verification failed). "
        "Is the password correct?"
    )
    assert work.name in system.app.domains


def test_compressed_backup(system: System, work: QubesVM, source: list[str]) -> None:
    system.profile(compression=True)
    system.backup()
    assert len(members(system.archive)[f"vm{work.qid}/private.img.000.enc"]) < MIB
    done = system.restore("--rename-conflicting", *source, "work")
    assert done.returncode == 0, done.stderr
    assert same(system.data("work-1"), DATA)


def test_template_first_and_its_root(system: System, source: list[str]) -> None:
    system.add_qube("work")
    root = system.state / "qubes/vm-templates/debian-13-minimal/root.img"
    root.write_bytes(DATA)
    system.profile(include=["work", "@type:TemplateVM"], exclude=[])
    system.backup()
    done = system.restore("--rename-conflicting", *source)
    assert done.returncode == 0, done.stderr
    restored = [line for line in done.stderr.splitlines() if "-> Restoring" in line]
    assert [line.split()[-1] for line in restored] == ["debian-13-minimal...", "work..."]
    assert str(system.app.domains["work-1"].template) == "debian-13-minimal-1"
    copy = system.state / "qubes/vm-templates/debian-13-minimal-1/root.img"
    assert same(copy.read_bytes(), DATA)


def test_missing_template_and_netvm(system: System, work: QubesVM, source: list[str]) -> None:
    del system.app.domains[work.name]
    del system.app.domains["net"]
    done = system.restore("-x", "net", *source)
    assert done.returncode == 1
    assert "No matching netvm on the host or in the backup found!" in done.stdout
    assert "--skip-broken or --ignore-missing" in done.stderr
    assert system.restore("-x", "net", "--skip-broken", *source).returncode == 0
    assert "work" not in system.app.domains
    assert system.restore("-x", "net", "--ignore-missing", *source).returncode == 0
    assert system.app.domains["work"].property_is_default("netvm")


def pieces(system: System, qube: QubesVM) -> tuple[Content, Content, str]:
    """Cut a qube's volume into several small chunks, as a large volume has them.

    Returns:
        All other members, the chunks, and the backup's id.
    """
    content = members(system.archive)
    run = content["backup-header"].decode().split("backup-id=")[1].strip()
    volume = f"vm{qube.qid}/private.img"
    clear = plain(f"{volume}.000.enc", content.pop(f"{volume}.000.enc"), run)
    step = len(clear) // 4 + 1
    chunks = []
    for number, start in enumerate(range(0, len(clear), step)):
        name = f"{volume}.{number:03d}.enc"
        chunks.append((name, sealed(name, clear[start : start + step], run)))
    return list(content.items()), chunks, run


def test_a_volume_that_gnu_tar_archived(system: System, work: QubesVM, source: list[str]) -> None:
    """As upstream does on pools of files: the old sparse format, padded to 10240 bytes."""
    content = members(system.archive)
    run = content["backup-header"].decode().split("backup-id=")[1].strip()
    name = f"vm{work.qid}/private.img"
    folder = system.state / "files"
    folder.mkdir()
    (folder / "private.img").write_bytes(DATA)
    subprocess.run(["fallocate", "--dig-holes", folder / "private.img"], check=True)
    command = ["tar", "-Pc", "--sparse", "-C", folder, "--dereference"]
    command += [f"--xform=s:^private.img:vm{work.qid}/\\0:", "private.img"]
    inner = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(inner) < len(DATA)
    parts = [inner[: len(inner) // 2], inner[len(inner) // 2 :]]
    del content[f"{name}.000.enc"]
    chunks = [
        (member, sealed(member, part, run))
        for member, part in ((f"{name}.{n:03d}.enc", part) for n, part in enumerate(parts))
    ]
    write_archive(system.archive, [*content.items(), *chunks])
    # The zeros inside of blocks aren't holes, so it is longer than the replaced archive was.
    done = system.restore("--rename-conflicting", "--ignore-size-limit", *source, "work")
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr
    assert same(system.data("work-1"), DATA)


def swapped(chunks: Content) -> Content:
    return [chunks[0], chunks[2], chunks[1], chunks[3]]


def flipped(chunks: Content) -> Content:
    name, data = chunks[1]
    return [chunks[0], (name, data[:-1] + bytes([data[-1] ^ 1])), *chunks[2:]]


# What a restore of a damaged volume says. As in upstream, each ends with `-> Done.` and exit code
# 0, and leaves the qube without its data.
DAMAGES: dict[str, tuple[Callable[[Content], Content], str]] = {
    "middle chunk missing": (
        lambda chunks: [chunks[0], *chunks[2:]],
        "qubesadmin.backup.extract: Unexpected file in archive: {0}.002, expected {0}.001",
    ),
    "last chunk missing": (
        lambda chunks: chunks[:3],
        "Failed to restore volume private (size 4964352) of VM work-1: Data import failed: "
        "not enough data",
    ),
    "chunks swapped": (
        swapped,
        "qubesadmin.backup.extract: Unexpected file in archive: {0}.002, expected {0}.001",
    ),
    "all chunks missing": (lambda _: [], ""),
    "byte flipped": (
        flipped,
        "qubesadmin.backup: Error extracting data: failed to decrypt {0}.001",
    ),
}


def test_damaged_volumes(system: System, work: QubesVM) -> None:
    others, chunks, _ = pieces(system, work)
    command = ["--rename-conflicting", str(system.archive), "work"]
    write_archive(system.archive, [*others, *chunks])
    assert system.restore(*command).returncode == 0
    assert same(system.data("work-1"), DATA), "the cut itself does no harm"
    del system.app.domains["work-1"]
    for what, (damage, message) in DAMAGES.items():
        write_archive(system.archive, [*others, *damage(chunks)])
        done = system.restore(*command)
        assert done.returncode == 0, what
        assert "qubesadmin.backup: -> Done." in done.stderr
        folder = done.stderr.partition("/QubesIncoming")[2].split("/")[1:3]
        place = f"{system.dom0}/QubesIncoming/{'/'.join(folder)}/vm{work.qid}/private.img"
        assert message.format(place) in done.stderr, what
        image = system.state / "qubes/appvms/work-1/private.img"
        assert image.stat().st_blocks == 0, what
        del system.app.domains["work-1"]


def test_verification_looks_at_each_chunk_alone(
    system: System, work: QubesVM, source: list[str]
) -> None:
    others, chunks, _ = pieces(system, work)
    for damage, code in ((swapped, 0), (flipped, 1)):
        write_archive(system.archive, [*others, *damage(chunks)])
        assert system.restore("--verify-only", *source).returncode == code


def test_altered_archives_are_refused(system: System, work: QubesVM, source: list[str]) -> None:
    others, chunks, run = pieces(system, work)
    header = others[0][1]
    name, data = chunks[1]
    foreign = f"vm{work.qid + 50}/private.img.000.enc"
    beyond = name.replace(".001.", ".004.")
    other_header = (others[0][0], header.replace(b"gzip", b"bzip2"))
    anywhere: list[tuple[Content, str]] = [
        ([other_header, *others[1:]], "Corrupted backup header"),
        ([*others, chunks[0], (name, chunks[2][1])], "Passphrase is incorrect"),
        ([*others, (name.replace("img", "xml"), data)], "Passphrase is incorrect"),
        ([*others, (f"vm{work.qid}/evil", b"x")], "Invalid file extension found in archive"),
    ]
    from_qube: list[tuple[Content, str]] = [
        (others[1:], "unexpected files in archive: got ['backup-header.hmac'], expected"),
        (others[:2], "unexpected files in archive: got [], expected ['qubes.xml.000.enc']"),
        ([*others, *chunks, chunks[0]], "(17)"),
        ([*others, *chunks, (beyond, bytes(6 * MIB))], "retrieved backup size exceed"),
    ]
    for cases, location in ((anywhere, [str(system.archive)]), (from_qube, source)):
        for content, message in cases:
            write_archive(system.archive, content)
            done = system.restore("--verify-only", *location)
            assert (done.returncode, message in done.stderr) == (1, True), (message, done.stderr)
            assert "Traceback" not in done.stderr
    write_archive(system.archive, [*others, (foreign, sealed(foreign, b"x", run)), *chunks])
    assert system.restore("--verify-only", *source).returncode == 0, "others' files are left out"


def test_failures_of_the_source(system: System) -> None:
    for source, message in (
        (["/no/such/file"], "No such file or directory: '/no/such/file'"),
        (["-d", "backup", "no-such-command"], "Backup header retrieval failed (exit code 2)"),
        (["-d", "backup", "true"], "Backup header retrieval failed (exit code 0)"),
    ):
        done = system.restore(*source)
        assert done.returncode == 1, source
        assert message in done.stderr or "unexpected files in archive" in done.stderr, done.stderr
    for words in (["-d", "nobody", "x"], ["--location-is-service", "x"], []):
        assert system.restore(*words).returncode == 2
