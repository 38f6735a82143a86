# SPDX-License-Identifier: GPL-3.0-or-later
"""The broker for qrexec calls: from dom0 to qubes, and from qubes by dom0's policy.

A client connects to the socket of the qube it is in, and sends one line of JSON along with its
three standard file descriptors. The service gets these very descriptors, so no data passes through
here; only stderr does, as in Qubes it is the agent that waits for its end.
Requests: {"target", "command", "wait", "filter_stderr"} from dom0, where command is
`USER:QUBESRPC SERVICE+ARG SOURCE` or `USER:SHELL COMMAND`; {"target", "service", "filter_stderr"}
from a qube. Answers: {"allowed": true} when the service starts, then {"exit": N}; or, instead of
both, {"exit": N, "error": TEXT}.

Source: qubes-core-qrexec daemon/qrexec-client.c, daemon/qrexec-daemon.c (sanitize_name),
agent/qrexec-agent.c (do_exec), libqrexec/exec.c (parse_qubes_rpc_command), libqrexec/qrexec.h.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from dataclasses import dataclass
from typing import Any

from . import policy
from .domains_power import Power
from .domains_properties import NoDefault
from .paths import DOM0, LabError
from .policy_files import Dom0Files
from .qrexec_run import Paths, Streams, run_here, service_user
from .qubesd_exc import QubesException
from .qubesd_volumes import VolumeMethods

EXIT_PROBLEM = 125
EXIT_REFUSED = 126

REQUEST_MAX = 2**17
SERVICE_MAX = 65000  # qubes-core-qrexec libqrexec/qrexec.h MAX_SERVICE_NAME_LEN
TARGET_MAX = 63
RECEIVE_SECONDS = 10
DOM0_USER = "user"  # the first member of dom0's group qubes

_FORBIDDEN_TARGET = re.compile(r"[^A-Za-z0-9_.@:-]")
_FORBIDDEN_SERVICE = re.compile(r"[^A-Za-z0-9_.+-]")

log = logging.getLogger("qrexec")


class BadRequest(Exception):  # noqa: N818 - becomes an answer
    """The request isn't one."""


class Refused(Exception):  # noqa: N818 - becomes an answer
    """The call can't be made.

    Attributes:
        code: the client's exit code.
    """

    def __init__(self, code: int, message: str) -> None:
        """Take the exit code and what the client's user shall read."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Service:
    """What to run where.

    Attributes:
        target: a running qube, or dom0.
        user: who asked for which user; None for the qube's default.
        descriptor: SERVICE+ARGUMENT, or None for a plain shell command.
        command: the shell command, when there is no descriptor.
        source: the calling qube.
        requested: how the caller named the target; told to dom0's services only.
    """

    target: str
    user: str | None
    source: str
    descriptor: str | None = None
    command: str = ""
    requested: str | None = None


class Broker:
    """Answers the connections of all qrexec sockets."""

    def __init__(self, power: Power, volumes: VolumeMethods, paths: Paths) -> None:
        """Take what it works with; `volumes` knows the system info that policy needs."""
        self.power, self.volumes, self.paths = power, volumes, paths
        self.machines = power.machines

    def serve(self, connection: socket.socket, caller: str) -> None:
        """Answer one connection and close it; nothing that it sends can raise.

        Args:
            connection: a connected client.
            caller: the qube it is in, as told by the socket it came through.
        """
        with connection:
            connection.settimeout(RECEIVE_SECONDS)
            descriptors: list[int] = []
            try:
                request = self._receive(connection, descriptors)
                connection.settimeout(None)
                streams = Streams.take(descriptors, bool(request.get("filter_stderr")))
                with streams:
                    self._answer(connection, caller, request, streams)
            except BadRequest as error:
                log.warning("bad request from %s: %s", caller, error)
                _send(connection, {"exit": EXIT_PROBLEM, "error": f"bad request: {error}"})
            except OSError as error:
                log.debug("the client in %s went away: %s", caller, error)
            except Exception:  # one bad request must not end the daemon
                log.exception("unhandled error")
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _receive(self, connection: socket.socket, descriptors: list[int]) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"\n"):
            block, received, _, _ = socket.recv_fds(connection, REQUEST_MAX, 3)
            descriptors += received
            data += block
            if not block or len(data) > REQUEST_MAX:
                raise BadRequest("cut short" if not block else "too long")
        if len(descriptors) != 3:
            raise BadRequest(f"{len(descriptors)} file descriptors instead of 3")
        try:
            request = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadRequest("not JSON") from error
        if not isinstance(request, dict):
            raise BadRequest("not an object")
        return request

    def _answer(
        self, connection: socket.socket, caller: str, request: dict[str, Any], streams: Streams
    ) -> None:
        try:
            if caller == DOM0:
                service = self._from_dom0(request)
            else:
                service = self._from_qube(caller, request)
            if not self.machines.is_running(service.target):
                raise Refused(EXIT_PROBLEM, f"{service.target} is not running")
            argv = self._argv(service)
        except Refused as error:
            _send(connection, {"exit": error.code, "error": str(error)})
            return
        except LabError as error:
            log.error("%s", error)
            _send(connection, {"exit": EXIT_PROBLEM, "error": str(error)})
            return
        _send(connection, {"allowed": True})
        if request.get("wait", True) is False:
            _send(connection, {"exit": 0})
            connection.close()
        code = run_here(argv, streams)
        if request.get("wait", True) is not False:
            _send(connection, {"exit": code})

    def _from_dom0(self, request: dict[str, Any]) -> Service:
        target, command = _text(request, "target"), _text(request, "command")
        user, colon, command = command.partition(":")
        if not colon:
            raise BadRequest("no colon in the command")
        if target not in self.power.store or target == DOM0:
            raise Refused(EXIT_PROBLEM, f"no such domain: {target!r}")
        chosen = None if user == "DEFAULT" else user
        command = command.removeprefix("nogui:")
        if not command.startswith("QUBESRPC "):
            return Service(target, chosen, DOM0, command=command)
        words = command.split(" ")
        if len(words) != 3 or not words[1] or not words[2]:
            raise BadRequest("QUBESRPC wants a service and a source")
        if len(words[1]) > SERVICE_MAX:
            raise BadRequest("the service's name is too long")
        return Service(target, chosen, words[2], words[1])

    def _from_qube(self, caller: str, request: dict[str, Any]) -> Service:
        descriptor = _FORBIDDEN_SERVICE.sub("_", _text(request, "service"))
        wanted = _FORBIDDEN_TARGET.sub("_", _text(request, "target")[:TARGET_MAX])
        name, plus, argument = descriptor.partition("+")
        if not name or len(descriptor) > SERVICE_MAX:
            raise BadRequest("the service's name is empty or too long")
        label = f"{name}+{argument}: {caller} -> {wanted or '@default'}"
        try:
            rules = policy.Loader(Dom0Files(self.machines.root(DOM0))).load()
            call = policy.Call(name, f"+{argument}", caller, wanted)
            allowed = policy.decide(rules, call, self.volumes.system_info()["domains"])
            self._make_ready(allowed)
        except policy.PolicySyntaxError as error:
            log.error("%s: denied, error loading policy: %s", label, error)
            raise Refused(EXIT_REFUSED, "Request refused") from error
        except (policy.Denied, LabError, QubesException) as error:
            log.info("%s: denied: %s", label, error)
            raise Refused(EXIT_REFUSED, "Request refused") from error
        log.info("%s: allowed to %s", label, allowed.target)
        descriptor = f"{name}{plus}{argument}"
        requested = (wanted or "@default") if allowed.target == DOM0 else None
        return Service(allowed.target, allowed.user, caller, descriptor, requested=requested)

    def _make_ready(self, allowed: policy.Allowed) -> None:
        if allowed.target.startswith("@dispvm"):
            raise LabError("the lab has no disposables")
        if allowed.target != DOM0 and allowed.autostart:
            self.power.start(allowed.target)

    def _argv(self, service: Service) -> list[str]:
        """Return the command that runs a service where it belongs."""
        if service.target == DOM0:
            return [
                *self.machines.enter(DOM0, DOM0_USER),
                *(self.paths.multiplexer, str(service.descriptor), service.source),
                *_requested(service.requested or "@default"),
            ]
        user = service.user or self._default_user(service.target)
        if service.descriptor is None:
            shell = ["/bin/bash", "-lc", 'cd "$HOME" || cd /; eval "$0"', service.command]
            return [*self.machines.enter(service.target, user), *shell]
        as_root = self.machines.enter(service.target, "root")
        user = service_user(as_root, self.paths, service.descriptor, user)
        return [
            *self.machines.enter(service.target, user),
            *(self.paths.multiplexer, service.descriptor, service.source),
        ]

    def _default_user(self, name: str) -> str:
        try:
            return str(self.power.properties.get(self.power.store[name], "default_user"))
        except NoDefault:
            return "user"


def _requested(target: str) -> list[str]:
    return ["keyword", target[1:]] if target.startswith("@") else ["name", target]


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise BadRequest(f"{key} is no text")
    return value


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(answer).encode() + b"\n")
    except OSError as error:
        log.debug("the client is gone: %s", error)
