# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage qube whose place is S3, through rclone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server import http2
from testing.server.maintenance import backup, is_refused, opened, small, tree
from testing.server.storage_qube import ENGINES, QrexecStore, StorageQube
from testing.store.s3_server import BUCKET, S3Server, serving

pytestmark = pytest.mark.thorough
ARGUMENT = "restic+main"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with serving(tmp_path / "s3") as started:
        yield started


@pytest.fixture
def s3(tmp_path: Path, qube: StorageQube, server: S3Server) -> QrexecStore:
    """A repository that was made through the service."""
    qube.use("rclone", ENGINES / "rclone")
    place = {"place": f"rclone:far:{BUCKET}", "rclone_config": str(server.rclone_config)}
    qube.configure("main", "restic", **place)
    (tmp_path / "backup").mkdir()
    store = QrexecStore(tmp_path / "backup", "restic", qube, "main")
    store.configure()
    store.make()
    return store


def test_nothing_can_be_removed_or_overwritten(
    s3: QrexecStore, qube: StorageQube, server: S3Server
) -> None:
    s3.put(backup())
    before = tree(server.data)
    assert len(before) > 6
    with qube.start("dedupbackup.Repository", ARGUMENT) as process:
        client = http2.Client(process)
        for name in before:
            path = "/" + name.removeprefix("main/")
            assert client.request("DELETE", path).status >= 400, path
            client.request("POST", path, b"overwritten")
        process.kill()
    after = tree(server.data)
    assert {name: after.get(name) for name in before} == before
    assert s3.get() == backup()


def test_runs_are_removed_in_maintenance_only(s3: QrexecStore, qube: StorageQube) -> None:
    gone, kept = s3.put(backup()), s3.put(small())
    for words in (["forget", gone["run"]], ["prune"]):
        assert s3.run(*words).returncode == 1
    assert s3.runs() == [gone, kept]
    with opened(qube, ARGUMENT) as opener:
        for words in (["forget", gone["run"]], ["prune"]):
            result = s3.run(*words)
            assert result.returncode == 0, result.stderr
        assert opener.stdin is not None
        opener.stdin.close()
        assert opener.wait() == 0
    assert is_refused(qube, ARGUMENT)
    assert s3.runs() == [kept]
    assert s3.get() == small()
