# SPDX-License-Identifier: GPL-3.0-or-later
"""tar2qfile in a qube, and qfile-dom0-unpacker in dom0, connected as qrexec connects them."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from testing.lab.system import write_archive
from testing.paths import LAB

PACKER = LAB / "qube/lib/tar2qfile"
UNPACKER = LAB / "dom0/lib/qfile-dom0-unpacker"

BACKUP = [
    ("backup-header", b"version=4\n"),
    ("backup-header.hmac", b"h" * 700),
    ("qubes.xml.000.enc", b"q" * 9000),
    ("vm7/private.img.000.enc", os.urandom(300_000)),
    ("vm7/private.img.001.enc", b""),
    ("vm71/private.img.000.enc", b"seventy-one"),
    ("vm9/root.img.000.enc", b"r" * 512),
    ("dom0-home/user.000.enc", b"d" * 20480),
]
NAMES = [name for name, _ in BACKUP]


@dataclass
class Transfer:
    """What came of a transfer: exit codes, stderr, and the files by name."""

    packer: int
    unpacker: int
    packer_errors: str
    names: list[str]
    files: dict[str, bytes]


@dataclass
class Wire:
    """Runs transfers into FOLDER/out."""

    folder: Path

    @property
    def archive(self) -> Path:
        """What is sent."""
        return self.folder / "archive"

    def unpacker_command(self) -> list[str]:
        """Return the argv of the receiving side."""
        return [str(UNPACKER), str(os.getuid()), str(self.folder / "out"), "-v", "-w", "1"]

    def transfer(
        self,
        wanted: Sequence[str],
        source: Path | None = None,
        max_bytes: int = 0,
        max_files: int = 0,
    ) -> Transfer:
        """Send what is wanted of the archive, or of another source, both ways connected."""
        limits = {"UPDATES_MAX_BYTES": str(max_bytes), "UPDATES_MAX_FILES": str(max_files)}
        to_dom0, to_qube = os.pipe(), os.pipe()
        pipe = subprocess.PIPE
        packer = subprocess.Popen(
            [str(PACKER), str(source or self.archive), *wanted],
            stdin=to_qube[0],
            stdout=to_dom0[1],
            stderr=pipe,
        )
        unpacker = subprocess.Popen(
            self.unpacker_command(),
            stdin=to_dom0[0],
            stdout=to_qube[1],
            stderr=pipe,
            env=os.environ | limits,
        )
        for end in (*to_dom0, *to_qube):
            os.close(end)
        names = unpacker.communicate()[1].decode().splitlines()
        errors = packer.communicate()[1].decode()
        return Transfer(packer.returncode, unpacker.returncode, errors, names, self.files())

    def files(self) -> dict[str, bytes]:
        """Return what arrived."""
        out = self.folder / "out"
        found = sorted(path for path in out.rglob("*") if path.is_file())
        return {str(path.relative_to(out)): path.read_bytes() for path in found}

    def unpack(self, stream: bytes) -> subprocess.CompletedProcess[bytes]:
        """Send a stream made by hand."""
        return subprocess.run(
            self.unpacker_command(), input=stream, capture_output=True, check=False
        )


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    write_archive(tmp_path / "archive", BACKUP)
    return Wire(tmp_path)


@contextlib.contextmanager
def pipe_of(path: Path, fifo: Path):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """A FIFO that `cat PATH` writes to; gives the process, whose status tells how it ended."""
    os.mkfifo(fifo)
    writer = subprocess.Popen(["/bin/sh", "-c", 'exec cat "$1" >"$2"', "sh", str(path), str(fifo)])
    yield writer
    writer.wait()


def test_everything_arrives_with_times_and_modes(wire: Wire) -> None:
    done = wire.transfer([])
    assert (done.packer, done.unpacker) == (0, 0)
    assert done.files == dict(BACKUP)
    assert done.names == NAMES
    info = (wire.folder / "out/vm7/private.img.000.enc").stat()
    assert (stat.S_IMODE(info.st_mode), int(info.st_mtime)) == (0o644, 1_700_000_000)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["vm7/"], NAMES[3:5]),
        (["vm7"], NAMES[3:6]),
        (["vm9/", "vm7/"], [*NAMES[3:5], NAMES[6]]),
        (["dom0-home"], NAMES[7:]),
        (["qubes.xml.000.enc"], NAMES[2:3]),
        (["backup-header", "backup-header.hmac"], NAMES[:2]),
        (["nothing"], []),
    ],
)
def test_names_are_matched_by_prefix(wire: Wire, wanted: list[str], expected: list[str]) -> None:
    done = wire.transfer(wanted)
    assert (done.packer, done.unpacker, done.names) == (0, 0, expected)


def test_reading_stops_when_each_prefix_was_met(wire: Wire) -> None:
    write_archive(wire.archive, [*BACKUP, ("vm9/late", bytes(2**20))])
    with pipe_of(wire.archive, wire.folder / "fifo") as writer:
        done = wire.transfer(["qubes.xml.000.enc"], wire.folder / "fifo")
    assert (done.packer, done.unpacker, done.names) == (0, 0, NAMES[2:3])
    assert writer.returncode == -13, "the rest must not be read: SIGPIPE"


def test_the_header_costs_a_full_read(wire: Wire) -> None:
    """`backup-header.hmac` counts for the prefix `backup-header`, so the second is never met."""
    write_archive(wire.archive, [*BACKUP, ("vm9/late", bytes(2**20))])
    with pipe_of(wire.archive, wire.folder / "fifo") as writer:
        done = wire.transfer(["backup-header", "backup-header.hmac"], wire.folder / "fifo")
    assert (done.packer, done.unpacker, done.names) == (0, 0, NAMES[:2])
    assert writer.returncode == 0


def test_a_duplicate_is_refused_and_the_first_stays(wire: Wire) -> None:
    write_archive(wire.archive, [*BACKUP[:4], (NAMES[3], b"other")])
    done = wire.transfer([])
    assert (done.packer, done.unpacker) == (1, 17)
    assert done.files[NAMES[3]] == BACKUP[3][1]
    assert f'A file named "{NAMES[3]}" already exists' in done.packer_errors


def test_limits_of_bytes_and_files(wire: Wire) -> None:
    total = sum(len(data) for _, data in BACKUP)
    assert wire.transfer([], max_bytes=total, max_files=100).unpacker == 0
    for path in (wire.folder / "out").rglob("*"):
        if path.is_file():
            path.unlink()
    assert wire.transfer([], max_bytes=total - 1).unpacker == 122
    other = Wire(wire.folder / "other")
    other.folder.mkdir()
    write_archive(other.archive, BACKUP)
    assert other.transfer([], max_files=4).unpacker == 122
    assert list(other.files()) == NAMES[:3], "the folder vm7 counts as a file"


@pytest.mark.parametrize("cut", [0, 100, 515, 600, 1024, 2100, 11_000])
def test_a_cut_archive_ends_with_an_error_or_as_a_short_one(wire: Wire, cut: int) -> None:
    whole = wire.archive.read_bytes()
    wire.archive.write_bytes(whole[:cut])
    done = wire.transfer([])
    complete = {name: data for name, data in BACKUP if name in done.names}
    assert {name: done.files[name] for name in done.names if name != "EOF"} == complete
    inside = cut in (515, 600, 11_000)
    assert (done.packer == 1) == inside, done.packer_errors
    # An end between two members can't be told from the end of the backup.
    assert (done.unpacker != 0) == inside


def test_what_follows_a_block_that_is_no_header_is_dropped(wire: Wire) -> None:
    good = wire.folder / "good"
    write_archive(good, BACKUP[:2])
    rest = wire.folder / "rest"
    write_archive(rest, BACKUP[2:])
    wire.archive.write_bytes(good.read_bytes() + b"not a header" * 512 + rest.read_bytes())
    done = wire.transfer([])
    assert (done.packer, done.unpacker, done.names) == (0, 0, NAMES[:2])


def test_packer_without_a_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(PACKER), str(tmp_path / "no")], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, f"Error opening file {tmp_path / 'no'}\n")


def record(name: bytes, mode: int, data: bytes = b"") -> bytes:
    """One file in qfile protocol."""
    return struct.pack("<IIQIIII", len(name) + 1, mode, len(data), 1, 0, 1, 0) + name + b"\0" + data


def result(answer: bytes) -> tuple[int, int, bytes]:
    """Error code, checksum and last name of a result header."""
    code, _, crc = struct.unpack_from("<IIQ", answer)
    return code, crc, answer[20:]


REGULAR, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
END = bytes(32)


def test_result_header_tells_checksum_and_last_name(wire: Wire) -> None:
    stream = record(b"a", REGULAR, b"data") + END
    done = wire.unpack(stream)
    assert result(done.stdout) == (0, zlib.crc32(stream), b"a")
    assert (done.returncode, wire.files()) == (0, {"a": b"data"})


@pytest.mark.parametrize(
    ("name", "mode", "data", "code"),
    [
        (b"../out-of-it", REGULAR, b"x", 84),
        (b"/tmp/absolute", REGULAR, b"x", 84),
        (b"a//b", REGULAR, b"x", 84),
        (b"new\nline", REGULAR, b"x", 84),
        (b"missing/folder", REGULAR, b"x", 2),
        (b"pipe", stat.S_IFIFO | 0o644, b"", 22),
        (b"link", LINK, b"target", 67),
        (b"d/link", LINK, b"../../out", 67),
        (b"n" * 16384, REGULAR, b"", 36),
    ],
)
def test_names_that_lead_out_are_refused(
    wire: Wire, name: bytes, mode: int, data: bytes, code: int
) -> None:
    done = wire.unpack(record(b"d", FOLDER) + record(name, mode, data) + END)
    assert (result(done.stdout)[0], done.returncode) == (code, code)
    assert [path.name for path in (wire.folder / "out").iterdir()] == ["d"]


def test_files_are_not_written_through_links(wire: Wire) -> None:
    outside = wire.folder / "outside"
    outside.mkdir()
    (wire.folder / "out").mkdir()
    (wire.folder / "out/d").symlink_to(outside)
    done = wire.unpack(record(b"d/file", REGULAR, b"x") + END)
    assert done.returncode == 20  # ENOTDIR
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(("stream", "code"), [(b"", 121), (record(b"a", REGULAR, b"xy")[:-1], 118)])
def test_a_stream_without_its_end(wire: Wire, stream: bytes, code: int) -> None:
    assert wire.unpack(stream).returncode == code


def test_packer_refuses_another_checksum(wire: Wire) -> None:
    wrong = struct.pack("<IIQI", 0, 0, 1, 0)
    done = subprocess.run(
        [str(PACKER), str(wire.archive), "backup-header"],
        input=wrong,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"checksum mismatch" in done.stderr
