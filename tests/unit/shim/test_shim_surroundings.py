# SPDX-License-Identifier: GPL-3.0-or-later
"""The shim where something is missing: descriptors, memory, threads, parts of Python."""

import contextlib
import fcntl
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.shim.driver import (
    CONFIRM,
    ENTER,
    MEMBER,
    Call,
    Result,
    Root,
    line,
    temporary_root,
    wait_for,
)

DATA = b"the payload of a chunk" * 1000
PYTHON = ("/usr/bin/python3", "-IS", "-c")
RUN = """
sys.argv.pop(0)
names = {"__name__": "__main__", "__file__": sys.argv[0]}
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), names)
"""
ACTIONS = ["enc", "dec"]


def call(
    root: Root,
    action: str,
    *,
    setup: Callable[[], None] | None = None,
    prefix: tuple[str, ...] = (),
) -> Result:
    """Call the shim with the answers at hand; give what it said but for the prompts."""
    stored, out = root.work / MEMBER, root.work / "out"
    out.unlink(missing_ok=True)
    arguments = ["enc", "-", stored] if action == "enc" else ["dec", "-f", stored, out]
    if action == "dec":
        root.enc(DATA, line())
    started = Call([*prefix, root.scrypt, *arguments], stdin=subprocess.PIPE, setup=setup)
    for _ in range(2):
        started.answer(line())
    process = started.process
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(DATA)
    _, said = process.communicate()
    started.close()
    assert b"Traceback" not in said
    return Result(process.returncode, said.replace(ENTER, b"").replace(CONFIRM, b""))


def expected(action: str) -> set[str]:
    """Return the files after success."""
    return {MEMBER} if action == "enc" else {MEMBER, "out"}


def is_right(root: Root, action: str) -> bool:
    """Tell whether the output is there, whole."""
    if action == "dec":
        return (root.work / "out").read_bytes() == DATA
    return (root.work / MEMBER).read_bytes()[96:-32] == DATA


# Standard streams

STREAMS = [c for n in (1, 2, 3) for c in itertools.combinations((0, 1, 2), n)]


@pytest.mark.parametrize("closed", STREAMS, ids=str)
@pytest.mark.parametrize("action", ACTIONS)
def test_closed_streams_get_no_file_of_ours(
    root: Root, action: str, closed: tuple[int, ...]
) -> None:
    """With stderr closed the next file would be descriptor 2, and the prompt written into it."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    result = call(root, action, setup=close)
    if 2 in closed or (0 in closed and action == "enc"):
        said = b"" if 2 in closed else b"scrypt: Error reading file: Bad file descriptor\n"
        assert (result.status, result.stderr) == (1, said)
        assert root.files() == expected(action) - {MEMBER if action == "enc" else "out"}
    else:
        assert (result.status, result.stderr) == (0, b"")
        assert is_right(root, action)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("stream", ["/dev/full", "a pipe without reader"])
def test_stderr_that_takes_nothing(root: Root, action: str, stream: str) -> None:
    def redirect() -> None:
        if stream == "/dev/full":
            os.dup2(os.open(stream, os.O_WRONLY), 2)
        else:
            reader, writer = os.pipe()
            os.dup2(writer, 2)
            os.close(reader)

    assert call(root, action, setup=redirect).status == 1
    assert root.files() == expected(action) - {MEMBER if action == "enc" else "out"}


# Python


@pytest.mark.parametrize(
    "module",
    ["contextlib", "fcntl", "hashlib", "_hashlib", "hmac", "re", "signal", "termios", "threading"],
)
def test_module_that_cannot_be_imported_is_one_line(root: Root, module: str) -> None:
    code = f"""
import sys
def hook(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        raise ImportError("no {module}")
for name in list(sys.modules):
    if name.split(".")[0] == {module!r}:
        del sys.modules[name]
sys.addaudithook(hook)
"""
    result = call(root, "enc", prefix=(*PYTHON, code + RUN))
    if module == "_hashlib":  # then hashlib has SHA-256 of its own, and no scrypt
        assert (result.status, result.stderr) == (1, NO_KEY)
    else:
        assert (result.status, result.stderr) == (1, f"scrypt: no {module}\n".encode())
    assert root.files() == set()


NO_KEY = b"scrypt: Error computing derived key: no memory, or no scrypt in hashlib\n"


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("error", ["MemoryError()", "RecursionError()", "ValueError('secret')"])
def test_key_that_cannot_be_derived_is_one_line(root: Root, action: str, error: str) -> None:
    code = f"""
import hashlib, sys
def scrypt(*arguments, **options):
    raise {error}
hashlib.scrypt = scrypt
"""
    result = call(root, action, prefix=(*PYTHON, code + RUN))
    assert (result.status, result.stderr) == (1, NO_KEY)
    assert root.files() == expected(action) - {MEMBER if action == "enc" else "out"}


@pytest.mark.parametrize("where", ["re.fullmatch", "os.isatty", "hashlib.sha256", "os.link"])
@pytest.mark.parametrize("error", ["MemoryError", "RecursionError", "ValueError"])
def test_unexpected_error_is_one_line_without_secrets(root: Root, where: str, error: str) -> None:
    code = f"""
import {where.split(".")[0]}, sys
def fail(*arguments, **options):
    raise {error}({"" if error == "RecursionError" else "'secret'"})
{where} = fail
"""
    result = call(root, "enc", prefix=(*PYTHON, code + RUN))
    assert result.status == 1
    assert result.stderr.startswith(b"scrypt: ")
    assert result.stderr.count(b"\n") == 1
    assert b"secret" not in result.stderr
    assert root.files() == set()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("thread", [1, 2])
def test_thread_that_cannot_be_started_is_one_line(root: Root, action: str, thread: int) -> None:
    trace = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=clone,clone3"]
    inject = ["-e", f"inject=clone,clone3:error=EAGAIN:when={thread}+"]
    result = call(root, action, prefix=("strace", *trace, *inject))
    assert (result.status, result.stderr) == (1, b"scrypt: can't start new thread\n")
    assert root.files() == expected(action) - {MEMBER if action == "enc" else "out"}


def test_scarce_memory_is_an_error_or_enough() -> None:
    """Below some limit Python doesn't start; above it, each outcome is a clean one."""
    outcomes = set()
    with temporary_root() as root:
        for megabytes in (*range(24, 64, 4), *range(64, 240, 16)):
            limit = (megabytes << 20, megabytes << 20)
            for action in ACTIONS:

                def limited(limit: tuple[int, int] = limit) -> None:
                    resource.setrlimit(resource.RLIMIT_AS, limit)

                result = call(root, action, setup=limited)
                output = root.work / (MEMBER if action == "enc" else "out")
                outcomes.add(result.status)
                assert result.status in (0, 1, 127) or result.status == -signal.SIGABRT
                assert output.exists() == (result.status == 0), (megabytes, action, result)
                if result.status == 0:
                    assert is_right(root, action)
                for file in root.files():
                    (root.work / file).unlink()
    assert {0, 1} <= outcomes


def test_early_interrupt_is_silent(root: Root) -> None:
    """A ^C while Python loads what the shim needs; before the shim's first line it is Python's."""
    log = root.path / "strace.log"
    call(root, "enc", prefix=("strace", "-f", "-qq", "-o", str(log), "-e", "trace=openat"))
    opened = [row for row in log.read_text().splitlines() if "openat(" in row]
    *_, first = [number for number, row in enumerate(opened) if f'"{root.scrypt}"' in row]
    last = next(number for number, row in enumerate(opened) if "/dev/tty" in row)
    assert last - first > 10
    for number in range(first + 1, last + 1, 3):
        (root.work / MEMBER).unlink(missing_ok=True)
        inject = f"inject=openat:signal=SIGINT:when={number + 1}"
        result = call(root, "enc", prefix=("strace", "-f", "-qq", "-o", "/dev/null", "-e", inject))
        assert (result.status, result.stderr) == (-signal.SIGINT, b""), opened[number]
        assert root.files() == set()


# Memory


def peak(pid: int) -> int:
    """Return the most memory that the process has had at once, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(row.split()[1]) for row in status.splitlines() if "VmHWM" in row) >> 10


@pytest.mark.parametrize("action", ACTIONS)
def test_peak_memory(root: Root, action: str) -> None:
    """At most 64 MiB and the 16 that the key derivation takes, for a chunk of full size."""
    chunk = bytes(104_857_600)
    if action == "enc":
        started = root.start_enc(line())
        pipe = started.process.stdin
        assert pipe
        pipe.write(chunk)
        wait_for(lambda: not unread(pipe.fileno()), "the chunk to be read")
        threads = Path(f"/proc/{started.process.pid}/task")
        wait_for(lambda: len(list(threads.iterdir())) == 1, "the key to be derived")
        pid = started.process.pid
    else:  # the last that it does is to give the output its name
        root.enc(chunk, line())
        started, pid = root.stopped_dec(line(), "linkat", 1)
    assert 16 < peak(pid) < 64 + 16
    os.kill(pid, signal.SIGKILL)
    started.finish()


def unread(pipe: int) -> int:
    """Return how many bytes wait in the pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


# Versions of Python

VERSIONS = ("3.11", "3.12", "3.13")


def interpreter(version: str) -> str | None:
    """Find a Python: the system's, one on PATH, or one of pyenv's."""
    name = f"python{version}"
    pyenv = (Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/{name}")
    for path in (f"/usr/bin/{name}", shutil.which(name), *map(str, pyenv)):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            if path and subprocess.run([path, "-c", ""], capture_output=True, check=True):
                return path
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_shim_runs_on_all_supported_pythons(root: Root, version: str) -> None:
    """dom0 of R4.2 has 3.11, that of R4.3 has 3.13 (and so the lab's: see the end-to-end tests)."""
    python = interpreter(version)
    if not python:
        pytest.skip(f"no Python {version} on this machine")
    prefix = (python, "-IS", "-X", "dev", "-W", "error")
    for action in ACTIONS:
        result = call(root, action, prefix=prefix)
        assert (result.status, result.stderr) == (0, b"")
        assert is_right(root, action)
    assert root.ledger()[0]["length"] == len(DATA)
    stored = root.work / MEMBER
    for damaged in (b"", stored.read_bytes()[:-1], stored.read_bytes() + b"x"):
        stored.write_bytes(damaged)
        paths = [stored, root.work / "other"]
        refused = Call([*prefix, root.scrypt, "dec", "-f", *paths])
        refused.expect(ENTER)
        refused.answer(line())
        refusal = b"scrypt: Input is not valid scrypt-encrypted block\n"
        assert (refused.finish().stderr, (root.work / "other").exists()) == (refusal, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        ended = root.start_enc(line(member="b.000.enc"), "b.000.enc", prefix=prefix)
        ended.process.send_signal(number)
        assert (ended.finish().status, "b.000.enc" in root.files()) == (-number, False)
