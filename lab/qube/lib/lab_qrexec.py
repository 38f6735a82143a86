# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's way to make a qrexec call: hand our file descriptors to the lab's broker.

Shared by qrexec-client (dom0) and qrexec-client-vm (qubes); what goes over the socket is described
in lab/qubeslab/qrexec.py. A terminal is never handed out: a thread copies from or to it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

SOCKET = "/run/qubes-lab/qrexec.sock"
EXIT_PROBLEM = 125
BLOCK = 65536
# qubes-core-qrexec libqrexec/replace.c do_replace_chars
_PASS = frozenset([*range(0x20, 0x7F), 0x07, 0x08, 0x09, 0x0A, 0x0D])
_FILTER = bytes(byte if byte in _PASS else ord("_") for byte in range(256))

Copy = Callable[[int, int], None]


class CallError(Exception):
    """The broker can't be reached, or gives no proper answer."""


class Ends:
    """The three descriptors for a call, made from ours."""

    def __init__(self) -> None:
        """Start with nothing to wait for."""
        self.to_send: list[int] = []
        self._ours: list[int] = []
        self._outputs: list[threading.Thread] = []

    def stdin(self, source: int, prefix: bytes = b"") -> None:
        """Let the service read from `source`, after `prefix`; the caller may close `source`."""
        self._ours += [source] if source == 0 else []
        source = os.dup(source)
        if not prefix and not os.isatty(source):
            self.to_send.append(source)
            return
        readable, writable = os.pipe()

        def pump() -> None:
            try:
                write_all(writable, prefix)
                copy(source, writable)
            finally:
                os.close(writable)
                os.close(source)

        threading.Thread(target=_quietly(pump), daemon=True).start()
        self.to_send.append(readable)

    def output(self, target: int, filtered: bool = False) -> None:
        """Let the service write to `target`; `filtered` replaces control characters by "_"."""
        self._ours += [target] if target == 1 else []
        target = os.dup(target)
        if not filtered and not os.isatty(target):
            self.to_send.append(target)
            return
        readable, writable = os.pipe()

        def pump() -> None:
            try:
                copy(readable, target, _FILTER if filtered else None)
            finally:
                os.close(readable)
                os.close(target)

        thread = threading.Thread(target=_quietly(pump), daemon=True)
        thread.start()
        self._outputs.append(thread)
        self.to_send.append(writable)

    def sent(self) -> None:
        """Let go of what was handed out: while we hold it, its other side sees no end."""
        for descriptor in self.to_send:
            os.close(descriptor)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._ours:
            os.dup2(null, descriptor)
        os.close(null)

    def wait(self) -> None:
        """Wait until all output has arrived."""
        for thread in self._outputs:
            thread.join()


def call(
    path: str, request: dict[str, Any], ends: Ends, allowed: Callable[[], None] | None = None
) -> int:
    """Make a call, wait for its end and return its exit code.

    Args:
        path: the broker's socket.
        request: as lab/qubeslab/qrexec.py describes it.
        ends: stdin, stdout and stderr, in this order.
        allowed: called when the service starts.

    Raises:
        CallError: the broker isn't there, or went away.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            data = json.dumps(request).encode() + b"\n"
            sent = socket.send_fds(connection, [data], ends.to_send)
            if sent < len(data):
                connection.sendall(data[sent:])
            ends.sent()
            return _answers(connection, allowed)
    except (OSError, ValueError) as error:
        raise CallError(f"can't make the call: {error}; is the lab's daemon running?") from error


def _answers(connection: socket.socket, allowed: Callable[[], None] | None) -> int:
    with connection.makefile("rb") as lines:
        for line in lines:
            answer = json.loads(line)
            if "exit" in answer:
                if answer.get("error"):
                    print(answer["error"], file=sys.stderr)
                return int(answer["exit"])
            if allowed is not None:
                allowed()
    raise CallError("the lab's daemon ended during the call")


def copy(source: int, target: int, table: bytes | None = None) -> None:
    """Copy all bytes, translated by `table`."""
    while block := os.read(source, BLOCK):
        write_all(target, block.translate(table) if table else block)


def write_all(target: int, data: bytes) -> None:
    """Write all of `data`."""
    while data:
        data = data[os.write(target, data) :]


def _quietly(pump: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            pump()
        except OSError:
            return  # the other side ended first

    return run


def finish(code: int) -> None:
    """End at once: a thread may still wait for a terminal's input."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
