# SPDX-License-Identifier: GPL-3.0-or-later
"""A hostile restic: sends any request to `rclone serve restic --stdio`."""

import os
import subprocess
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events


class Answer(NamedTuple):
    """What came back; status 0 when the connection ended."""

    status: int
    body: bytes


class Client:
    """One session."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        """Speak to a process."""
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._server = server
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._send()

    def _send(self) -> None:
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(self._connection.data_to_send())
            self._server.stdin.flush()
        except BrokenPipeError:
            pass  # the answer tells

    def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send a request with exactly that path."""
        stream = self._connection.get_next_available_stream_id()
        headers = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        self._connection.send_headers(stream, headers, end_stream=body is None)
        if body is not None:
            self._connection.send_data(stream, body, end_stream=True)
        self._send()
        assert self._server.stdout is not None
        status, content = 0, b""
        while data := os.read(self._server.stdout.fileno(), 65536):
            for event in self._connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    fields = {bytes(key): value for key, value in event.headers}
                    status = int(fields[b":status"])
                elif isinstance(event, h2.events.DataReceived):
                    content += event.data
                    self._connection.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    self._send()
                    return Answer(status, content)
            self._send()
        return Answer(0, b"")
