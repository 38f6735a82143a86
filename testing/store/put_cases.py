# SPDX-License-Identifier: GPL-3.0-or-later
"""What can fail of a put, in each kind of store: tests that several files import.

They take the fixture `store` of the file that imports them.
"""

import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from testing.store import archives
from testing.store.archives import Qube
from testing.store.driver import ENCRYPTED, PAYLOAD, Store
from testing.store.puts import (
    backup,
    children,
    end,
    end_a_put,
    is_gone,
    small_backup,
    start_put,
    until,
)

THOROUGH = pytest.mark.thorough


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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.sampled(4)
def test_put_that_is_ended(store: Store, how: signal.Signals) -> None:
    """The engine must not take that for the end of its input."""
    end_a_put(store, how)


@pytest.mark.parametrize("tenths", [0, 5])
@pytest.mark.sampled(4)
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


@pytest.mark.sampled(3)
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
