# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed engines, killed puts, full disks, two puts at once: never a run that isn't."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import ENCRYPTED, PAYLOAD, Store
from testing.store.put_cases import (
    test_engine_that_is_killed,
    test_full_disk,
    test_put_that_is_ended,
    test_put_that_is_killed_after_its_input,
    test_stream_that_is_cut,
    test_two_puts_at_once,
)
from testing.store.puts import backup, end, end_a_put, fake_engine, small_backup, start_put

__all__ = [
    "test_engine_that_is_killed",
    "test_full_disk",
    "test_put_that_is_ended",
    "test_put_that_is_killed_after_its_input",
    "test_stream_that_is_cut",
    "test_two_puts_at_once",
]

THOROUGH = pytest.mark.thorough


@ENCRYPTED
def test_engine_that_fails_at_once(store: Store) -> None:
    """A put with a wrong password takes all of its input, then fails with the engine's words."""
    store.password.chmod(0o600)
    store.password.write_text("wrong\n")
    result = store.run("put", data=backup())
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert re.search(rb"pass(word|phrase)", result.stderr)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGINT])
def test_put_that_is_interrupted(borg_store: Store, how: signal.Signals) -> None:
    end_a_put(borg_store, how)


def test_lock_that_is_not_given_up(borg_store: Store) -> None:
    """lock_wait ends the waiting; the message says why."""
    putter, stdin = start_put(borg_store, backup()[:15_000_000])
    borg_store.configure(lock_wait=0)
    result = borg_store.run("put", data=backup())
    assert result.returncode == 1
    assert b"lock" in result.stderr
    stdin.write(backup()[15_000_000:])
    stdin.close()
    putter.stdin = None
    assert end(putter) == (0, b"")
    assert len(borg_store.runs()) == 1


@pytest.mark.sampled(3)
def test_repository_that_was_damaged(store: Store) -> None:
    """A flipped byte in the payload: the get fails, whatever it wrote."""
    store.put(backup())
    largest = max(store.repository.rglob("*"), key=lambda item: item.stat().st_size)
    largest.chmod(0o600)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    result = store.run("get", "latest")
    assert result.returncode == (5 if store.engine == "directory" else 1)
    assert len(result.stdout) < len(backup())
    assert result.stderr.startswith(b"dedup-store: ")
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    "torn",
    [
        "config",
        pytest.param("chunks", marks=THOROUGH),
        pytest.param("txn.active/config", marks=THOROUGH),
    ],
)
def test_cache_of_borg_that_was_torn(borg_store: Store, torn: str) -> None:
    """A power cut leaves empty files where borg had just written, or none."""
    data = small_backup()
    first = borg_store.put(data)
    (cache,) = (borg_store.folder / "home/.cache/borg").glob("?" * 64)
    if torn == "txn.active/config":
        (cache / torn).parent.mkdir()
    else:
        (cache / torn).write_bytes(b"")
    result = borg_store.run("put", "--json", data=data)
    assert result.returncode == 0, result.stderr
    assert b"borg's cache is damaged, as by a power cut; borg makes a new one\n" in result.stderr
    assert len(borg_store.runs()) == 2
    assert borg_store.get(first["run"]) == data


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", [["list"], ["get", "latest"], ["put"], ["init"]])
@ENCRYPTED
def test_messages_of_an_engine_are_cleaned_and_bounded(store: Store, command: list[str]) -> None:
    script = "printf '\\033]0;x\\007\\033[31mred\\r\\n\\302\\233bad\\n' >&2\n"
    script += "head -c 300000 /dev/zero | tr '\\0' y >&2; printf '\\nFatal: why\\n' >&2; exit 7"
    variables = fake_engine(store, script)
    result = subprocess.run(
        [PAYLOAD / "dedup-store", *command],
        input=backup(),
        env=variables,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    text = result.stderr.decode()
    assert text.startswith(f"dedup-store: {store.engine} failed with exit code 7: ")
    assert text.endswith("y Fatal: why\n")
    assert len(text) < 700
    assert text[:-1].isprintable()


def test_control_characters_of_an_engine(borg_store: Store) -> None:
    script = "printf '\\033]0;x\\007\\033[31mred\\r\\n\\302\\233bad\\n' >&2; exit 1"
    variables = fake_engine(borg_store, script)
    command = [PAYLOAD / "dedup-store", "list"]
    result = subprocess.run(command, env=variables, capture_output=True, check=False)
    assert result.stderr == b"dedup-store: borg failed with exit code 1: ]0;x [31mred bad\n"


@pytest.mark.parametrize("answer", ["", "{", '{"archives": 3}', '{"archives": [{}]}', "[1]"])
def test_list_of_an_engine_that_makes_no_sense(borg_store: Store, answer: str) -> None:
    variables = fake_engine(borg_store, f"printf '%s' '{answer}'")
    command = [PAYLOAD / "dedup-store", "list"]
    result = subprocess.run(command, env=variables, capture_output=True, check=False)
    assert result.returncode == 1
    assert result.stderr == b"dedup-store: borg's list of archives is malformed\n"


@pytest.mark.parametrize("chunks", [10, pytest.param(2000, marks=pytest.mark.thorough)])
def test_memory_of_a_large_put(restic_store: Store, chunks: int) -> None:
    """1, or 200, GB of stream through dedup-store alone; a program swallows its output."""
    restic = shutil.which("restic")
    script = f'case "$*" in *" backup "*) exec cat >/dev/null ;; *) exec {restic} "$@" ;; esac'
    variables = fake_engine(restic_store, script)
    command = [PAYLOAD / "dedup-store", "put"]
    chunk = archives.container(archives.noise(1 << 20) * 100)
    first = list(archives.members([Qube("work", 7, volumes={"private": b""})]))[:3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=variables) as putter:
        assert putter.stdin is not None
        putter.stdin.write(archives.join(first))
        for number in range(chunks):
            head, tail = around(f"vm7/private.img.{number:03}.enc", len(chunk))
            for part in (head, chunk, tail):
                putter.stdin.write(part)
        status = Path(f"/proc/{putter.pid}/status").read_text()
        putter.stdin.close()
        assert putter.wait() == 3  # nothing ends that volume
    peak = int(re.search(r"VmHWM:\s*([0-9]+) kB", status)[1])  # type: ignore[index]
    assert peak < 64 * 1024


def around(name: str, size: int) -> tuple[bytes, bytes]:
    """What a tar archive of one file has before its data, and after them."""
    info = archives.tarfile.TarInfo(name)
    info.size = size
    head = info.tobuf(archives.tarfile.PAX_FORMAT)
    used = len(head) + size
    tail = -used % 512 + 1024
    return head, bytes(tail + -(used + tail) % 10240)
