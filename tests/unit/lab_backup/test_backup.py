# SPDX-License-Identifier: GPL-3.0-or-later
"""What qvm-backup makes: the archive's format, and what happens when something goes wrong."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import tarfile
import time
from pathlib import Path

from qubesadmin.firewall import Rule

from testing.lab.fast_scrypt import tag
from testing.lab.system import MIB, PASSPHRASE, System, members, plain

CHUNK = 100 * MIB
# What comes before the data of a volume without zeros: two header blocks, one of records, the map.
BEFORE_DATA, AFTER_DATA = 4 * 512, 2 * 512


def backup_id(content: dict[str, bytes]) -> str:
    return content["backup-header"].decode().split("backup-id=")[1].strip()


def inner(archive: bytes) -> bytes:
    """Return the file in an inner archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (info,) = tar.getmembers()
        file = tar.extractfile(info)
        assert file is not None
        return file.read()


def test_members_header_and_passphrase_lines(system: System) -> None:
    work = system.add_qube("work", os.urandom(70_000).ljust(MIB, b"\0"))
    work.set_notes("remember")
    work.firewall.rules = [Rule("action=accept proto=icmp")]
    system.add_qube("mail")
    system.profile()
    before = int(time.time())
    system.backup()
    content = members(system.archive)
    assert list(content) == [
        *("backup-header", "backup-header.hmac", "qubes.xml.000.enc"),
        *(f"vm{work.qid}/{name}.000.enc" for name in ("private.img", "firewall.xml", "notes.txt")),
        f"vm{system.app.domains['mail'].qid}/private.img.000.enc",
    ]
    header = content["backup-header"].decode()
    assert re.fullmatch(
        "version=4\nencrypted=True\ncompressed=False\ncompression-filter=gzip\n"
        r"hmac-algorithm=scrypt\nbackup-id=\d{8}T\d{6}-\d+\n",
        header,
    )
    line = f"backup-header!{PASSPHRASE}".encode()
    assert content["backup-header.hmac"][4:36] == tag(line, header.encode())
    run = backup_id(content)
    files = {name: inner(plain(name, data, run)) for name, data in content.items() if "/" in name}
    assert files[f"vm{work.qid}/private.img.000.enc"] == system.data("work")
    assert files[f"vm{work.qid}/notes.txt.000.enc"] == b"remember"
    for name in ("work", "mail"):
        assert before <= system.app.domains[name].backup_timestamp <= time.time()
    assert system.app.domains["backup"].property_is_default("backup_timestamp")
    assert (system.state / "synced").exists(), "qubes.Backup syncs"


def test_outer_stream_is_one_posix_archive_per_member(system: System) -> None:
    system.add_qube("work")
    system.profile()
    system.backup()
    data = system.archive.read_bytes()
    expected = members(system.archive)
    position = 0
    for name, content in expected.items():
        assert data[position + 156 : position + 157] == b"x", "a pax header comes first"
        with tarfile.open(fileobj=io.BytesIO(data[position:])) as one:
            (info,) = one.getmembers()
        assert (info.name, info.size) == (name, len(content))
        assert {"mtime", "atime", "ctime"} <= info.pax_headers.keys()
        end = info.offset_data + info.size
        position += -(-(end + 1024) // 10240) * 10240
    assert position == len(data)


def test_qubes_xml_describes_all_qubes(system: System) -> None:
    work = system.add_qube("work")
    work.features["service.x"] = ""
    system.add_qube("mail", netvm=None)
    system.profile(include=["work"])
    system.backup()
    content = members(system.archive)
    text = inner(plain("qubes.xml.000.enc", content["qubes.xml.000.enc"], backup_id(content)))
    xml = text.decode()
    assert xml.count("<domain ") == 5  # with dom0, the template and the backup qube
    size = work.volumes["private"].usage
    domain = xml[xml.index(f'<domain id="domain-{work.qid}"') :].split("</domain>")[0]
    for part in (
        '<property name="name">work</property>',
        '<property name="template">debian-13-minimal</property>',
        '<property name="label">red</property>',
        '<feature name="service.x" />',
        '<feature name="backup-content">1</feature>',
        f'<feature name="backup-path">vm{work.qid}/</feature>',
        f'<feature name="backup-size">{size}</feature>',
        '<tag name="created-by-dom0" />',
    ):
        assert part in domain
    other = xml[xml.index('<property name="name">mail') :].split("</domain>")[0]
    assert '<property name="netvm" />' in other
    assert '<feature name="backup-content" />' in other


def test_an_archive_of_exactly_one_chunk_gets_an_empty_second_one(system: System) -> None:
    work = system.add_qube("work", b"\x01" * (CHUNK - BEFORE_DATA - AFTER_DATA))
    system.profile()
    system.backup()
    name = f"vm{work.qid}/private.img"
    sizes = {
        member: len(data) - 36 for member, data in members(system.archive).items() if "/" in member
    }
    assert sizes == {f"{name}.000.enc": CHUNK, f"{name}.001.enc": 0}


def test_compression_wraps_the_inner_archive(system: System) -> None:
    work = system.add_qube("work", b"\x01" * MIB)
    for compression, filter_name in ((True, "gzip"), ("bzip2", "bzip2")):
        system.profile(compression=compression)
        system.backup()
        content = members(system.archive)
        header = content["backup-header"].decode()
        assert f"compressed=True\ncompression-filter={filter_name}\n" in header
        for file in ("qubes.xml", f"vm{work.qid}/private.img"):
            name = f"{file}.000.enc"
            packed = plain(name, content[name], backup_id(content))
            clear = subprocess.run(
                [filter_name, "-dc"], input=packed, capture_output=True, check=True
            )
            assert inner(clear.stdout)


def test_a_running_qube_is_stored_as_before_its_start(system: System) -> None:
    work = system.add_qube("work", b"before".ljust(MIB, b"\0"))
    work.start()
    image = system.state / "qubes/appvms" / "work" / "private.img"
    with image.open("r+b") as file:
        file.write(b"after!")
    system.profile()
    system.backup()
    content = members(system.archive)
    name = f"vm{work.qid}/private.img.000.enc"
    assert inner(plain(name, content[name], backup_id(content)))[:6] == b"before"


def test_to_a_folder_and_to_a_file_in_dom0(system: System) -> None:
    system.add_qube("work")
    folder = system.state / "target"
    folder.mkdir()
    system.profile(destination_vm="dom0", destination_path=str(folder))
    system.backup()
    (file,) = folder.iterdir()
    assert re.fullmatch(r"qubes-\d{4}-\d\d-\d\dT\d{6}", file.name)
    system.profile(destination_vm="dom0", destination_path=str(folder / "named"))
    system.backup()
    assert list(members(folder / "named")) == list(members(file))
    system.profile(destination_vm="dom0", destination_path="/no/such/folder")
    done = system.run("qvm_backup", "--profile", "test", "--yes")
    assert done.returncode == 1
    message = "ERROR: the backup directory for /no/such/folder does not exists"
    assert f"Backup error: {message}" in done.stderr


def failed(system: System) -> str:
    """Make a backup that must fail, and return what is said."""
    done = system.run("qvm_backup", "--profile", "test", "--yes")
    assert done.returncode == 1, done.stdout
    assert system.app.domains["work"].property_is_default("backup_timestamp")
    return done.stderr[done.stderr.index("Backup error: ") :].strip()


def test_failures_of_the_target(system: System) -> None:
    system.add_qube("work", os.urandom(5 * MIB))
    system.program("store", "cat >/dev/null; printf 'no room {%s}\\n\\033[31m' >&2; exit 3")
    system.profile(destination_path="store")
    expected = "Backup error: Writing backup to VM backup failed: no room [31m"
    assert failed(system) == expected
    system.program("store", "echo early >&2; exit 3")
    assert failed(system).endswith("Writing backup to VM backup failed: early")
    system.profile(destination_path="no-such-command")
    assert "Writing backup to VM backup failed" in failed(system)
    system.app.domains["backup"].kill()
    assert failed(system) == "Backup error: Domain is not running: 'backup'"


def test_a_target_that_ends_early_without_an_error_passes_for_success(system: System) -> None:
    """As in upstream: tar's death by SIGPIPE doesn't count."""
    system.add_qube("work", os.urandom(5 * MIB))
    system.program("store", "head -c 1000 >/dev/null; exit 0")
    system.profile(destination_path="store")
    system.backup()
    assert not system.app.domains["work"].property_is_default("backup_timestamp")


def test_scrypts_exit_status_does_not_count_for_chunks(system: System) -> None:
    work = system.add_qube("work")
    real = (system.state / "bin/scrypt").read_text()
    system.profile()
    ending = 'if "private" in sys.argv[-1]: sys.exit(main() or 1)\n    sys.exit(main())'
    (system.state / "bin/scrypt").write_text(real.replace("sys.exit(main())", ending))
    system.backup()
    assert f"vm{work.qid}/private.img.000.enc" in members(system.archive)


def test_a_chunk_that_scrypt_did_not_write_fails_the_backup(system: System) -> None:
    system.add_qube("work")
    real = (system.state / "bin/scrypt").read_text()
    system.profile()
    ending = "status = main()\n    'private' in sys.argv[-1] and os.unlink(sys.argv[-1])"
    (system.state / "bin/scrypt").write_text(real.replace("sys.exit(main())", ending))
    assert "ERROR: Failed to write the backup" in failed(system)


def test_failing_header_and_strange_prompts(system: System) -> None:
    system.add_qube("work")
    system.profile()
    real = (system.state / "bin/scrypt").read_text()
    ending = "main(); os.write(2, b'disk full'); sys.exit(1)"
    (system.state / "bin/scrypt").write_text(real.replace("sys.exit(main())", ending))
    assert failed(system).endswith("Failed to compute hmac of header file: disk full")
    (system.state / "bin/scrypt").write_text(real.replace("Please enter", "Enter"))
    assert "Unexpected prompt from scrypt: b'Enter passphrase: '" in failed(system)


def test_a_volume_that_is_gone(system: System) -> None:
    system.add_qube("work")
    system.profile()
    image = system.state / "qubes/appvms" / "work" / "private.img"
    image.unlink()
    assert failed(system) == f"Backup error: Failed to archive {image} file"


def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cancelling_ends_the_stream_at_a_members_end(system: System) -> None:
    system.add_qube("work", os.urandom(5 * MIB))
    real = (system.state / "bin/scrypt").read_text()
    stuck = system.state / "stuck"
    slow = f"'private' in target and (Path({str(stuck)!r}).touch(), __import__('time').sleep(60))"
    (system.state / "bin/scrypt").write_text(
        real.replace("data = sys.stdin", f"{slow}\n    data = sys.stdin")
    )
    system.profile()
    process = subprocess.Popen(
        system.command("qvm_backup", "--profile", "test", "--yes"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=system.environment(),
    )
    until(stuck.exists)
    again = system.run("qvm_backup", "--profile", "test", "--yes")
    assert "Backup error: Backup already running" in again.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "Backup error: Backup cancelled" in errors.decode()
    assert list(members(system.archive)) == [
        *("backup-header", "backup-header.hmac", "qubes.xml.000.enc"),
    ]
    assert system.app.domains["work"].property_is_default("backup_timestamp")


def test_progress_and_temporary_files(system: System, tmp_path: Path) -> None:
    system.add_qube("work", os.urandom(MIB))
    system.profile()
    slow = "'private' in target and __import__('time').sleep(1.1)\n    data = sys.stdin"
    scrypt = system.state / "bin/scrypt"
    scrypt.write_text(scrypt.read_text().replace("data = sys.stdin", slow))
    done = subprocess.run(
        system.command("backup_run", "test"),
        check=True,
        capture_output=True,
        text=True,
        env=system.environment() | {"TMPDIR": str(tmp_path)},
    )
    assert re.fullmatch(r"(progress \d+\.\d\d\n)+", done.stdout), done.stdout
    assert list(tmp_path.iterdir()) == []
