# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine whose power can be cut: what nobody had flushed to the disk is lost."""

import contextlib
import fcntl
import os
import shlex
import signal
import struct
import subprocess
import time
from pathlib import Path

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import Store

# fs/ext4/ioctl.c EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32), and EXT4_GOING_FLAGS_NOLOGFLUSH: from
# then on nothing is written, not even the journal
_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)
_GROWTH = 1 << 20  # bytes in the repository by which a put is well under way


class Machine:
    """An ext4 file system over a folder, seen by the programs of this machine alone.

    Its programs are those that are started with `prefix`, and all that they start.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        """Take over what the folder holds.

        Args:
            folder: where the file system is to be; its image comes beside it.
            store: a store in the folder, which is used in this machine from now on.
        """
        self.folder = folder
        self._store = store
        self._image = folder.with_name(f"{folder.name}.image")
        self._boot = folder.with_name(f"{folder.name}.boot")
        with self._image.open("wb") as image:
            image.truncate(2 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-d", folder, self._image], check=True)
        self.start()

    def start(self) -> None:
        """Boot: mount the file system, with a journal that isn't written every few seconds."""
        place = shlex.join([str(self._image), str(self.folder)])
        boot = shlex.quote(str(self._boot))
        script = (
            f"mount -o loop,commit=3000 {place} && cat /proc/sys/kernel/random/uuid >{boot}"
            f" && mount --bind {boot} /proc/sys/kernel/random/boot_id && echo up && exec cat"
        )
        self._init = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == b"up\n"
        self._space = f"/proc/{self._init.pid}/ns/mnt"
        self._store.prefix = self.prefix

    @property
    def prefix(self) -> tuple[str, ...]:
        """What starts a program in it."""
        return ("nsenter", f"--mount={self._space}", "--")

    @property
    def disk(self) -> Path:
        """The folder, as its programs see it."""
        return Path(f"/proc/{self._init.pid}/root{self.folder}")

    def cut_power(self) -> None:
        """Lose what isn't on the disk; what programs do until they are killed counts no more."""
        disk = os.open(self.disk, os.O_RDONLY)
        fcntl.ioctl(disk, _SHUTDOWN, _NO_LOG_FLUSH)
        os.close(disk)
        self.stop()

    def stop(self) -> None:
        """Kill all its programs; the file system is unmounted as the last of them ends."""
        space = Path(self._space).readlink()
        while running := [pid for pid in self._programs(space) if pid != self._init.pid]:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._init.kill()
        self._init.communicate()
        command: list[str | Path] = ["losetup", "--associated", self._image]
        while subprocess.run(command, check=True, capture_output=True).stdout:
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop it, for ever."""
        self.stop()
        self._image.unlink()
        self._boot.unlink()

    @staticmethod
    def _programs(space: Path) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (path / "ns/mnt").readlink() == space:
                    found.append(int(path.name))
        return found


def stream(size: int) -> bytes:
    """A backup of one qube."""
    qubes = [Qube("work", 7, volumes={"private": archives.noise(size, size)})]
    return archives.join(archives.members(qubes))


def cut_after_a_report(machine: Machine, store: Store) -> tuple[str, bytes]:
    """What put reported is there; give the run and its data."""
    data = stream(2_000_000)
    stored = store.put(data)
    machine.cut_power()
    machine.start()
    assert store.runs() == [stored]
    assert store.get() == data
    return stored["run"], data


def cut_during_a_put(machine: Machine, store: Store) -> None:
    """A put that stores: there is no run of it."""
    runs = store.runs()
    place = machine.disk / store.files.relative_to(machine.folder)
    before = size_of(place)
    with store.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(stream(40_000_000)[:-100_000])
        putter.stdin.flush()
        while size_of(place) < before + _GROWTH:
            assert putter.poll() is None
            time.sleep(0.01)
        machine.cut_power()
    machine.start()
    assert store.runs() == runs


def cut_during_a_prune(machine: Machine, store: Store) -> None:
    """A prune that has begun to remove: no run that is whole is damaged."""
    runs = store.runs()
    store.put(stream(20_000_000)[:-100_000], code=3)
    place = machine.disk / store.files.relative_to(machine.folder)
    before = names_in(place)
    with store.start("prune") as pruner:
        while names_in(place) >= before:
            assert pruner.poll() in (None, 0)
        machine.cut_power()
    machine.start()
    assert [run for run in store.runs() if run["status"] == "whole"] == runs


def names_in(folder: Path) -> set[str]:
    """All files in a folder but locks."""
    return {str(path) for path in files_in(folder) if "lock" not in "/".join(path.parts[-2:])}


def cut_at_the_end_of_a_put(machine: Machine, store: Store, seconds: float) -> None:
    """At any moment while it finishes: a run is listed only when it can be restored."""
    runs, data = store.runs(), stream(3_000_000)
    with store.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(data)
        putter.stdin.close()
        putter.stdin = None
        time.sleep(seconds)  # the moment is what is tested: any is as good
        machine.cut_power()
    machine.start()
    new = [run for run in store.runs() if run not in runs]
    assert len(store.runs()) == len(runs) + len(new)
    for run in new:
        assert run["status"] == "whole"
        assert store.get(run["run"]) == data


def size_of(folder: Path) -> int:
    """The bytes in a folder's files."""
    total = 0
    for path in files_in(folder):
        with contextlib.suppress(OSError):  # it has another name meanwhile
            total += path.stat().st_size
    return total


def files_in(folder: Path) -> list[Path]:
    """All files in a folder, which may come and go."""
    return [Path(place) / name for place, _, names in os.walk(folder) for name in names]
