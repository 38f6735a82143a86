# SPDX-License-Identifier: GPL-3.0-or-later
"""Single qubes of a run that restic has as one file: what is read, seen and left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import Store
from testing.store.puts import children, is_gone, until

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for the user's /dev/fuse"),
]
SIZE = 32 << 20
ONE = ("get", "latest", "--members", "vm6/")


@pytest.fixture(scope="module")
def members() -> list[tuple[str, bytes]]:
    sizes = {4: 3 << 20, 5: 30 << 20, 6: SIZE, 7: 20 << 20}
    return list(
        archives.members(
            [
                Qube(f"q{number}", number, volumes={"private": archives.noise(size, number)})
                for number, size in sizes.items()
            ]
        )
    )


@pytest.fixture
def stored(restic_store: Store, members: list[tuple[str, bytes]]) -> Store:
    restic_store.put(archives.join(members))
    return restic_store


@pytest.fixture
def part(members: list[tuple[str, bytes]]) -> Callable[[str], bytes]:
    """Give the part of the stream that a qube's folder has."""
    return lambda folder: archives.join([item for item in members if item[0].startswith(folder)])


def has_same(stream: bytes, expected: bytes) -> bool:
    """Compare members; the headers around them have the time."""
    unpack = ["tar", "-ixO"]
    one, other = (
        subprocess.run(unpack, input=data, capture_output=True, check=True).stdout
        for data in (stream, expected)
    )
    return one == other and bool(one)


def begin(store: Store, folder: str) -> tuple[subprocess.Popen[bytes], int]:
    """Begin to get a qube, and don't read it; give the process, and that of the mount."""
    getter = store.start("get", "latest", "--members", folder)

    def reading() -> int:
        with contextlib.suppress(FileNotFoundError):  # a process ended, or a file was closed
            files = [path.readlink().name for path in Path(f"/proc/{getter.pid}/fd").iterdir()]
            for pid in children(getter.pid) if "payload" in files else ():
                if b"mount" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        return 0

    found = until(reading, "the mount")
    assert isinstance(found, int)
    return getter, found


def test_nobody_else_sees_the_mount(stored: Store, part: Callable[[str], bytes]) -> None:
    """Two at once, at the same place."""
    (one, first), (other, second) = begin(stored, "vm6/"), begin(stored, "vm7/")
    assert str(stored.folder) not in Path("/proc/self/mountinfo").read_text()
    assert list((stored.folder / "home/.config/dedup-store/mount").iterdir()) == []
    assert has_same(one.communicate()[0], part("vm6/"))
    assert has_same(other.communicate()[0], part("vm7/"))
    assert (one.returncode, other.returncode) == (0, 0)
    assert is_gone(first)
    assert is_gone(second)


@pytest.mark.parametrize("victim", ["dedup-store", "restic"])
def test_killed(stored: Store, part: Callable[[str], bytes], victim: str) -> None:
    """Nothing stays mounted, and an end that is too early is an error."""
    getter, mount = begin(stored, "vm6/")
    os.kill(getter.pid if victim == "dedup-store" else mount, signal.SIGKILL)
    until(lambda: is_gone(mount), "the end of restic")
    got, said = getter.communicate()
    assert len(got) < SIZE
    if victim == "restic":
        assert getter.returncode == 1
        assert b"restic can't read the " in said
        assert b"Traceback" not in said
    assert str(stored.folder) not in Path("/proc/self/mountinfo").read_text()
    assert has_same(stored.run(*ONE).stdout, part("vm6/"))


def test_without_fuse(stored: Store, part: Callable[[str], bytes], tmp_path: Path) -> None:
    """What comes before the qube is read, too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("restic", "setpriv"):
        (folder / name).symlink_to(shutil.which(name) or "")
    stored.prefix = ("env", f"PATH={folder}")
    got = stored.run(*ONE)
    assert got.returncode == 0
    assert b"the package fuse3 isn't installed" in got.stderr
    assert has_same(got.stdout, part("vm6/"))


# as systemd-tmpfiles makes it in a qube: this machine's may be root's alone
AS_USER = """
mount -t tmpfs -o mode=755 none "$0" && mknod -m 666 "$0/fuse" c 10 229
mount --bind "$0/fuse" /dev/fuse
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all "$@"
"""


def test_not_as_root(stored: Store, part: Callable[[str], bytes], tmp_path: Path) -> None:
    """As in a qube, where Qubes runs the command of a backup as the user."""
    for path in (stored.folder, *stored.folder.rglob("*")):
        os.chown(path, 65534, 65534)
    (place := tmp_path / "dev").mkdir()
    for folder in place.parents:
        folder.chmod(folder.stat().st_mode | 0o011)
    stored.prefix = ("unshare", "--mount", "sh", "-c", AS_USER, str(place))
    got = stored.run(*ONE)
    assert (got.returncode, got.stderr) == (0, b"")
    assert has_same(got.stdout, part("vm6/"))


def test_payload_that_is_lost(stored: Store) -> None:
    listed = json.loads(stored.native("snapshots", "--json", "--tag", "payload"))
    stored.native("forget", listed[0]["id"])
    got = stored.run(*ONE)
    assert got.returncode == 1
    assert b"(reading the payload of " in got.stderr
