#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts what a repository at a distance costs: sessions, requests, round trips.

The storage qube's place is on a machine behind a line with a delay and a rate, reached by ssh, or
on S3 there. As root: .venv/bin/python bench/distance.py [ENGINE/PLACE ...]
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from testing.server import ssh_server
from testing.server.far_link import FAR, NEAR, Link, link
from testing.server.sessions import Recorder
from testing.server.storage_qube import ENGINES, QrexecStore, StorageQube, safe_borg
from testing.store import archives, s3_server

MILLISECONDS, MEGABITS = 40, 50
CASES = ("restic/ssh", "borg/ssh", "restic/s3")
QUBES, VOLUME = 10, 4_000_000
PROGRAMS = {"rclone": ENGINES / "rclone", "borg": safe_borg()}
_ROW = "| {:<10} | {:<22} | {:>5} | {:>8} | {:<14} | {:>11} | {:>11} | {:>8} | {:>8} | {:>5} |"
_TITLES = [
    "place",
    "command",
    "calls",
    "sessions",
    "requests",
    "connections",
    "round trips",
    "sent kB",
    "read kB",
    "s",
]


class Place:
    """A place at the far end of a line, and a storage qube that offers it."""

    def __init__(self, folder: Path, line: Link, case: str) -> None:
        """Lay both out; near_end() makes the store."""
        self.case, self._line, self._folder = case, line, folder
        self.engine, _, self.kind = case.partition("/")
        self.recorder = Recorder(folder / "recorder", PROGRAMS)
        (folder / "storage").mkdir()
        self.qube = StorageQube(folder / "storage", line.inside(NEAR))

    @contextmanager
    def server(self) -> Iterator[Callable[[], None]]:
        """Run the far server; gives what ends the connections to it."""
        inside = self._line.inside(FAR)
        if self.kind == "s3":
            self.qube.use("rclone", self.recorder.folder / "rclone")
            with s3_server.serving(self._folder / "s3", f"{FAR}:8080", inside) as s3:
                place = f"rclone:far:{s3_server.BUCKET}"
                config = {"place": place, "rclone_config": str(s3.rclone_config)}
                self.qube.configure("main", self.engine, **config)
                yield lambda: None
            return
        path = f"{self.recorder.folder}:/usr/bin:/bin"
        with ssh_server.far_away(self._folder / "ssh", path, self._line) as far:
            place = f"ssh://root@{FAR}:{ssh_server.PORT}{far.data}"
            self.qube.configure("main", self.engine, place=place, ssh_config=str(far.ssh_config))

            def reconnect() -> None:
                far.stop()
                far.start(inside)

            yield reconnect

    def store(self) -> QrexecStore:
        """Make the repository."""
        (self._folder / "backup").mkdir()
        made = QrexecStore(self._folder / "backup", self.engine, self.qube, "main")
        made.configure()
        made.make()
        return made

    def measure(self, what: str, command: Callable[[], object]) -> None:
        """Run a command, and print what it cost."""
        calls = self.qube.folder / "calls"
        calls.write_text("")
        self._line.counted()
        self.recorder.taken()
        start = time.monotonic()
        command()
        seconds = time.monotonic() - start
        traffic, sessions = self._line.counted(), self.recorder.taken()
        requests = [len(session.requests) for session in sessions]
        called = len(calls.read_text().splitlines())
        cells = [self.case, what, called, len(sessions), " + ".join(map(str, requests))]
        cells += [traffic.connections, traffic.turns, traffic.sent // 1000]
        print(_ROW.format(*cells, traffic.received // 1000, f"{seconds:.1f}"), flush=True)


def measure(folder: Path, line: Link, case: str, stream: bytes) -> None:
    """Measure the commands of one case."""
    place = Place(folder, line, case)
    with place.server() as reconnect:
        store = place.store()
        first = str(store.put(stream)["run"])
        for what, command in (
            ("put, unchanged", lambda: store.put(stream)),
            ("list", store.runs),
            ("get of one qube", lambda: store.run("get", first, "--members", "vm5/")),
            ("get latest, one qube", lambda: store.run("get", "latest", "--members", "vm5/")),
        ):
            reconnect()
            place.measure(what, command)
        shutil.rmtree(store.folder / "home" / ".cache")
        reconnect()
        place.measure("list, without a cache", store.runs)


def main() -> None:
    """Measure all cases, or those that are named."""
    qubes = [
        archives.Qube(
            f"qube-{number}", number + 1, volumes={"private": archives.image(VOLUME, number)}
        )
        for number in range(QUBES)
    ]
    stream = archives.join(archives.members(qubes))
    print(f"{MILLISECONDS} ms, {MEGABITS} Mbit/s, a stream of {len(stream) / 1e6:.1f} MB")
    print(_ROW.format(*_TITLES))
    print(_ROW.format(*["---"] * len(_TITLES)))
    for case in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as name, link(MILLISECONDS, MEGABITS) as line:
            measure(Path(name), line, case, stream)


if __name__ == "__main__":
    main()
