# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/design/formats.md: its test vectors, read and written by our programs and by a few lines.

The functions `decode` and `join` are an implementation of their own, after that page alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from backup_format import limits
from dedup_backup.records import confirmed, ledger
from dedup_backup.settings import StoreAddress
from dedup_store.archive.manifest import from_json, pack_summary, read_summary
from dedup_store.archive.recipe import operations
from dedup_store.engines.directory.writer import DirectoryWriter
from dom0_common.paths import Paths

from testing.paths import PROJECT
from testing.shim.driver import temporary_root
from testing.store import memory_engine
from testing.store.driver import Store

PAGE = (PROJECT / "docs/design/formats.md").read_text()
BACKUP, RUN = "20261124T101500-4711", "20261124T101502Z-20261124T101500-4711-5e0f"


def vector(name: str) -> str:
    """Give the content of a fenced block, without its last newline."""
    found = re.findall(rf"^```[a-z]+ vector={name}\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, name
    return str(found[0])


HEADER = vector("header").encode() + b"\n"
PASSPHRASE = vector("line").removeprefix("backup-header!").encode()
CONTAINER = bytes.fromhex(vector("container"))
MANIFEST = vector("manifest").encode() + b"\n"
RECIPE = base64.b64decode(vector("recipe"))
OBJECT = b"Qubes OS backup\n" * 4352 + bytes(1024)
INDEX = vector("index").encode() + b"\n"


def decode(container: bytes, line: bytes) -> bytes:
    """Give a container's payload."""
    head, payload, trailer = container[:96], container[96:-32], container[-32:]
    assert (head[:7], head[8:16]) == (b"scrypt\x80", struct.pack(">II", 8, 1))
    assert head[48:64] == hashlib.sha256(head[:48]).digest()[:16]
    key = hashlib.scrypt(line, salt=head[16:48], n=1 << head[7], r=8, p=1, maxmem=1 << 28)[32:]
    assert head[64:] == hmac.digest(key, head[:64], "sha256")
    signed = head + hashlib.sha256(payload).digest() + struct.pack(">Q", len(payload))
    assert trailer == hmac.digest(key, signed, "sha256")
    return payload


def join(manifest: dict[str, Any], recipe: bytes, payload: bytes) -> bytes:
    """Give the stream that was stored."""
    rest, objects, stream = zlib.decompress(recipe), io.BytesIO(payload), b""
    digests: list[Any] = []
    while rest:
        operation, count = struct.unpack(">cQ", rest[:9])
        data, rest = b"", rest[9:]
        if operation == b"M":
            digests.append(hashlib.sha256())
        elif operation == b"Z":
            data = bytes(count)
        elif operation == b"C":
            data = objects.read(count)
        else:
            data, rest = rest[:count], rest[count:]
        if operation in b"PC":
            digests[-1].update(data)
        stream += data
    assert objects.read() == b""
    wanted = [member["payload_sha256"] for member in manifest["members"]]
    assert [digest.hexdigest() for digest in digests] == wanted
    return stream


@pytest.fixture(scope="module")
def stream() -> bytes:
    """The stream of the example."""
    return join(json.loads(MANIFEST), RECIPE, OBJECT)


@pytest.fixture(scope="module")
def members(stream: bytes) -> dict[str, bytes]:
    """The members of the example."""

    def read() -> Iterator[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(stream), ignore_zeros=True) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file
                yield member.name, file.read()

    return dict(read())


def line_of(name: str) -> bytes:
    """Give the passphrase line of a member."""
    middle = "backup-header" if name == "backup-header.hmac" else f"{BACKUP}!{name[:-4]}"
    return middle.encode() + b"!" + PASSPHRASE


def test_container_is_read_by_the_shim_and_by_a_few_lines() -> None:
    assert decode(CONTAINER, vector("line").encode()) == HEADER
    with temporary_root() as root:
        (root.work / "backup-header.hmac").write_bytes(CONTAINER)
        assert root.dec(vector("line").encode(), "backup-header.hmac").status == 0
        assert (root.work / "out").read_bytes() == HEADER


def test_stream_has_the_containers_and_their_header(
    stream: bytes, members: dict[str, bytes]
) -> None:
    assert hashlib.sha256(stream).hexdigest() == vector("stream")
    assert (members["backup-header"], members["backup-header.hmac"]) == (HEADER, CONTAINER)
    sealed = [name for name in members if name != "backup-header"]
    rows = [json.loads(row) for row in vector("ledger").splitlines()]
    assert [row["member"] for row in rows] == sealed
    for row in rows:
        payload = decode(members[row["member"]], line_of(row["member"]))
        assert (len(payload), hashlib.sha256(payload).hexdigest()) == (row["length"], row["sha256"])
        end = payload[-1024:]
        assert row["zeros"] == len(end) - len(end.rstrip(b"\0"))
        assert row["trailer"] == members[row["member"]][-32:].hex()


def shim() -> ModuleType:
    """Load the shim as a module, without running it."""
    loader = SourceFileLoader("scrypt_shim", str(PROJECT / "payload/dom0/scrypt"))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


def test_shim_writes_the_containers_and_the_ledger(
    members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, times = shim(), [json.loads(row)["time"] for row in vector("ledger").splitlines()]
    (tmp_path / "order").write_bytes(b"\n" * 11)
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(program, "ORDER", str(tmp_path / "order"))
    # the shim leaves the ledger's lock to its end, and here it doesn't end
    monkeypatch.setattr(program.fcntl, "flock", lambda *_: None)
    for name, stored in members.items():
        if name == "backup-header":
            continue
        monkeypatch.setattr(program.os, "urandom", lambda _, salt=stored[16:48]: salt)
        clock = {
            "time": partial(times.pop, 0),
            "localtime": lambda: SimpleNamespace(tm_gmtoff=3600),
        }
        monkeypatch.setattr(program, "time", SimpleNamespace(**clock))
        (tmp_path / "payload").write_bytes(decode(stored, line_of(name)))
        data = os.open(tmp_path / "payload", os.O_RDONLY)
        out = os.open(tmp_path / "container", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        record = program.encode_authenticated(data, out, line_of(name))
        backup = b"" if name == "backup-header.hmac" else BACKUP.encode()
        program.append_to_ledger(backup, name.encode(), data, record)
        os.close(data)
        os.close(out)
        assert (tmp_path / "container").read_bytes() == stored
    assert (tmp_path / "ledger" / BACKUP).read_text() == vector("ledger") + "\n"
    assert (tmp_path / "order").stat().st_size == 12


def test_dom0_reads_its_records(tmp_path: Path) -> None:
    place = tmp_path / "var/lib/qubes-dedup-backup"
    for path, name in (
        (place / "ledger" / BACKUP, "ledger"),
        (place / "encrypted", "encrypted"),
        (place / "confirmed" / f"{RUN}.json", "confirmed"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(vector(name) + "\n")
    paths = Paths(tmp_path)
    found = ledger.read(paths, BACKUP)
    assert found
    assert (found.head.order, found.head.began, found.head.offset) == (12, 1795515300, 3600)
    kept = [json.loads(row) for row in vector("ledger").splitlines()]
    assert [(row.name, row.sha256) for row in found.rows] == [
        ("backup-header", kept[0]["sha256"]),
        *((row["member"], row["sha256"]) for row in kept),
    ]
    [noted] = ledger.encrypted(paths)
    assert {"order": noted.order, "time": noted.began} == json.loads(vector("encrypted"))
    record = json.loads(vector("confirmed"))
    assert confirmed.read(paths, StoreAddress("dedup-backup", "default")) == {RUN: record}


def test_dom0_writes_its_record(tmp_path: Path) -> None:
    record = json.loads(vector("confirmed"))
    paths, address = Paths(tmp_path), StoreAddress("dedup-backup", "default")
    head = ledger.Head(record["order"], record["began"], record["offset"])
    more = {key: record[key] for key in list(record)[list(record).index("backup_id") :]}
    confirmed.add(paths, address, RUN, head, more)
    text = (paths.confirmed / f"{RUN}.json").read_text()
    assert re.sub(r'("confirmed": )"[^"]*"', rf'\1"{record["confirmed"]}"', text) == (
        vector("confirmed") + "\n"
    )


def test_operations_are_those_that_the_page_lists() -> None:
    listed = [tuple(item.split(" ")) for item in re.findall(r"[A-Z] \d+", vector("operations"))]
    assert [(kind.decode(), str(count)) for kind, count, _ in operations(RECIPE)] == listed


def test_store_gives_the_stream_back(stream: bytes, tmp_path: Path) -> None:
    """From a repository that is made by hand, as the page says."""
    store = Store(tmp_path, "directory")
    store.configure()
    store.make()
    (store.stored / RUN).mkdir()
    (store.stored / RUN / "0").write_bytes(OBJECT)
    (store.stored / RUN / "manifest").write_bytes(MANIFEST + RECIPE)
    (store.stored / RUN / "objects.json").write_bytes(INDEX)
    assert store.get(RUN) == store.get() == stream
    [listed] = store.runs()
    assert (listed["run"], listed["status"], listed["order"]) == (RUN, "whole", 8)


def test_store_splits_the_stream_like_that(stream: bytes) -> None:
    split = memory_engine.split(stream)
    assert split.payload.objects == [OBJECT]
    assert zlib.decompress(split.recipe) == zlib.decompress(RECIPE)
    wanted = from_json(MANIFEST, RUN)
    # another zlib may compress the recipe another way
    made = replace(
        split.manifest,
        run=RUN,
        created=wanted.created,
        order=wanted.order,
        recipe_length=wanted.recipe_length,
        recipe_sha256=wanted.recipe_sha256,
    )
    assert made.to_json() == MANIFEST
    assert (wanted.recipe_length, wanted.recipe_sha256) == (
        len(RECIPE),
        hashlib.sha256(RECIPE).hexdigest(),
    )
    summary = read_summary(vector("summary"), RUN)
    assert summary == made.summary() == read_summary(pack_summary(made.summary()), RUN)


def test_directory_is_written_like_that(tmp_path: Path) -> None:
    with DirectoryWriter(tmp_path, RUN, None) as writer:
        writer.open_object()
        writer.write(memoryview(OBJECT))
        writer.close_object()
        writer.finish()
        writer.put_manifest(io.BytesIO(MANIFEST + RECIPE), vector("summary"))
    written = {path.name: path.read_bytes() for path in (tmp_path / RUN).iterdir()}
    assert written == {"0": OBJECT, "manifest": MANIFEST + RECIPE, "objects.json": INDEX}


def test_limits_are_those_that_the_page_lists() -> None:
    numbers = limits.MAX_MEMBERS, limits.CHUNK_BYTES, limits.MAX_HEADER, limits.MAX_XML
    rows = PAGE.partition("| what | at most |")[2].partition("\n\n")[0]
    assert re.findall(r"\| ([0-9][0-9,]+)", rows) == [f"{number:,}" for number in numbers]
