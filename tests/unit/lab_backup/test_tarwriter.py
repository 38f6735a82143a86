# SPDX-License-Identifier: GPL-3.0-or-later
"""qubes.tarwriter: GNU tar must get the same file out of it, holes as holes."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

BLOCK = 512
NAME = "vm7/private.img"

DATA = b"\x01" * BLOCK
ZERO = bytes(BLOCK)
RANDOM = random.Random(20240101)  # noqa: S311 -- the same in each run

CONTENTS = {
    "empty": b"",
    "only zeros": ZERO * 64,
    "only data": DATA * 64,
    "data at both ends": DATA + ZERO * 100 + DATA,
    "zeros at both ends": ZERO * 8 + DATA * 9 + ZERO * 7,
    "alternating": (DATA + ZERO) * 300,
    "a byte short of zero blocks": (bytes(BLOCK - 1) + b"\x01") * 5 + ZERO * 3,
    "zeros at an end within a block": DATA * 3 + bytes(100),
    "larger than one read": DATA * 2047 + ZERO * 2 + DATA * 2049 + ZERO * 4096,
    "mixed": b"".join(RANDOM.choice((DATA, ZERO, RANDOM.randbytes(BLOCK))) for _ in range(5000)),
}


def write(packages: Path, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "qubes.tarwriter", *map(str, words)],
        check=False,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(packages)},
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse image of 4 MiB with a little data."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        for offset in (0, 8192, 1_000_448, 4 * 2**20 - 4096):
            file.seek(offset)
            file.write(os.urandom(4096))
    return path


def extract(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    listing = subprocess.run(
        ["tar", "-xvf", str(archive), "-C", str(folder)], check=True, capture_output=True
    )
    assert listing.stdout == f"{NAME}\n".encode()
    assert listing.stderr == b""
    return folder / NAME


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_gnu_tar_extracts_the_same_bytes(packages: Path, tmp_path: Path, content: bytes) -> None:
    source, archive = tmp_path / "source", tmp_path / "archive"
    source.write_bytes(content)
    done = write(packages, f"--override-name={NAME}", source, archive)
    assert (done.returncode, done.stderr) == (0, b"")
    assert extract(archive, tmp_path / "out").read_bytes() == content


def test_sparse_image_stays_sparse_and_zeros_are_not_stored(
    packages: Path, tmp_path: Path, image: Path
) -> None:
    with image.open("r+b") as file:
        file.seek(20480)
        file.write(bytes(65536))  # zeros that take space
    archive = tmp_path / "archive"
    archive.write_bytes(write(packages, f"--override-name={NAME}", image).stdout)
    out = extract(archive, tmp_path / "out")
    assert out.read_bytes() == image.read_bytes()
    assert out.stat().st_blocks * BLOCK < 65536
    # pax header, its records, the member's header, the map, the data, two zero blocks.
    assert archive.stat().st_size == 512 + 512 + 512 + 512 + 4 * 4096 + 1024


def test_layout_of_the_archive(packages: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA + ZERO * 2 + DATA * 2)
    archive = write(packages, f"--override-name={NAME}", source).stdout
    records = archive[512:1024].rstrip(b"\0").decode()
    assert records == (
        "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
        "35 GNU.sparse.name=vm7/private.img\n28 GNU.sparse.realsize=2560\n"
    )
    member = archive[1024:1536]
    assert member[:100].rstrip(b"\0").startswith(b"vm7/GNUSparseFile.")
    assert member[:100].rstrip(b"\0").endswith(b"/private.img")
    assert int(member[124:135], 8) == 512 + 3 * 512
    assert int(member[136:147], 8) == 0, "the time must not change from run to run"
    assert archive[1536:2048] == b"2\n0\n512\n1536\n1024\n".ljust(512, b"\0")
    assert archive[2048:] == DATA * 3 + ZERO * 2


def test_a_file_that_ends_in_zeros_has_a_last_entry_at_its_end(
    packages: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA + ZERO * 7)
    archive = write(packages, f"--override-name={NAME}", source).stdout
    assert archive[1536:2048].rstrip(b"\0") == b"2\n0\n512\n4096\n0\n"


def test_compression_filter_gets_the_whole_archive(
    packages: Path, tmp_path: Path, image: Path
) -> None:
    name = f"--override-name={NAME}"
    clear = write(packages, name, image).stdout
    packed = write(packages, "--use-compress-program=gzip", name, image).stdout
    archive = tmp_path / "archive"
    archive.write_bytes(gzip.decompress(packed))
    assert archive.stat().st_size == len(clear)
    assert extract(archive, tmp_path / "out").read_bytes() == image.read_bytes()


def test_a_failing_filter_goes_unseen_as_in_upstream(
    packages: Path, tmp_path: Path, image: Path
) -> None:
    program = tmp_path / "filter"
    program.write_text("#!/bin/sh\ncat\nexit 3\n")
    program.chmod(0o755)
    name = f"--override-name={NAME}"
    done = write(packages, f"--use-compress-program={program}", name, image)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) == len(write(packages, name, image).stdout)


def test_a_missing_file_is_one_line_and_exit_1(packages: Path, tmp_path: Path) -> None:
    done = write(packages, tmp_path / "nothing")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No such file" in done.stderr


def test_name_is_the_path_without_the_option(packages: Path, tmp_path: Path, image: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(write(packages, image).stdout)
    with tarfile.open(archive) as tar:
        assert [info.name for info in tar] == [str(image)]
