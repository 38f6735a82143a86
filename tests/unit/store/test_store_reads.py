# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore of one qube out of ten reads of the repository, counted by strace."""

import re
import subprocess
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import PAYLOAD, Store, mostly

SIZE = 18 << 20
# Beside the data: index and manifest, about 1 MiB. With restic, also less than 512 KiB of the
# object before, and a chunk of up to 8 MiB that begins at the qube's end (restic/chunker
# chunker.go MinSize, MaxSize), as its random polynomial decides. `make bench` has the median.
BESIDE = {"restic": 10 << 20, "borg": SIZE // 5, "directory": SIZE // 5}
# read(3</repository/data/0/5>, "..."..., 8192) = 8192
READ = re.compile(r"(?:p?read(?:64|v)?)\(\d+<(/[^>]*)>.* = (\d+)$", re.MULTILINE)
# copy_file_range(3</from>, NULL, 1</to>, NULL, ...) = N
COPY = re.compile(r"(?:copy_file_range|sendfile|splice)\(.* = (\d+)$", re.MULTILINE)


def counted(store: Store, folder: Path, *arguments: str) -> tuple[int, bytes]:
    """Run dedup-store; return how many bytes it and the engine read of the repository."""
    for old in folder.glob("reads.*"):
        old.unlink()
    trace = "trace=read,pread64,readv,preadv,copy_file_range,sendfile,splice,mmap"
    command = ["strace", "-ff", "-y", "-qq", "-s", "0", "-e", trace, "-o", folder / "reads"]
    command += [PAYLOAD / "dedup-store", *arguments]
    done = subprocess.run(command, capture_output=True, check=True, env=store.environment)
    text = "".join(path.read_text(errors="replace") for path in folder.glob("reads.*"))
    inside = f"{store.repository}/"
    assert f"<{inside}" in text
    # Nothing gets around the count.
    assert not [line for line in text.splitlines() if "mmap(" in line and inside in line]
    copied = [line for line in text.splitlines() if COPY.search(line) and inside in line]
    assert not [line for line in copied if not line.endswith(" = 0")]
    return sum(
        int(size) for path, size in READ.findall(text) if path.startswith(inside)
    ), done.stdout


@pytest.mark.sampled(2)
@mostly("store", "restic", "directory")
def test_one_qube_of_ten(store: Store, tmp_path: Path) -> None:
    """The three reads of the official restore: its header, qubes.xml, then the qube."""
    qubes = [
        Qube(f"qube{number}", number, volumes={"private": archives.noise(SIZE, number)})
        for number in range(11, 21)
    ]
    parts = list(archives.members(qubes))
    store.put(archives.join(parts))
    total = 0
    for wanted in ("backup-header", "qubes.xml", "vm15/"):
        read, output = counted(store, tmp_path, "get", "latest", "--members", wanted)
        total += read
        listed = subprocess.run(["tar", "-it"], input=output, capture_output=True, check=True)
        expected = [name for name, _ in parts if name.startswith(wanted)]
        assert listed.stdout.decode().split() == expected
    assert SIZE < total <= SIZE + BESIDE[store.engine]
