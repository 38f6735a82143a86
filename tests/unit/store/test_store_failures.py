# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed engines, killed puts, full disks, two puts at once: never a run that isn't."""

import functools
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO

import archives
import pytest
from archives import Qube
from store_driver import ENCRYPTED, PAYLOAD, Store

THOROUGH = pytest.mark.thorough


@functools.cache
def small_backup() -> bytes:
    """One payload object."""
    qubes = [Qube("one", 1, volumes={"private": archives.noise(1_000_000, 3)})]
    return archives.join(archives.members(qubes))


@functools.cache
def backup() -> bytes:
    """40 MB in two payload objects."""
    qubes = [
        Qube("one", 1, volumes={"private": archives.noise(20_000_000, 1)}),
        Qube("two", 2, volumes={"private": archives.noise(18_000_000, 2)}),
    ]
    return archives.join(archives.members(qubes))


def children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def until(condition: object, what: str) -> object:
    """Poll until something is true; the limit only keeps a broken test from hanging."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if result := condition():  # type: ignore[operator]
            return result
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen")


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}/exe").exists() and not Path(f"/proc/{pid}/fd/0").exists()


def start_put(store: Store, data: bytes) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start a put and feed it."""
    putter = store.start("put", stdin=subprocess.PIPE)
    assert putter.stdin is not None
    putter.stdin.write(data)
    putter.stdin.flush()
    return putter, putter.stdin


def end(putter: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    assert putter.stderr is not None
    with putter:
        return putter.wait(), putter.stderr.read()


@pytest.mark.parametrize(
    ("members", "byte"),
    [(-1, None), pytest.param(4, None, marks=THOROUGH), pytest.param(None, -7, marks=THOROUGH)],
    ids=["before the last member", "after the first qube", "within a member"],
)
def test_stream_that_is_cut(store: Store, members: int | None, byte: int | None) -> None:
    """The stream looks well made up to there."""
    parts = list(archives.members(archives.small_qubes()))
    data, cut = archives.join(parts), archives.join(parts[:members])[:byte]
    whole = store.put(data)
    partial = store.put(cut, code=3)
    assert {run["run"]: run["status"] for run in store.runs()} == {
        whole["run"]: "whole",
        partial["run"]: "partial",
    }
    assert store.get(partial["run"]) == cut
    assert store.get() == data


@ENCRYPTED
def test_engine_that_is_killed(store: Store) -> None:
    putter, stdin = start_put(store, backup()[:15_000_000])
    (engine,) = children(putter.pid)
    os.kill(engine, signal.SIGKILL)
    stdin.write(backup()[15_000_000:])  # all of it is taken, or this raises BrokenPipeError
    stdin.write(bytes(20_000_000))
    stdin.close()
    code, message = end(putter)
    assert code == 1
    assert message.startswith(f"dedup-store: {store.engine} was ended by signal 9: ".encode())
    assert message.count(b"\n") == 1
    assert store.runs() == []
    store.put(small_backup())  # no lock is in the way


@ENCRYPTED
def test_engine_that_fails_at_once(store: Store) -> None:
    """A put with a wrong password takes all of its input, then fails with the engine's words."""
    store.password.chmod(0o600)
    store.password.write_text("wrong\n")
    result = store.run("put", data=backup())
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert re.search(rb"pass(word|phrase)", result.stderr)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_put_that_is_ended(store: Store, how: signal.Signals) -> None:
    """The engine must not take that for the end of its input."""
    end_a_put(store, how)


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGINT])
def test_put_that_is_interrupted(borg_store: Store, how: signal.Signals) -> None:
    end_a_put(borg_store, how)


def end_a_put(store: Store, how: signal.Signals) -> None:
    putter, stdin = start_put(store, backup()[:15_000_000])
    engines = children(putter.pid)
    assert len(engines) == (0 if store.engine == "directory" else 1)
    putter.send_signal(how)
    code = putter.wait()
    assert code == {signal.SIGKILL: -9, signal.SIGINT: 130}.get(how, 143)
    until(lambda: all(is_gone(pid) for pid in engines), "the engine's end")
    with pytest.raises(BrokenPipeError):
        stdin.write(bytes(10_000_000))
    putter.stdin = None
    end(putter)
    assert store.runs() == []


@pytest.mark.parametrize("tenths", [0, 5])
def test_put_that_is_killed_after_its_input(store: Store, tenths: int) -> None:
    """At any moment while it finishes: a run is listed only when it can be restored."""
    putter, stdin = start_put(store, small_backup())
    stdin.close()
    time.sleep(tenths / 10)  # the moment is what is tested: any is as good
    engines = children(putter.pid)
    putter.kill()
    putter.stdin = None
    end(putter)
    until(lambda: all(is_gone(pid) for pid in engines), "the engine's end")
    for run in store.runs():
        assert run["status"] == "whole"
        assert store.get(run["run"]) == small_backup()


def test_two_puts_at_once(store: Store) -> None:
    """Borg lets the second wait, the others work on both; both are whole."""
    results: list[dict[str, object]] = []
    data = small_backup()  # made once: its times are part of it
    threads = [threading.Thread(target=lambda: results.append(store.put(data))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = store.runs()
    assert len({run["run"] for run in runs}) == 2
    assert {run["status"] for run in runs} == {"whole"}
    assert sorted(run["run"] for run in runs) == sorted(str(r["run"]) for r in results)
    for run in runs:
        assert store.get(run["run"]) == data


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


@pytest.mark.engines
def test_full_disk(store: Store) -> None:
    """The repository on a file system of 25 MB: the put fails, older runs stay."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    small = archives.join(archives.members([Qube("work", 7, volumes={"private": b"x"})]))
    kept = store.folder / "kept"
    shutil.copytree(store.files, kept)
    script = (
        f"mount -t tmpfs -o size=25m tmpfs {store.files} && cp -a {kept}/. {store.files}"
        " && $PUT <$SMALL >/dev/null && $PUT <$LARGE; echo $?; $LIST;"
        " $GET | cmp - $SMALL && echo ok"
    )
    program = str(PAYLOAD / "dedup-store")
    for name, data in (("small", small), ("large", backup())):
        (store.folder / name).write_bytes(data)
    variables = store.environment | {
        "PUT": f"{program} put",
        "LIST": f"{program} list",
        "GET": f"{program} get latest",
        "SMALL": str(store.folder / "small"),
        "LARGE": str(store.folder / "large"),
    }
    command = ["unshare", "--mount", "sh", "-c", script]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    assert lines[0] == "1", result
    assert [line.split()[2] for line in lines[2:-1]] == ["whole"]
    assert lines[-1] == "ok"
    assert " is full: " in result.stderr
    assert "Traceback" not in result.stderr


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
    assert b"borg's cache is damaged, as by a power cut; it is made anew\n" in result.stderr
    assert len(borg_store.runs()) == 2
    assert borg_store.get(first["run"]) == data


def fake_engine(store: Store, script: str) -> dict[str, str]:
    """A program in the engine's place; gives the environment that finds it."""
    program = store.folder / "bin" / store.engine
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return store.environment | {"PATH": f"{program.parent}:{os.environ['PATH']}"}


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
