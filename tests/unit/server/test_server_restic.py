# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile backup qube can do to a restic repository: nothing to what is there."""

import pytest

from testing.server.http2 import Client
from testing.server.maintenance import SECRET, backup, tree
from testing.server.storage_qube import QrexecStore, StorageQube


def test_nothing_can_be_removed_or_overwritten(restic: QrexecStore, qube: StorageQube) -> None:
    restic.put(backup())
    before = tree(qube.data)
    assert len(before) > 6
    with qube.start("dedupbackup.Repository", "restic+main") as server:
        client = Client(server)
        for name in sorted(before):
            path = "/" + name.removeprefix("main/")
            short = "/data/" + path.rpartition("/")[2] if path.startswith("/data/") else path
            for request in {path, short, path.replace("/", "//"), f"/locks/..{path}"}:
                assert client.request("DELETE", request).status >= 400, request
                client.request("POST", request, b"")
                client.request("POST", request, b"overwritten")
        client.request("DELETE", "/")
        client.request("DELETE", "/snapshots/")
        client.request("POST", "/?create=true", b"")
        assert client.request("GET", "/config").status == 200
        server.kill()
    after = tree(qube.data)
    assert {name: after.get(name) for name in before} == before
    for name in after.keys() - before.keys():  # restic tries such for minutes: docs/storage-qube.md
        (qube.data / name).unlink()
    assert restic.get() == backup()


@pytest.mark.thorough
def test_forget_is_refused(restic: QrexecStore) -> None:
    restic.put(backup())
    result = restic.engine_itself("forget", "--prune", "--keep-last", "1", "--group-by", "host")
    assert result.returncode != 0
    assert b"403" in result.stderr or b"Forbidden" in result.stderr
    assert restic.get() == backup()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_nothing_else_can_be_reached(restic: QrexecStore, qube: StorageQube, method: str) -> None:
    other = qube.data / "other"
    (other / "locks").mkdir(parents=True)
    (other / "config").write_bytes(SECRET)
    (other / "locks" / "x").write_bytes(SECRET)
    (qube.folder / "secret").write_bytes(SECRET)
    before = tree(qube.folder)
    body = b"hostile" if method == "POST" else None
    ways = ["/../other/config", "/..%2fother/config", "/%2e%2e/other/config", "//../other/config"]
    ways += [
        "/locks/../../other/config",
        "/../other/locks/x",
        "/../../secret",
        "/data/../../other/",
    ]
    ways += [f"{other}/config", "/../other/new", "/./../other/config", "/..%00/other/config"]
    with qube.start("dedupbackup.Repository", "restic+main") as server:
        client = Client(server)
        assert client.request("GET", "/config").status == 200
        for way in ways:
            answer = client.request(method, way, body)
            assert SECRET not in answer.body, way
            assert b"config" not in answer.body, way
        server.kill()
    after = tree(qube.folder)
    assert (other / "locks" / "x").read_bytes() == SECRET
    assert {name: after.get(name) for name in before} == before
    assert all(name.startswith("data/main/") for name in set(after) - set(before))
    assert restic.runs() == []
