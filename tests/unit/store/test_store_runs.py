# SPDX-License-Identifier: GPL-3.0-or-later
"""put, get, list with real engines."""

import contextlib
import functools
import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from dedup_store.archive.manifest import is_run_name, new_run_name

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import ENCRYPTED, PAYLOAD, Store, mostly

NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-20261123T231500-4711-[0-9a-f]{4}")


@functools.cache
def backup() -> bytes:
    qubes = archives.small_qubes()
    qubes[1].volumes["private"] = archives.image(20_000_000, 7)
    return archives.join(archives.members(qubes))


@pytest.mark.sampled(3)
def test_from_put_to_get(store: Store) -> None:
    assert store.run("get", "latest").returncode == 4
    stored = store.put(backup())
    assert NAME.fullmatch(stored["run"])
    assert stored["status"] == "whole"
    assert stored["reason"] == ""
    assert stored["backup_id"] == archives.BACKUP_ID
    assert stored["stream_bytes"] == len(backup())
    assert [qube["name"] for qube in stored["qubes"]] == ["debian", "work", "disp", "dom0"]
    assert store.runs() == [stored]
    partial = store.put(backup()[:-1000], code=3)
    assert partial["status"] == "partial"
    listed = store.runs()
    assert listed in ([stored, partial], [partial, stored])
    assert store.get() == backup()
    result = store.run("get", partial["run"])
    assert result.returncode == 0
    assert result.stdout == backup()[:-1000]
    assert b"warning: " in result.stderr
    assert b"is partial: the stream is cut after" in result.stderr
    table = store.run("list").stdout.decode().splitlines()
    assert table[0].split() == ["RUN", "TIME", "STATUS", "QUBES", "SIZE", "REASON"]
    assert sorted(line.split()[2] for line in table[1:]) == ["partial", "whole"]


@mostly("store", "restic", "directory")
def test_show_lists_the_members(store: Store) -> None:
    qubes = archives.small_qubes()
    parts = list(archives.members(qubes))
    run = store.put(archives.join(parts))["run"]
    shown = json.loads(store.run("show", run, "--json").stdout)
    assert {key: shown[key] for key in ("run", "status")} == {"run": run, "status": "whole"}
    assert [member["name"] for member in shown["members"]] == [name for name, _ in parts]
    for member, (name, data) in zip(shown["members"], parts, strict=True):
        bare = name == "backup-header"
        assert member["container"] == ("none" if bare else "authenticated")
        payload = data if bare else data[96:-32]
        assert member["payload_length"] == len(payload)
        assert member["payload_sha256"] == hashlib.sha256(payload).hexdigest()
        assert set(member) == {"name", "container", "payload_length", "payload_sha256"}
    first, *rest = store.run("show", "latest", "--lines").stdout.splitlines()
    assert [json.loads(line) for line in rest] == shown["members"]
    assert json.loads(first)["members"] == len(parts)
    assert [row.split()[2] for row in store.run("show", run).stdout.decode().splitlines()] == [
        name for name, _ in parts
    ]
    listed = [json.loads(line) for line in store.run("list", "--lines").stdout.splitlines()]
    assert [(row["run"], "qubes" in row) for row in listed] == [(run, False)]
    assert store.run("show", "nothing").returncode == 4


def test_show_of_what_is_no_backup(borg_store: Store) -> None:
    stream = archives.outer("backup-header", archives.header()) + archives.outer("y", b"y")
    run = borg_store.put(stream + b"no archive" * 100, code=3)["run"]
    rows = [json.loads(r) for r in borg_store.run("show", run, "--lines").stdout.splitlines()[1:]]
    assert [row["name"] for row in rows] == ["backup-header", "y", None]
    named = archives.outer(f"{'d' * 200}/{'e' * 200}/{'f' * 200}", b"x")
    run = borg_store.put(named, code=3)["run"]
    lines = borg_store.run("show", run, "--lines").stdout.splitlines()
    assert len(json.loads(lines[1])["name"]) == 200
    assert max(map(len, lines)) < 2000


def test_latest_is_the_newest_whole_run(borg_store: Store) -> None:
    qube = Qube("work", 7, volumes={"private": b"x"})
    streams = []
    for _ in range(2):
        streams.append(archives.join(archives.members([qube])))
        borg_store.put(streams[-1])
        wait_for_next_second()
    borg_store.put(streams[0][:-5], code=3)
    assert (
        borg_store.put(archives.join(archives.members([qube], kind="scrypt")))["status"] == "opaque"
    )
    assert borg_store.get() == streams[1]


def wait_for_next_second() -> None:
    """Runs are ordered by seconds."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.01)


def test_human_output(borg_store: Store) -> None:
    result = borg_store.run("put", data=backup())
    assert result.returncode == 0
    assert re.fullmatch(rb"stored [0-9A-Za-z-]+ \(whole, 10\.[0-9] MB\)\n", result.stdout)
    assert result.stderr == b""
    result = borg_store.run("put", data=backup()[:30_000])
    assert result.returncode == 3
    assert result.stderr.startswith(b"dedup-store: not a whole backup, kept as partial run ")
    assert result.stderr.count(b"\n") == 1


def test_get_reports_as_json_on_stderr(borg_store: Store) -> None:
    stored = borg_store.put(backup())
    result = borg_store.run("get", "latest", "--json")
    assert result.stdout == backup()
    assert json.loads(result.stderr) == stored
    result = borg_store.run("get", "other", "--json")
    assert result.returncode == 4
    assert json.loads(result.stderr.splitlines()[-1])["exit_code"] == 4


def test_compressed_backup_is_kept_with_a_warning(borg_store: Store) -> None:
    stream = archives.join(archives.members(archives.small_qubes(), compressed=True))
    result = borg_store.run("put", data=stream)
    assert result.returncode == 0
    assert b"warning: the backup is compressed" in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert borg_store.get() == stream


def test_really_encrypted_backup_is_kept_as_it_is(borg_store: Store) -> None:
    qube = Qube("work", 7, volumes={"private": archives.noise(300_000)})
    stream = archives.join(archives.members([qube], kind="scrypt"))
    result = borg_store.run("put", "--json", data=stream)
    assert result.returncode == 0
    assert b"warning: " in result.stderr
    stored = json.loads(result.stdout)
    assert stored["status"] == "opaque"
    assert borg_store.run("get", "latest").returncode == 4
    assert borg_store.get(stored["run"]) == stream


def test_mixed_stream(borg_store: Store) -> None:
    """Containers of all kinds in one stream, then garbage."""
    parts = []
    for kind in ("authenticated", "scrypt", "plain"):
        qube = Qube(kind, len(kind), volumes={"private": archives.noise(200_000)})
        parts += [(f"{kind}-{n}", d) for n, d in archives.members([qube], kind=kind)]
    stream = archives.join(parts) + archives.noise(300_000)
    stored = borg_store.put(stream, code=3)
    assert borg_store.get(stored["run"]) == stream


def test_garbage_is_kept_unsplit(borg_store: Store) -> None:
    stream = os.urandom(3_000_000)
    stored = borg_store.put(stream, code=3)
    assert "-unknown-" in stored["run"]
    assert borg_store.get(stored["run"]) == stream


def test_empty_stream(borg_store: Store) -> None:
    result = borg_store.run("put", data=b"")
    assert result.returncode == 3
    assert result.stderr == b"dedup-store: nothing came on stdin, nothing was stored\n"
    assert borg_store.runs() == []


@pytest.mark.parametrize(
    "backup_id",
    ["../../etc", "a b", "x" * 65, "\x1b[2J", "{now}", "%s", "", "a\nb", "\u00e4"],
)
def test_hostile_backup_ids_are_not_in_names(backup_id: str) -> None:
    header = archives.header(backup_id="@").decode().replace("@", backup_id).encode()
    name = new_run_name(archives.outer("backup-header", header), time.gmtime())
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z-(unknown|a)-[0-9a-f]{4}", name)
    assert is_run_name(name)


def test_backup_id_that_looks_like_an_option(borg_store: Store) -> None:
    header = archives.header(backup_id="--repo")
    parts = list(archives.members([Qube("work", 7, volumes={"private": b"x"})]))
    parts[0] = ("backup-header", header)
    parts[1] = ("backup-header.hmac", archives.container(header))
    stream = archives.join(parts)
    stored = borg_store.put(stream)
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z---repo-[0-9a-f]{4}", stored["run"])
    assert borg_store.get(stored["run"]) == stream


@pytest.mark.parametrize("name", ["../x", "a\x1b[31mb" + "x" * 5000, "20261123T231500Z-x"])
def test_get_of_runs_that_are_none(borg_store: Store, name: str) -> None:
    result = borg_store.run("get", "--", name)
    assert result.returncode == 4
    assert b"there is no run" in result.stderr
    assert b"\x1b" not in result.stderr
    assert len(result.stderr) < 400


@pytest.mark.sampled(3)
def test_each_volume_is_an_object_of_its_own(store: Store) -> None:
    """So that one qube can be read without the others."""
    qubes = [Qube(f"q{n}", n, volumes={"private": archives.noise(17 << 20, n)}) for n in (1, 2)]
    stored = store.put(archives.join(archives.members(qubes)))
    if store.engine == "borg":
        listing = store.native("list", "--json-lines", f"::{stored['run']}.payload")
        sizes = [json.loads(line)["size"] for line in listing.splitlines()]
        text = store.native("extract", "--stdout", f"::{stored['run']}.manifest")
    elif store.engine == "directory":
        run = store.stored / stored["run"]
        assert sorted(path.name for path in run.iterdir()) == ["0", "1", "manifest", "objects.json"]
        sizes = [(run / name).stat().st_size for name in ("0", "1")]
        text = (run / "manifest").read_bytes()
    else:
        snapshots = json.loads(store.native("snapshots", "--json"))
        found = {s["tags"][1].partition("=")[0]: s["id"] for s in snapshots}
        assert len(snapshots) == 2
        text = store.native("dump", found["summary"], "/manifest")
        (payload,) = (s for s in snapshots if s["paths"] == ["/payload"])
        assert payload["tags"][1] == "payload"
        sizes = json.loads(text.partition(b"\n")[0])["objects"]
        data = store.native("dump", payload["id"], "/payload")
        assert len(data) == sum(sizes) + 64 * len(sizes)
        assert not data[sizes[0] : sizes[0] + 64].strip(b"\0")
        assert not data[-64:].strip(b"\0")
    assert len(sizes) == 2
    for n, size in enumerate(sizes, 1):
        assert 17 << 20 <= size < (17 << 20) + 2048, n
    manifest = json.loads(text.partition(b"\n")[0])
    assert manifest["format"] == 2
    assert manifest["objects"] == sizes
    named = {m["name"]: m["object"] for m in manifest["members"]}
    assert (named["vm1/private.img.000.enc"], named["vm2/private.img.000.enc"]) == (0, 1)


@functools.cache
def same_backup_twice() -> tuple[bytes, bytes]:
    """One volume of two chunks, one of many holes; salts, times, process ids are new each time."""
    qubes = [
        Qube("one", 7, volumes={"private": archives.noise(105 << 20, 1)}),
        Qube("two", 8, volumes={"private": archives.image(30 << 20, 2)}, files={"notes.txt": b"x"}),
    ]
    first, second = (archives.join(archives.members(qubes)) for _ in range(2))
    return first, second


@pytest.mark.sampled(2)
@ENCRYPTED
def test_growth_of_an_unchanged_backup(store: Store) -> None:
    """Below 0.1 % of the stream, and below 0.02 % of the repository."""
    sizes = [folder_size(store.repository)]
    for stream in same_backup_twice():
        store.put(stream)
        sizes.append(folder_size(store.repository))
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    assert first > 105 << 20
    assert second < len(stream) / 1000
    assert second < first / 5000


def folder_size(path: Path) -> int:
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def test_list_of_many_runs_starts_the_engine_once(restic_store: Store) -> None:
    small = archives.join(archives.members([Qube("work", 7, volumes={"private": b"x"})]))
    names = {restic_store.put(small)["run"] for _ in range(2)}
    counter = restic_store.folder / "bin" / "restic"
    counter.parent.mkdir()
    log = restic_store.folder / "starts"
    counter.write_text(f'#!/bin/sh\necho "$*" >>{log}\nPATH=$REAL_PATH exec restic "$@"\n')
    counter.chmod(0o755)
    real = os.environ["PATH"]
    counter.write_text(counter.read_text().replace("$REAL_PATH", real))
    variables = restic_store.environment | {"PATH": f"{counter.parent}:{real}"}
    command = [PAYLOAD / "dedup-store", "list", "--json"]
    result = subprocess.run(command, capture_output=True, env=variables, check=True)
    assert {run["run"] for run in json.loads(result.stdout)["runs"]} == names
    assert len(log.read_text().splitlines()) == 1


def test_objects_of_others_in_the_repository(restic_store: Store) -> None:
    """Snapshots that aren't ours, or pretend to be."""
    good = restic_store.put(backup())["run"]
    run = "20200101T000000Z-x"
    for host, tags in [
        ("laptop", f"run={run},summary=e30"),
        ("dedup-store", "run=../../x,summary=e30"),
        ("dedup-store", f"run={run},summary=%%%"),
        ("dedup-store", "mine"),
    ]:
        command = ["backup", "-q", "--stdin", "--stdin-filename", "manifest"]
        restic_store.native(*command, "--host", host, "--tag", tags, data=b"{}\nrecipe")
    runs = {item["run"]: item for item in restic_store.runs()}
    assert set(runs) == {good, run}
    assert runs[run]["status"] == "partial"
    assert runs[run]["reason"] == "its summary is malformed"
    result = restic_store.run("get", run)
    assert result.returncode == 5
    assert b"is malformed" in result.stderr
    assert b"Traceback" not in result.stderr


def test_payload_that_was_exchanged(borg_store: Store) -> None:
    """Somebody with the password puts other payload under an old run's manifest."""
    archive = f"::{borg_store.put(backup())['run']}.payload"
    payload = bytearray(borg_store.native("extract", "--stdout", archive))
    payload[len(payload) // 2] ^= 1
    borg_store.native("delete", archive)
    borg_store.native("create", "--stdin-name", "000000", archive, "-", data=bytes(payload))
    result = borg_store.run("get", "latest")
    assert result.returncode == 5
    assert b"vm7/private.img.000.enc is damaged" in result.stderr


@pytest.mark.sampled(3)
def test_payload_that_is_missing(store: Store) -> None:
    stored = store.put(backup())
    if store.engine == "borg":
        store.native("delete", f"::{stored['run']}.payload")
    elif store.engine == "directory":
        (store.stored / stored["run"] / "0").unlink()
    else:
        snapshots = json.loads(store.native("snapshots", "--json", "--path", "/payload"))
        store.native("forget", "-q", snapshots[0]["id"])
    result = store.run("get", "latest")
    assert result.returncode == 1
    assert result.stderr.startswith(b"dedup-store: ")
    assert b"Traceback" not in result.stderr


@pytest.mark.sampled(3)
def test_reader_that_goes_away(store: Store) -> None:
    """Qubes' tar2qfile stops when it has what it wants; that is no failure of the store."""
    store.put(backup())
    with store.start("get", "latest") as getter:
        assert getter.stdout is not None
        assert getter.stderr is not None
        assert getter.stdout.read(100_000) == backup()[:100_000]
        getter.stdout.close()
        assert getter.stderr.read() == b""
        assert getter.wait() == 0
    assert store.get() == backup()


@pytest.mark.sampled(3)
def test_environment_of_the_caller_does_not_matter(store: Store) -> None:
    """No locale, no terminal, engine variables of another repository."""
    variables = store.environment | {
        "LC_ALL": "C",
        "LANG": "de_DE.UTF-8",
        "TZ": "Asia/Tokyo",
        "RESTIC_REPOSITORY": "/nonexistent",
        "RESTIC_PASSWORD": "wrong",
        "BORG_REPO": "/nonexistent",
        "BORG_PASSPHRASE": "wrong",
        "PYTHONPATH": "/nonexistent",
    }
    command = [PAYLOAD / "dedup-store", "put", "--json"]
    result = subprocess.run(command, input=backup(), env=variables, capture_output=True, check=True)
    assert json.loads(result.stdout)["time"][:4] == json.loads(result.stdout)["run"][:4]
    assert store.get() == backup()


@ENCRYPTED
def test_password_is_in_no_command_line(store: Store) -> None:
    """Not of dedup-store, not of an engine."""
    password = store.password.read_bytes().strip()
    with store.start("put", stdin=subprocess.PIPE) as putter:
        assert putter.stdin is not None
        putter.stdin.write(backup()[: len(backup()) - 1])
        putter.stdin.flush()
        lines = command_lines()
        assert any(store.engine.encode() in line for line in lines)
        assert not any(password in line for line in lines)
        putter.stdin.write(backup()[-1:])
        putter.stdin.close()
        assert putter.wait() == 0


def command_lines() -> list[bytes]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines.append(path.read_bytes())
    return lines
