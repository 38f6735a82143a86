# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories on another machine: a real sshd, reached by SFTP through rclone, and by ssh."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.server import borg_rpc, http2
from testing.server.maintenance import SECRET, backup, tree
from testing.server.ssh_server import PORT, SshServer, running
from testing.server.storage_qube import ENGINES, QrexecStore, StorageQube


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    folder = tmp_path_factory.mktemp("ssh")
    with running(folder, f"{ENGINES}:/usr/bin:/bin") as started:
        yield started


@pytest.fixture
def far(tmp_path: Path, server: SshServer) -> StorageQube:
    """A storage qube that reaches the server."""
    folder = tmp_path / "storage"
    folder.mkdir()
    qube = StorageQube(folder, server.inside)
    qube.use("rclone", ENGINES / "rclone")
    return qube


def place_of(server: SshServer, kind: str) -> dict[str, str]:
    """Settings for a place on the server."""
    if kind == "sftp":
        place = f"rclone:far:{server.data}"
        return {"place": place, "rclone_config": str(server.rclone_config)}
    place = f"ssh://root@127.0.0.1:{PORT}{server.data}"
    return {"place": place, "ssh_config": str(server.ssh_config)}


KINDS = [
    ("restic", "sftp"),
    ("restic", "ssh"),
    pytest.param("borg", "ssh", marks=pytest.mark.thorough),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("engine", "kind"), KINDS)
def test_far_repository(
    far: StorageQube, server: SshServer, tmp_path: Path, engine: str, kind: str
) -> None:
    name = f"{engine}-{kind}"
    far.configure(name, engine, **place_of(server, kind))
    (tmp_path / "backup").mkdir()
    store = QrexecStore(tmp_path / "backup", engine, far, name)
    store.configure()
    store.make()
    stored = store.put(backup())
    assert store.runs() == [stored]
    assert store.get() == backup()
    assert (server.data / name / "config").is_file()
    before = tree(server.data)
    with far.start("dedupbackup.Repository", f"{engine}+{name}") as process:
        if engine == "restic":
            attack_restic(http2.Client(process), name, before)
            process.kill()
        else:
            client = borg_rpc.Client(process)
            client.open(name, create=True)
            with pytest.raises(borg_rpc.EndedError):
                client.call("destroy")
            process.communicate()
    after = tree(server.data)
    assert {path: after.get(path) for path in before} == before
    assert store.get() == backup()


def attack_restic(client: http2.Client, name: str, files: dict[str, str]) -> None:
    for path in files:
        own = path.removeprefix(f"{name}/")
        assert client.request("DELETE", f"/{own}").status >= 400, path
        client.request("POST", f"/{own}", b"overwritten")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_nothing_else_can_be_reached_by_sftp(
    far: StorageQube, server: SshServer, method: str
) -> None:
    """GHSA-45pq-889g-fcgh: rclone before 1.75 follows `..` here."""
    far.configure("main", "restic", **place_of(server, "sftp"))
    for name in ("main/locks", "other/locks"):
        (server.data / name).mkdir(parents=True, exist_ok=True)
    for name in ("main/config", "other/config", "other/locks/x"):
        (server.data / name).write_bytes(SECRET if name.startswith("other") else b"own")
    before = tree(server.data)
    body = b"hostile" if method == "POST" else None
    with far.start("dedupbackup.Repository", "restic+main") as process:
        client = http2.Client(process)
        assert client.request("GET", "/config").body == b"own"
        for way in ("/../other/config", "/..%2fother/config", "/../other/new", "/../other/locks/x"):
            assert SECRET not in client.request(method, way, body).body
        process.kill()
    assert (server.data / "other" / "locks" / "x").read_bytes() == SECRET
    after = tree(server.data)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in changed if not path.startswith("main/")} == set()


def test_server_that_is_not_the_known_one(far: StorageQube, server: SshServer) -> None:
    known = (server.folder / "known_hosts").read_text()
    other = server.ssh_config.with_name("other_config")
    key = server.folder / "stranger"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    hosts = server.folder / "other_hosts"
    hosts.write_text(known.split(" ", maxsplit=1)[0] + " " + key.with_suffix(".pub").read_text())
    text = server.ssh_config.read_text().replace("/known_hosts", "/other_hosts")
    other.write_text(text)
    far.configure("main", "borg", **place_of(server, "ssh") | {"ssh_config": str(other)})
    result = far.call("dedupbackup.Repository", "borg+main")
    assert result.returncode == 255
    assert b"Host key verification failed" in result.stderr


def test_rollback_is_for_the_machine_that_has_the_data(far: StorageQube, server: SshServer) -> None:
    far.configure("main", "borg", **place_of(server, "ssh"))
    for command in (["changes", "main"], ["rollback", "main", "--to", "1"]):
        result = far.run(*command)
        assert result.returncode == 2
        assert f"run this where ssh://root@127.0.0.1:{PORT}" in result.stderr
