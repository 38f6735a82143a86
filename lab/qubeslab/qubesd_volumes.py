# SPDX-License-Identifier: GPL-3.0-or-later
"""The Admin API's methods about volumes, and those of the internal socket.

Each answers as the method of the same name in qubes-core-admin qubes/api/admin.py and internal.py.
"""

from __future__ import annotations

import json
import secrets

from . import domains_checks as checks
from .domains import LABELS, VOLUMES, Qube, Value
from .domains_properties import TABLE
from .qubesd import Method, Methods, Request
from .qubesd_exc import (
    NoAnswer,
    PermissionDenied,
    ProtocolError,
    QubesException,
    QubesValueError,
    QubesVMNotHaltedError,
    QubesVolumeCopyTokenNotFoundError,
)
from .qubesd_methods import Lab, lines

_SYSTEM_INFO = ("label", "template_for_dispvms", "default_dispvm", "guivm")


class VolumeMethods:
    """Methods about the volumes of qubes."""

    def __init__(self, lab: Lab) -> None:
        """Take the lab."""
        self.lab = lab
        self.store, self.pool, self.power = lab.store, lab.pool, lab.power
        self._tokens: dict[str, tuple[str, str]] = {}

    def methods(self) -> Methods:
        """Return those of the public socket by name."""
        prefix = "admin.vm.volume."
        return {
            f"{prefix}List": Method(
                lambda r: lines([name for name in VOLUMES if name in r.dest.volumes])
            ),
            f"{prefix}Info": Method(self.info, True),
            f"{prefix}ListSnapshots": Method(self.revisions, True),
            f"{prefix}Revert": Method(self.revert, True, True),
            f"{prefix}CloneFrom": Method(self.clone_from, True),
            f"{prefix}CloneTo": Method(self.clone_to, True, True),
            f"{prefix}Resize": Method(self.resize, True, True),
            f"{prefix}Clear": Method(self.clear, True),
            f"{prefix}Set.revisions_to_keep": Method(self.set_revisions, True, True),
            f"{prefix}Set.rw": Method(self.set_rw, True, True),
            f"{prefix}Set.ephemeral": Method(self.set_ephemeral, True, True),
        }

    def internal_methods(self) -> Methods:
        """Return those of the internal socket by name."""
        return {
            "internal.GetSystemInfo": Method(
                lambda _: json.dumps(self.system_info()), on_dom0=True
            ),
            "internal.vm.volume.ImportBegin": Method(self.import_begin, True, None),
            "internal.vm.volume.ImportEnd": Method(self.import_end, True, True),
        }

    def system_info(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return what policies are evaluated with; qubes/api/internal.py SystemInfoCache."""
        result: dict[str, dict[str, object]] = {}
        with self.store.lock:
            for name, qube in self.store.qubes.items():
                values = {key: self._value(qube, key) for key in _SYSTEM_INFO}
                label = str(values.pop("label"))
                result[name] = values | {
                    "internal": qube.features.get("internal"),
                    "tags": list(qube.tags),
                    "type": qube.klass,
                    "template_for_dispvms": bool(values["template_for_dispvms"]),
                    "icon": f"appvm-{label}",
                    "label": next(color for _, color, name in LABELS if name == label),
                    "relayvm": None,
                    "transport_rpc": None,
                    "power_state": self.power.state(name),
                    "uuid": qube.uuid,
                }
        return {"domains": result}

    def _value(self, qube: Qube, prop: str) -> Value:
        """Return a property's value, or None for a qube that doesn't have it."""
        return self.lab.properties.get(qube, prop) if prop in TABLE[qube.klass] else None

    def _name(self, request: Request) -> str:
        if request.argument not in request.dest.volumes:
            raise PermissionDenied(f"Argument not in '{request.dest.name} volumes'")
        return request.argument

    def _running(self, qube: Qube) -> bool:
        return not self.power.is_halted(qube.name)

    def info(self, request: Request) -> str:
        """Return a volume's properties."""
        info = self.pool.info(request.dest, self._name(request), self._running(request.dest))
        return lines([f"{key}={'' if value is None else value}" for key, value in info.items()])

    def revisions(self, request: Request) -> str:
        """Return no revisions: the lab keeps none."""
        self._name(request)
        return ""

    def revert(self, request: Request) -> None:
        """Close the connection, as upstream does for an unknown revision."""
        raise NoAnswer(f"{request.dest.name}:{self._name(request)} has no revisions")

    def clone_from(self, request: Request) -> str:
        """Return a token for cloning this volume once."""
        token = secrets.token_hex(16)
        self._tokens[token] = (request.dest.name, self._name(request))
        return token

    def clone_to(self, request: Request) -> None:
        """Replace this volume's data by that of the volume that the token stands for."""
        name = self._name(request)
        try:
            token = request.payload.decode("ascii").strip()
        except UnicodeDecodeError:
            raise ProtocolError("Token contains non-ASCII characters") from None
        source_name, volume = self._tokens.pop(token, ("", ""))
        if not source_name:
            raise QubesVolumeCopyTokenNotFoundError
        if volume != name:
            raise QubesException(f"can't clone a volume {volume} to a volume {name}")
        with self.power.exclusive(request.dest.name):
            self.power.need_halted(request.dest)
            source = self.store[source_name]
            self.pool.clone(source, request.dest, name, self._running(source))

    def resize(self, request: Request) -> None:
        """Enlarge a volume."""
        name = self._name(request)
        size = checks.number(request.payload.strip(), "volume size")
        with self.power.exclusive(request.dest.name):
            self.pool.resize(request.dest, name, size, self._running(request.dest))

    def clear(self, request: Request) -> None:
        """Make a volume empty."""
        name = self._name(request)
        with self.power.exclusive(request.dest.name):
            self.power.need_halted(request.dest)
            self.pool.import_begin(request.dest, name, request.dest.volumes[name].size)
            self.pool.import_end(request.dest, name, True)

    def set_revisions(self, request: Request) -> None:
        """Store how many revisions to keep; as the file pool, at most 1."""
        name = self._name(request)
        value = checks.number(request.payload, "revisions to keep", negative=True)
        current = request.dest.volumes[name].revisions_to_keep
        if value < -1:
            raise QubesValueError("Invalid value for revisions_to_keep")
        if value > 1:
            raise NoAnswer("FileVolume supports maximum 1 volume revision to keep")
        if value != current and -1 in (value, current):
            self.power.need_halted(request.dest)
        with self.store.change():
            request.dest.volumes[name].revisions_to_keep = value

    def set_rw(self, request: Request) -> None:
        """Store whether the qube may write to the volume."""
        name, value = self._name(request), self._truth(request)
        self.power.need_halted(request.dest)
        with self.store.change():
            request.dest.volumes[name].rw = value

    def set_ephemeral(self, request: Request) -> None:
        """Store whether the volume is encrypted with a throw-away key."""
        name, value = self._name(request), self._truth(request)
        with self.store.change():
            request.dest.volumes[name].ephemeral = value

    def _truth(self, request: Request) -> bool:
        try:
            return checks.boolean(request.payload.decode("ascii"))
        except (UnicodeDecodeError, QubesValueError):
            raise ProtocolError("Payload is not boolean ASCII") from None

    def import_begin(self, request: Request) -> str:
        """Return `SIZE PATH`: where dom0 writes new data to; the payload may be a new size."""
        name = self._name(request)
        with self.power.exclusive(request.dest.name):
            self.power.need_halted(request.dest)
            size = request.dest.volumes[name].size
            if request.payload:
                size = checks.number(request.payload, "size of new data")
            path = self.pool.import_begin(request.dest, name, size)
        self.lab.events.fire(
            request.dest.name, "domain-volume-import-begin", volume=name, size=size
        )
        return f"{size} {path}"

    def import_end(self, request: Request) -> None:
        r"""Keep the new data when the payload is `ok`; else it is `fail\nREASON`."""
        name = self._name(request)
        status, _, reason = request.payload.decode("ascii", "replace").partition("\n")
        success = status == "ok"
        with self.power.exclusive(request.dest.name):
            if success and self._running(request.dest):
                self.pool.import_end(request.dest, name, False)
                raise QubesVMNotHaltedError(
                    f"{request.dest.name} was started while its {name} was imported"
                )
            self.pool.import_end(request.dest, name, success)
        self.lab.events.fire(
            request.dest.name, "domain-volume-import-end", volume=name, success=success
        )
        if not success:
            raise QubesException(f"Data import failed: {reason}")
