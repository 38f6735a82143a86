# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile qube says costs dom0 little, and never reaches the terminal as it is."""

import json
import time

import pytest

from testing.dom0.backup import Backup, join
from testing.dom0.hostile_streams import restart
from testing.dom0.system import QUBE, Dom0, Done, member_list

MEMORY = 600 << 20  # bytes of address space; Python itself takes some 50 MiB of it
LIMITED = ("prlimit", f"--as={MEMORY}", "--")
ROW = {"name": "vm7/private.img.000.enc", "container": "authenticated", "payload_length": 1}


def run(dom0: Dom0, *words: str) -> Done:
    """Run with little memory; whatever happens, the terminal is safe and there is a verdict."""
    done = dom0(*words, prefix=LIMITED)
    for text in (done.stdout, done.stderr):
        assert all(byte == 10 or 32 <= byte < 127 for byte in text)
    assert b"Traceback" not in done.stderr
    assert len(done.stdout + done.stderr) < 20_000
    return done


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", ["list", "show", "get"])
@pytest.mark.parametrize(
    "output",
    [
        "yes $(printf %09000d 0)",
        "yes '{\"run\": {}}'",
        "yes '[[[[[[[['",
        "cat /dev/zero",
        "cat /dev/urandom",
        "printf '[%.0s' $(seq 4000)",
        "printf '\\033[2J\\033]0;gone\\007\\n'",
        "yes x | head -c 50000000 >&2",
        "printf '\\033[2J' >&2",
    ],
)
def test_endless_and_odd_answers(dom0: Dom0, command: str, output: str) -> None:
    honest = f'[ "$1" = {command} ] || exec cat {dom0.answers}/"$1"'
    dom0.store(f"{honest}\n{output}\nexit 7")
    words = ("list",) if command == "list" else ("verify", dom0.run, "--data")
    assert run(dom0, *words).returncode in (1, 4)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "change",
    [
        {"payload_length": -1},
        {"payload_length": 1 << 60},
        {"payload_length": True},
        {"payload_length": 1.5},
        {"payload_sha256": "x" * 64},
        {"payload_sha256": None},
        {"name": 7},
        {"container": ["authenticated"]},
    ],
)
def test_a_member_that_makes_no_sense(
    dom0: Dom0, backup: Backup, change: dict[str, object]
) -> None:
    row = json.dumps(ROW | {"payload_sha256": "0" * 64} | change).encode()
    members = member_list(backup.stream(), dom0.run)
    dom0.answer(backup.stream(), members + row + b"\n", b"")
    assert run(dom0, "verify", dom0.run).returncode == 4


def test_hostile_names(dom0: Dom0, backup: Backup) -> None:
    row = ROW | {"payload_sha256": "0" * 64}
    evil = [{"name": name} for name in ("\x1b[2J", "../../etc/passwd", "a" * 5000, "\u202e", None)]
    rows = b"".join(json.dumps(row | change).encode() + b"\n" for change in evil)
    dom0.answer(backup.stream(), member_list(backup.stream(), dom0.run) + rows, b"")
    done = run(dom0, "verify", dom0.run)
    assert done.returncode == 1
    assert b"../../etc/passwd is not in the ledger" in done.stdout


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "change",
    [{"run": "x"}, {"run": "../x"}, {"status": "good"}, {"reason": 5}, {"run": None}, {"run": []}],
)
def test_a_run_that_makes_no_sense(dom0: Dom0, change: dict[str, object]) -> None:
    row = {"run": dom0.run, "status": "whole", "reason": "\x1b[2J"}
    dom0.answer(b"", b"", json.dumps(row).encode() + b"\n")
    assert run(dom0, "list").returncode == 0
    dom0.answer(b"", b"", json.dumps(row | change).encode() + b"\n")
    assert run(dom0, "list").returncode == 4


def test_the_answer_is_for_another_run(dom0: Dom0, backup: Backup) -> None:
    asked = dom0.run
    dom0.serve(backup.stream(), run=asked.replace("0a1b", "0a1c"))
    done = run(dom0, "verify", asked)
    assert done.returncode == 4
    assert b"answered for another run" in done.stderr


@pytest.mark.parametrize("run_argument", ["latest", "../x", "--json", "x\x1b[2J"])
def test_a_name_that_no_run_has(dom0: Dom0, run_argument: str) -> None:
    assert run(dom0, "verify", run_argument).returncode == 2


def test_all_members_ask_for_the_most_work(dom0: Dom0, backup: Backup) -> None:
    # 128 MiB for each, which must be given back
    parts = [(n, d if n == "backup-header" else restart(d, {7: 17})) for n, d in backup.parts]
    dom0.serve(join(parts), listed=backup.stream(), run=dom0.run)
    assert run(dom0, "verify", dom0.run, "--data").returncode == 1


def test_a_hundred_thousand_rows(dom0: Dom0) -> None:
    """As many as there may be, each as long as it may be, and one more."""
    odd = "\x1b" * 900  # 6 bytes each, in JSON
    row = {"run": dom0.run, "status": "whole", "reason": odd}
    member = ROW | {"payload_sha256": "0" * 64, "name": odd, "container": odd}
    dom0.answer(b"", json.dumps(member).encode(), json.dumps(row).encode())
    for command, words in {"list": ("list",), "show": ("verify", dom0.run)}.items():
        (dom0.answers / "row").write_bytes((dom0.answers / command).read_bytes() + b"\n")
        dom0.store(f"yes $(cat {dom0.answers}/row) | head -n 200002")
        # seconds of the processor, whatever else runs; at the limit it is killed
        done = dom0(*words, prefix=(*LIMITED[:2], "--cpu=20", "--"))
        assert done.returncode == 4, done.stderr


DRIP = "while sleep 0.2; do printf '{'; done"
COMMANDS = {
    "list": ("list",),
    "show": ("verify",),
    "get": ("verify", "--data"),
    "prune": ("prune",),
    "forget": ("forget",),
    "init": ("init",),
    "export-keys": ("secrets",),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_byte_now_and_then(dom0: Dom0, command: str) -> None:
    """A peer that is never silent for long, and never done: each call to a qube ends."""
    dom0.qvm("qvm-start", "--skip-if-running", QUBE)
    dom0.store(f'[ "$1" = {command} ] || exec cat {dom0.answers}/"$1"\n{DRIP}')
    run = (dom0.run,) if command in ("show", "get", "forget") else ()
    begun = dom0.begin(*COMMANDS[command], *run, "--patience", "1")
    try:
        _, said = begun.communicate(timeout=120)
    finally:
        begun.kill()
    assert begun.returncode == (3 if command == "export-keys" else 4)
    assert b"the qube sends too little" in said


def test_slow_but_not_too_slow(dom0: Dom0) -> None:
    """It takes longer than the patience, but each of its pieces is worth the wait for the next."""
    names = (dom0.run.replace("20261124", f"2{number:07}") for number in range(3000))
    rows = [{"run": name, "status": "whole", "reason": "x" * 300} for name in names]
    dom0.answer(b"", b"", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    size = (dom0.answers / "list").stat().st_size
    dom0.store(
        f"for n in 0 1 2 3 4 5 6 7 8 9; do tail -c +$((n * {size // 10} + 1)) {dom0.answers}/list"
        f" | head -c {size // 10}; sleep 0.4; done; tail -c {size % 10} {dom0.answers}/list"
    )
    began = time.monotonic()
    assert len(dom0.json("list", "--patience", "3", code=0)["runs"]) == 3000
    assert time.monotonic() - began > 3


@pytest.mark.parametrize("text", ["0", "x"])
def test_patience_is_a_number(dom0: Dom0, text: str) -> None:
    assert run(dom0, "list", f"--patience={text}").returncode == 2
