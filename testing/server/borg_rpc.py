# SPDX-License-Identifier: GPL-3.0-or-later
"""A hostile borg: sends any request to `borg serve` (borg/remote.py)."""

import os
import subprocess
from typing import Any

import msgpack


class EndedError(Exception):
    """The other side ended the session."""


class Client:
    """One session."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        """Speak to a process, and greet it."""
        self._server = server
        self._unpacker = msgpack.Unpacker(raw=True, max_buffer_size=1 << 30)
        self._number = 0
        self.call("negotiate", client_data={b"client_version": (1, 2, 9)})

    def raw(self, data: bytes) -> Any:  # noqa: ANN401
        """Send bytes and wait for an answer.

        Raises:
            EndedError: there is none.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        try:
            self._server.stdin.write(data)
            self._server.stdin.flush()
        except BrokenPipeError:
            raise EndedError from None
        while True:
            for answer in self._unpacker:
                if not isinstance(answer, dict):
                    raise EndedError  # borg's last words, as text
                return answer
            data = os.read(self._server.stdout.fileno(), 1 << 20)
            if not data:
                raise EndedError
            self._unpacker.feed(data)

    def call(self, method: str, **arguments: Any) -> Any:  # noqa: ANN401
        """Make a call; gives the result, or the name of an exception."""
        self._number += 1
        named = {key.encode(): value for key, value in arguments.items()}
        request = {b"i": self._number, b"m": method.encode(), b"a": named}
        answer = self.raw(msgpack.packb(request, use_bin_type=False))
        return answer.get(b"exception_class", answer.get(b"r"))

    def open(self, name: str = "main", **arguments: Any) -> Any:  # noqa: ANN401
        """Open the repository as borg does."""
        usual = {"create": False, "lock_wait": 5, "lock": True, "exclusive": True}
        return self.call("open", path=f"/./{name}", **usual | arguments)
