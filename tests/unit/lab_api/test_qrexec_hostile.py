# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of dom0's qrexec socket that misbehave."""

from __future__ import annotations

import array
import json
import os
import socket
from pathlib import Path

import pytest

from testing.lab.harness import Lab


@pytest.fixture
def lab(same_lab: Lab) -> Lab:
    """The lab that all tests here share; nothing is laid down in it."""
    return same_lab


def send(lab: Lab, data: bytes, descriptors: int) -> dict[str, object]:
    """Send something to dom0's qrexec socket and return the last answer."""
    with socket.socket(socket.AF_UNIX) as client, Path(os.devnull).open("r+b") as null:
        client.settimeout(60)
        client.connect(str(lab.socket("dom0")))
        sent = array.array("i", [null.fileno()] * descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)] if descriptors else []
        client.sendmsg([data], ancillary)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answers:
            lines = answers.read().splitlines()
    return dict(json.loads(lines[-1])) if lines else {}


@pytest.mark.parametrize(
    ("data", "descriptors"),
    [
        (b"\n", 3),
        (b"garbage\n", 3),
        (b"[]\n", 3),
        (b"{}\n", 3),
        (b'{"target": "work"}\n', 3),
        (b'{"target": 1, "command": "x:y"}\n', 3),
        (b'{"target": "work", "command": "DEFAULT:QUBESRPC  dom0"}\n', 3),
        (b'{"target": "dom0", "command": "DEFAULT:QUBESRPC a dom0"}\n', 3),
        (b'{"target": "../x", "command": "DEFAULT:QUBESRPC a dom0"}\n', 3),
        (b'{"target": "idle", "command": "DEFAULT:QUBESRPC a dom0"}\n', 0),
        (b'{"target": "idle", "command": "DEFAULT:QUBESRPC a dom0"}\n', 2),
        (b'{"target": "work"', 3),
        (b"x" * 50000 + b"\n", 3),
        (b'{"target": "work", "command": "a\\u0000:b"}\n', 3),
        (b"[" * 50000 + b"\n", 3),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_hostile_requests(lab: Lab, data: bytes, descriptors: int) -> None:
    answer = send(lab, data, descriptors)
    assert answer["exit"] == 125
    assert answer["error"]


def test_hostile_requests_leave_no_descriptors_behind(lab: Lab) -> None:
    assert lab.process is not None
    folder = Path(f"/proc/{lab.process.pid}/fd")
    before = len(list(folder.iterdir()))
    for descriptors in (0, 1, 3, 5):
        send(lab, b"garbage\n", descriptors)
    lab.until(lambda: len(list(folder.iterdir())) <= before)
