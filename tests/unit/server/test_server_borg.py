# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile backup qube can do to a borg repository: nothing that can't be undone."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from testing.server.borg_rpc import Client, EndedError
from testing.server.maintenance import accept_older, backup, last_transaction, tree
from testing.server.storage_qube import ENGINES, QUBE, QrexecStore, StorageQube
from testing.store import archives
from testing.store.borg_blocks import overlaps, pieces

Attack = Callable[[Client], Any]
CREATE = {"create": True, "append_only": False}


def rollback(qube: StorageQube, store: QrexecStore, number: int) -> None:
    result = qube.run("rollback", "main", "--to", str(number))
    assert result.returncode == 0, result.stderr
    accept_older(store)


@pytest.mark.thorough
def test_delete_is_undone(borg: QrexecStore, qube: StorageQube) -> None:
    kept = borg.put(backup())
    good = last_transaction(qube)
    for part in ("manifest", "payload"):
        assert borg.engine_itself("delete", f"::{kept['run']}.{part}").returncode == 0
    borg.engine_itself("compact")
    assert borg.runs() == []
    listing = qube.run("changes", "main", "--since", "2000-01-01").stdout.splitlines()
    assert int(listing[-2].split()[3]) > 0  # the last transaction removed objects
    assert qube.run("changes", "main", "--since", "2999-01-01").stdout.count("Z ") == 0
    rollback(qube, borg, good)
    assert borg.runs() == [kept]
    assert borg.get() == backup()
    assert last_transaction(qube) == good
    later = borg.put(backup())
    assert borg.get(later["run"]) == backup()


@pytest.mark.thorough
def test_backup_qube_notices_a_rollback(borg: QrexecStore, qube: StorageQube) -> None:
    """What is stored then isn't encrypted at the counts of what was stored before."""
    borg.put(backup())
    good = last_transaction(qube)
    borg.put(backup())
    before = pieces(qube.data / "main")
    assert qube.run("rollback", "main", "--to", str(good)).returncode == 0
    result = borg.run("list")
    assert result.returncode == 1
    assert f"`dedup-store accept older qrexec:{QUBE}/main`\n".encode() in result.stderr
    accept_older(borg)
    assert len(borg.runs()) == 1
    borg.put(backup())
    new = pieces(qube.data / "main") - before
    assert new
    assert overlaps(before, new) == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("session", "message"),
    [
        (1, b"is another repository than before, beef"),
        (2, b"gave one id and then another"),
    ],
)
def test_repository_that_tells_another_id_to_writers(
    borg: QrexecStore, qube: StorageQube, session: int, message: bytes
) -> None:
    """With another id, borg would begin to count where the storage qube says."""
    borg.put(backup())
    before = tree(qube.data / "main" / "data")
    if session > 1:  # the id is asked for where several were used
        known = next((borg.folder / "home/.config/dedup-store").glob("*.known"))
        record = json.loads(known.read_text())
        known.write_text(json.dumps(record | {"marks": [*record["marks"], "0" * 64]}))
    script = qube.folder / "engines" / "borg"
    script.unlink()
    script.write_text(
        f'#!/bin/sh\nif [ "$1" = serve ]; then echo >>{qube.folder}/sessions\n'
        f"[ $(wc -l <{qube.folder}/sessions) -lt {session} ] ||"
        f" sed -i 's/^id = ..../id = beef/' {qube.data}/main/config; fi\n"
        f'exec {ENGINES}/borg "$@"\n'
    )
    script.chmod(0o755)
    result = borg.run("put", data=backup())
    assert result.returncode == 1
    assert message in result.stderr
    assert tree(qube.data / "main" / "data") == before
    assert len(list((borg.folder / "home/.config/borg/security").iterdir())) == 1


@pytest.mark.thorough
def test_everything_overwritten_is_undone(borg: QrexecStore, qube: StorageQube) -> None:
    kept = borg.put(backup())
    good = last_transaction(qube)
    with qube.start("dedupbackup.Repository", "borg+main") as server:
        client = Client(server)
        client.open()
        ids = client.call("list", limit=10_000, marker=None)
        assert len(ids) > 5
        for number, item in enumerate(ids):
            if number % 2:
                client.call("put", id=item, data=b"garbage", wait=True)
            else:
                client.call("delete", id=item, wait=True)
        assert client.call("commit", compact=True, threshold=0.0) is None
        server.communicate()
    assert borg.run("list").returncode == 1
    rollback(qube, borg, good)
    assert borg.runs() == [kept]
    assert borg.get() == backup()


@pytest.mark.thorough
def test_key_can_not_be_changed(borg: QrexecStore, qube: StorageQube) -> None:
    borg.put(backup())
    before = (qube.data / "main" / "config").read_bytes()
    result = borg.engine_itself("key", "change-passphrase")
    assert result.returncode != 0
    assert (qube.data / "main" / "config").read_bytes() == before
    with qube.start("dedupbackup.Repository", "borg+main") as server:
        client = Client(server)
        client.open()
        with pytest.raises(EndedError):
            client.call("save_key", keydata=b"BORG_KEY lost")
        server.communicate()
    assert (qube.data / "main" / "config").read_bytes() == before
    assert borg.get() == backup()


@pytest.mark.thorough
def test_key_can_be_exported(borg: QrexecStore) -> None:
    """Without a lock, as borg does it."""
    result = borg.run("export-keys")
    assert result.returncode == 0, result.stderr
    assert b"BORG_KEY " in result.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["exclusive", pytest.param("shared", marks=pytest.mark.thorough)])
def test_dead_lock_whose_number_another_process_has(
    borg: QrexecStore, qube: StorageQube, kind: str
) -> None:
    """As a boot leaves it; that of a borg at work stays."""
    path, host = qube.data / "main", f"dedup-server@{socket.gethostname()}"
    borg.configure(lock_wait=0)
    for name, is_dead in (("sleep", True), ("borg", False)):
        with subprocess.Popen([name, "3600"], executable=shutil.which("sleep")) as process:
            if kind == "exclusive":
                owner = "dedup-server@name-of-before" if is_dead else host
                (path / "lock.exclusive").mkdir()
                (path / "lock.exclusive" / f"{owner}.{process.pid}-0").touch()
                (path / "lock.roster").write_text("[" * 60_000)
            else:
                roster = json.dumps({kind: [[host, process.pid, 0]]})
                (path / "lock.roster").write_text(roster)
            result = borg.run("put", data=backup())
            process.kill()
        assert (result.returncode == 0) == is_dead, result.stderr
        assert (path / "lock.exclusive").exists() == (kind == "exclusive" and not is_dead)
        assert path.joinpath("lock.roster").exists() != is_dead


@pytest.mark.thorough
def test_config_that_was_changed_is_brought_back(borg: QrexecStore, qube: StorageQube) -> None:
    """By another way to the repository than the service."""
    borg.put(backup())
    good = last_transaction(qube)
    config = qube.data / "main" / "config"
    before = config.read_bytes()
    config.write_bytes(re.sub(rb"(?m)^key = .*", b"key = x", before))
    borg.run("list")  # fails; the service keeps a copy of the new one too
    assert qube.run("changes", "main").stdout.count("copy of config: ") == 2
    rollback(qube, borg, good)
    assert config.read_bytes() == before
    assert borg.get() == backup()


ATTACKS: dict[str, Attack] = {
    "destroy": lambda client: client.open() and client.call("destroy"),
    "destroy after create": lambda client: client.open(**CREATE) and client.call("destroy"),
    "break a lock": lambda client: client.open() and client.call("break_lock"),
    "repair": lambda client: client.open() and client.call("check", repair=True),
    "no lock": lambda client: (
        client.open(lock=False) and client.call("put", id=bytes(32), data=b"x", wait=True)
    ),
    "lock is zero": lambda client: client.open(lock=0) and client.call("commit"),
    "create without a lock": lambda client: client.open(lock=False, **CREATE),
    "create": lambda client: client.open(create=1),
    "open twice": lambda client: client.open() and client.open(),
    "another repository": lambda client: client.open("other"),
    "dots": lambda client: client.open("../other"),
    "dots behind": lambda client: client.open("main/../other"),
    "home": lambda client: client.call("open", path="/~/x"),
    "absolute": lambda client: client.call("open", path="/etc"),
    "no path": lambda client: client.call("open"),
    "before open": lambda client: client.call("get", id=bytes(32)),
    "exception": lambda client: client.open() and client.call("inject_exception", kind="divide"),
    "unknown": lambda client: client.open() and client.call("__init__"),
    "old form": lambda client: (
        client.open() and client.raw(msgpack.packb([1, 9, b"destroy", []], use_bin_type=False))
    ),
    "key twice": lambda client: client.raw(b"\x84\xa1i\x01\xa1m\xa4open\xa1m\xa7destroy\xa1a\x80"),
    "key as bin and str": lambda client: client.raw(
        b"\x84\xa1i\x01\xa1m\xa4open\xc4\x01m\xa7destroy\xa1a\x80"
    ),
    "extension": lambda client: client.raw(b"\xd4\x00\x00"),
    "number": lambda client: client.raw(b"\x01"),
    "too long": lambda client: client.raw(b"\xc6\xff\xff\xff\xff"),
    "too many": lambda client: client.raw(b"\xdf\xff\xff\xff\xff\xa1i"),
    "too deep": lambda client: client.raw(b"\x91" * 2000),
}


def test_attacks_end_the_session(borg: QrexecStore, qube: StorageQube) -> None:
    borg.put(backup())
    shutil.copytree(qube.data / "main", qube.data / "other")
    before = tree(qube.data)
    for name, attack in ATTACKS.items():
        with qube.start("dedupbackup.Repository", "borg+main") as server:
            client = Client(server)
            with pytest.raises(EndedError):
                pytest.fail(f"{name}: {attack(client)}")
            _, errors = server.communicate()
            assert server.returncode == 3, name
            assert b"dedup-server: " in errors
            assert b"Traceback" not in errors, name
        assert tree(qube.data) == before, name
    assert borg.get() == backup()


@pytest.mark.usefixtures("borg")
def test_why_requests_are_watched(qube: StorageQube) -> None:
    """Borg's own append-only mode lets a repository be destroyed (see borg_filter.py)."""
    path = qube.data / "main"
    argv = [ENGINES / "borg", "serve", "--append-only", "--restrict-to-repository", path]
    with subprocess.Popen(
        argv, cwd=qube.data, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        client = Client(server)
        assert client.open(**CREATE) == b"AlreadyExists"
        assert client.call("destroy") is None
        server.communicate()
    assert not path.exists()


def test_hostile_creation(qube: StorageQube) -> None:
    """While a repository is made, borg doesn't append only."""
    qube.configure("main", "borg")
    with qube.start("dedupbackup.Repository", "borg+main") as server:
        client = Client(server)
        assert len(client.open(create=True)) == 32
        assert client.call("save_key", keydata=b"BORG_KEY x") is None
        with pytest.raises(EndedError):
            client.call("delete", id=bytes(32))
        server.communicate()
        assert server.returncode == 3


@pytest.mark.thorough
def test_rollback_of_what_is_not_there(borg: QrexecStore, qube: StorageQube) -> None:
    borg.put(archives.join(archives.members([archives.Qube("a", 7, volumes={"private": b"x"})])))
    before = tree(qube.data)
    result = qube.run("rollback", "main", "--to", "999")
    assert result.returncode == 2
    assert "there is no transaction 999" in result.stderr
    assert qube.run("rollback", "other", "--to", "1").returncode == 2
    assert qube.run("changes", "main", "--since", "yesterday").returncode == 2
    with qube.start("dedupbackup.Repository", "borg+main") as server:
        client = Client(server)
        client.open()
        result = qube.run("rollback", "main", "--to", str(last_transaction(qube)))
        assert result.returncode == 1
        assert "a session is using repository main" in result.stderr
        server.communicate()
    after = tree(qube.data)
    assert {name: after.get(name) for name in before} == before


@pytest.mark.thorough
def test_interrupted_rollback_is_finished(borg: QrexecStore, qube: StorageQube) -> None:
    """Killed between two of its renames: the newest segments are away already."""
    kept = borg.put(backup())
    good = last_transaction(qube)
    borg.put(backup())
    path = qube.data / "main"
    for file in [*path.glob("index.*"), *path.glob("integrity.*")]:
        file.unlink()
    newest = max((path / "data").glob("*/*"), key=lambda file: int(file.name))
    newest.unlink()
    rollback(qube, borg, good)
    assert borg.runs() == [kept]
    assert borg.get() == backup()
