# SPDX-License-Identifier: GPL-3.0-or-later
r"""qubesd's sockets: requests in, answers and events out, in upstream's wire format.

A request is `METHOD+ARG SOURCE name DEST\0PAYLOAD` up to the end of what the client sends, at most
64 KiB. An answer is `0\0CONTENT`, `2\0CLASS\0TRACEBACK\0MESSAGE\0`, or any number of events
`1\0SUBJECT\0EVENT\0(KEY\0VALUE\0)*\0`.
Source: qubes-core-admin qubes/api/__init__.py (QubesDaemonProtocol, AbstractQubesAPI.execute).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import select
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from .domains import DOM0_UUID, Qube, Store
from .domains_checks import qube_name
from .paths import DOM0
from .qubesd_events import Event, Events
from .qubesd_exc import (
    NoAnswer,
    PermissionDenied,
    ProtocolError,
    QubesException,
    QubesVMInvalidUUIDError,
    QubesVMNotFoundError,
)

REQUEST_MAX = 65536
RECEIVE_SECONDS = 60
EVENT_POLL_SECONDS = 1
_UUID = re.compile(r"uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")

log = logging.getLogger("qubesd")


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes:
        method: such as admin.vm.Start.
        argument: what followed the "+", or "".
        dest: the qube that the call is about.
        payload: everything after the header.
    """

    method: str
    argument: str
    dest: Qube
    payload: bytes


Handler = Callable[[Request], str | None]


@dataclass(frozen=True)
class Method:
    """How a method is called; as upstream's decorator `qubes.api.method` states it.

    Attributes:
        handler: does the work and returns the answer's content.
        argument: True when it must be there, False when it mustn't, None when it may.
        payload: likewise.
        on_dom0: True when the destination must be dom0, False when it mustn't, None for any.
    """

    handler: Handler
    argument: bool | None = False
    payload: bool | None = False
    on_dom0: bool | None = None


Methods = dict[str, Method]


class Api:
    """Answers the connections of one socket."""

    def __init__(self, store: Store, events: Events, methods: Methods, streams: bool) -> None:
        """Take the methods; `streams` says whether admin.Events is among them."""
        self.store, self.events, self.methods, self.streams = store, events, methods, streams

    def serve(self, connection: socket.socket) -> None:
        """Answer one connection and close it; nothing that it sends can raise."""
        with connection:
            connection.settimeout(RECEIVE_SECONDS)
            try:
                self._converse(connection)
            except OSError as error:
                log.debug("a client went away: %s", error)
            except Exception:  # one bad request must not end the daemon
                log.exception("unhandled error")

    def _converse(self, connection: socket.socket) -> None:
        data = receive(connection)
        if data is None:
            log.warning("request too long")
            return
        try:
            request = self._parse(data)
            if self.streams and request.method in ("admin.Events", "admin.vm.Stats"):
                check(request, Method(lambda _: None))
                self._stream(connection, request)
                return
            answer = b"0\0" + (self._run(request) or "").encode()
        except NoAnswer as error:
            log.warning("no answer: %s", error)
            return
        except (QubesException, ProtocolError, PermissionDenied) as error:
            level = logging.DEBUG if isinstance(error, QubesException) else logging.WARNING
            log.log(level, "%s: %s", type(error).__name__, error)
            answer = exception_answer(error)
        connection.settimeout(None)
        connection.sendall(answer)

    def _parse(self, data: bytes) -> Request:
        header, nul, payload = data.partition(b"\0")
        words = header.split(b" ", 3)
        if not nul or len(words) != 4:
            raise NoAnswer("framing error")
        call, source, kind, dest = (_ascii(word) for word in words)
        if (kind, dest) == ("keyword", "adminvm"):
            kind, dest = "name", DOM0
        if kind != "name":
            raise NoAnswer(f"framing error: destination type {kind!r}")
        method, _, argument = call.partition("+")
        self.find(source)
        return Request(method, argument, self.find(dest), payload)

    def find(self, text: str) -> Qube:
        """Return the qube of a name or of `uuid:…`; upstream's decode_vm.

        Raises:
            QubesVMNotFoundError, QubesValueError, QubesVMInvalidUUIDError: there is none.
        """
        if not text.startswith("uuid:"):
            return self.store[qube_name(text)]
        if not _UUID.match(text):
            raise QubesVMInvalidUUIDError(f"VM UUID is not valid: {text[5:]!r}")
        wanted = str(uuid.UUID(text[5:]))
        for name in self.store.names():
            if self.store[name].uuid == wanted:
                return self.store[name]
        raise QubesVMNotFoundError(text)

    def _run(self, request: Request) -> str | None:
        method = self.methods.get(request.method)
        if method is None:
            raise ProtocolError(f"no such method: {request.method!r}")
        check(request, method)
        return method.handler(request)

    def _stream(self, connection: socket.socket, request: Request) -> None:
        """Send events until the client goes away."""
        connection.settimeout(None)
        only = "" if request.dest.uuid == DOM0_UUID else request.dest.name
        with self.events.listen() as listener:
            connection.sendall(event_answer(Event("", "connection-established")))
            if request.method != "admin.Events":
                only = "\0"  # the lab has no statistics: stay connected and silent
            while not _hung_up(connection):
                with contextlib.suppress(queue.Empty):
                    event = listener.get(timeout=EVENT_POLL_SECONDS)
                    if only in ("", event.subject):
                        connection.sendall(event_answer(event))


def check(request: Request, method: Method) -> None:
    """Refuse a call that has what it mustn't, or lacks what it must have.

    Raises:
        ProtocolError: with what is wrong.
    """
    if method.payload is not None and method.payload != bool(request.payload):
        raise ProtocolError("expected payload" if method.payload else "unexpected payload")
    if method.argument is not None and method.argument != bool(request.argument):
        raise ProtocolError("expected an argument" if method.argument else "unexpected argument")
    if method.on_dom0 is not None and method.on_dom0 != (request.dest.klass == "AdminVM"):
        word = "be" if method.on_dom0 else "not be"
        raise ProtocolError(f"expected destination to {word} AdminVM")


def receive(connection: socket.socket) -> bytes | None:
    """Return all that the client sends, or None when it is too much."""
    parts: list[bytes] = []
    length = 0
    while block := connection.recv(REQUEST_MAX):
        length += len(block)
        if length > REQUEST_MAX:
            return None
        parts.append(block)
    return b"".join(parts)


def exception_answer(error: Exception) -> bytes:
    """Return an error on the wire; a client applies % to the message, so it is doubled."""
    message = str(error).replace("\0", "").replace("%", "%%")
    return b"2\0" + type(error).__name__.encode() + b"\0\0" + message.encode() + b"\0"


def event_answer(event: Event) -> bytes:
    """Return an event on the wire."""
    fields = [event.subject, event.name, *(word for pair in event.details for word in pair)]
    return b"1\0" + "".join(field.replace("\0", "") + "\0" for field in fields).encode() + b"\0"


def _ascii(word: bytes) -> str:
    try:
        return word.decode("ascii")
    except UnicodeDecodeError:
        raise NoAnswer("framing error: not ASCII") from None


def _hung_up(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poller.poll(0))
