# SPDX-License-Identifier: GPL-3.0-or-later
"""How often the storage qube is called, and how much it is asked: at a distance, that is time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server import ssh_server
from testing.server.far_link import FAR, Link, link
from testing.server.maintenance import backup
from testing.server.sessions import Recorder, Session
from testing.server.storage_qube import ENGINES, QrexecStore, StorageQube, safe_borg
from testing.store.driver import mostly

pytestmark = pytest.mark.engines
PROGRAMS = {"rclone": ENGINES / "rclone", "borg": safe_borg()}
# Starts of the engine's server, and what each is asked at most; opening a restic repository takes
# five requests, a borg repository four. The second of restic's two writers may see the lock of the
# first, and reads it.
PUT = {"restic": [5, 11, 20], "borg": [12, 12]}
LIST = {"restic": [6], "borg": [5]}
GET_ONE = {"restic": [8, 14], "borg": [8, 18]}


@pytest.fixture
def recorder(qube: StorageQube) -> Recorder:
    """In the storage qube."""
    made = Recorder(qube.folder / "recorder", PROGRAMS)
    for name in PROGRAMS:
        qube.use(name, made.folder / name)
    return made


def check(sessions: list[Session], most: list[int]) -> None:
    asked = [session.requests for session in sessions]
    found = [len(requests) for requests in asked]
    assert len(found) == len(most), asked
    # two that run at the same time look for each other's locks, more or less often
    assert sum(found) <= sum(most), (found, asked)


def reads(session: Session) -> int:
    return session.requests.count("get")


@mostly("store", "restic")
def test_sessions_of_each_command(
    store: QrexecStore, qube: StorageQube, recorder: Recorder
) -> None:
    first = store.put(backup())
    recorder.taken()
    calls = qube.folder / "calls"
    calls.write_text("")
    store.put(backup())
    sessions = recorder.taken()
    check(sessions, PUT[store.engine])
    # restic's last one only flushes: no server is started for it
    more = 1 if store.engine == "restic" else 0
    assert len(calls.read_text().splitlines()) == len(sessions) + more
    store.runs()
    sessions = recorder.taken()
    check(sessions, LIST[store.engine])
    result = store.run("get", first["run"], "--members", "vm7/")
    assert result.returncode == 0, result.stderr
    sessions = recorder.taken()
    check(sessions, GET_ONE[store.engine])


@pytest.mark.thorough
def test_list_reads_no_archive_twice(borg: QrexecStore, recorder: Recorder) -> None:
    runs = [borg.put(backup()) for _ in range(3)]
    recorder.taken()
    assert borg.runs() == runs
    assert [reads(session) for session in recorder.taken()] == [1]
    kept = next((borg.folder / "home/.config/dedup-store").glob("*.summaries"))
    for damage in (b"", b'{"x": []}', b'{"x": 1}'):
        kept.write_bytes(damage)
        assert borg.runs() == runs
        assert [reads(session) for session in recorder.taken()] == [1, 4]
    assert borg.runs() == runs
    assert [reads(session) for session in recorder.taken()] == [1]


@pytest.fixture
def line() -> Iterator[Link]:
    with link(milliseconds=40, megabits=50) as made:
        yield made


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["restic", "borg"])
def test_commands_share_a_connection(tmp_path: Path, line: Link, engine: str) -> None:
    recorder = Recorder(tmp_path / "recorder", PROGRAMS)
    path = f"{recorder.folder}:/usr/bin:/bin"
    with ssh_server.far_away(tmp_path / "ssh", path, line) as server:
        (tmp_path / "storage").mkdir()
        qube = StorageQube(tmp_path / "storage", server.inside)
        place = f"ssh://root@{FAR}:{ssh_server.PORT}{server.data}"
        qube.configure("main", engine, place=place, ssh_config=str(server.ssh_config))
        (tmp_path / "backup").mkdir()
        store = QrexecStore(tmp_path / "backup", engine, qube, "main")
        store.configure()
        store.make()
        store.put(backup())
        server.stop()
        server.start(line.inside(FAR))
        line.counted()
        recorder.taken()
        stored = store.put(backup())
        check(recorder.taken(), PUT[engine])
        assert line.counted().connections == 1
        assert store.runs()[-1] == stored
        assert store.get() == backup()
