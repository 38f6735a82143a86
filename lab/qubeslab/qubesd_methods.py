# SPDX-License-Identifier: GPL-3.0-or-later
"""The Admin API's methods about names, properties, features, tags, labels, rules and notes.

Each answers as the method of the same name in qubes-core-admin qubes/api/admin.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import domains_checks as checks
from . import domains_firewall as firewall
from .domains import LABELS, Qube, Store, Value, write_synced
from .domains_power import Power
from .domains_properties import NoDefault, Properties
from .domains_volumes import Pool
from .paths import DOM0
from .qubesd import Method, Methods, Request
from .qubesd_events import Events
from .qubesd_exc import (
    ProtocolError,
    QubesFeatureNotFoundError,
    QubesLabelNotFoundError,
    QubesPropertyValueError,
    QubesTagNotFoundError,
    QubesValueError,
)

CLASSES = ("AdminVM", "AppVM", "DispVM", "StandaloneVM", "TemplateVM")
DEVICE_CLASSES = ("block", "mic", "pci", "testclass", "usb", "webcam")
NOTES_MAX = 256000


@dataclass(frozen=True)
class Lab:
    """The parts that the methods work with."""

    store: Store
    pool: Pool
    power: Power
    events: Events

    @property
    def properties(self) -> Properties:
        """The properties of everything."""
        return self.power.properties


def lines(items: list[str]) -> str:
    """Return one item a line."""
    return "".join(f"{item}\n" for item in items)


class Basics:
    """Methods that only read and change what is in the store, or beside it in small files."""

    def __init__(self, lab: Lab) -> None:
        """Take the lab."""
        self.lab = lab
        self.store, self.properties, self.events = lab.store, lab.properties, lab.events

    def methods(self) -> Methods:
        """Return all of them by name."""
        return {
            "admin.vmclass.List": Method(lambda _: lines(list(CLASSES)), on_dom0=True),
            "admin.deviceclass.List": Method(lambda _: lines(list(DEVICE_CLASSES)), on_dom0=True),
            "admin.vm.List": Method(self.list_qubes),
            **self._property_methods("admin.vm.property.", None),
            **self._property_methods("admin.property.", True),
            "admin.vm.feature.List": Method(lambda r: lines(sorted(r.dest.features))),
            "admin.vm.feature.Get": Method(self.feature_get, argument=True),
            "admin.vm.feature.CheckWithTemplate": Method(self.feature_inherited, argument=True),
            "admin.vm.feature.CheckWithNetvm": Method(self.feature_netvm, argument=True),
            "admin.vm.feature.CheckWithAdminVM": Method(self.feature_dom0, argument=True),
            "admin.vm.feature.CheckWithTemplateAndAdminVM": Method(
                self.feature_inherited_dom0, argument=True
            ),
            "admin.vm.feature.Set": Method(self.feature_set, argument=True, payload=None),
            "admin.vm.feature.Remove": Method(self.feature_remove, argument=True),
            "admin.vm.tag.List": Method(lambda r: lines(sorted(r.dest.tags))),
            "admin.vm.tag.Get": Method(self.tag_get, argument=True),
            "admin.vm.tag.Set": Method(self.tag_set, argument=True),
            "admin.vm.tag.Remove": Method(self.tag_remove, argument=True),
            "admin.label.List": Method(
                lambda _: lines([name for _, _, name in LABELS]), on_dom0=True
            ),
            "admin.label.Get": Method(
                lambda r: self._label(r.argument)[1], argument=True, on_dom0=True
            ),
            "admin.label.Index": Method(
                lambda r: str(self._label(r.argument)[0]), argument=True, on_dom0=True
            ),
            "admin.vm.firewall.Get": Method(self.firewall_get, on_dom0=False),
            "admin.vm.firewall.Set": Method(self.firewall_set, payload=True, on_dom0=False),
            "admin.vm.firewall.Reload": Method(self.firewall_reload, on_dom0=False),
            "admin.vm.notes.Get": Method(self.notes_get, on_dom0=False),
            "admin.vm.notes.Set": Method(self.notes_set, payload=None, on_dom0=False),
            **{
                f"admin.vm.device.{kind}.{what}": Method(lambda _: "", argument=None)
                for kind in DEVICE_CLASSES
                for what in ("Available", "Assigned", "Attached")
            },
            "admin.vm.device.denied.List": Method(lambda _: ""),
        }

    def _property_methods(self, prefix: str, on_dom0: bool | None) -> Methods:
        """Return the methods for qubes' properties, or (`on_dom0`) for the system's."""

        def holder(request: Request) -> Qube:
            return self.properties.system if on_dom0 else request.dest

        def described(request: Request) -> str:
            return self.properties.find(holder(request), request.argument).help

        def method(handler: str, argument: bool, payload: bool | None = False) -> Method:
            function = getattr(self, f"property_{handler}")
            return Method(lambda r: function(holder(r), r), argument, payload, on_dom0)

        return {
            f"{prefix}List": method("list", False),
            f"{prefix}Get": method("get", True),
            f"{prefix}GetAll": method("get_all", False),
            f"{prefix}GetDefault": method("get_default", True),
            f"{prefix}Set": method("set", True, None),
            f"{prefix}Reset": method("reset", True),
            f"{prefix}Help": Method(described, True, False, on_dom0),
            f"{prefix}HelpRst": Method(described, True, False, on_dom0),
        }

    def list_qubes(self, request: Request) -> str:
        """List all qubes (dest dom0), or one."""
        names = self.store.names() if request.dest.name == DOM0 else [request.dest.name]
        return lines(
            [
                f"{name} class={self.store[name].klass} state={self.lab.power.state(name)} "
                f"uuid={self.store[name].uuid}"
                for name in names
                if name in self.store
            ]
        )

    def property_list(self, holder: Qube, _request: Request) -> str:
        """List the names of properties."""
        return lines(self.properties.names(holder))

    def property_get(self, holder: Qube, request: Request) -> str:
        """Return a property's value."""
        return self._serialized(holder, request.argument)

    def property_get_all(self, holder: Qube, _request: Request) -> str:
        """Return all properties."""
        result = []
        for name in self.properties.names(holder):
            value = self._serialized(holder, name).replace("\\", "\\\\").replace("\n", "\\n")
            result.append(f"{name} {value}")
        return lines(result)

    def property_get_default(self, holder: Qube, request: Request) -> str | None:
        """Return the value that a reset would give."""
        prop = self.properties.find(holder, request.argument)
        try:
            value = prop.default(self.properties, holder)
        except NoDefault:
            return None
        return f"type={prop.kind} {_text(value)}"

    def property_set(self, holder: Qube, request: Request) -> None:
        """Set a property."""
        name = request.argument
        with self.store.change():
            value = self.properties.parse(holder, name, request.payload)
            self._guard(holder, name, value)
            holder.properties[name] = value
        self.events.fire(
            holder.name, f"property-set:{name}", name=name, newvalue="" if value is None else value
        )

    def property_reset(self, holder: Qube, request: Request) -> None:
        """Set a property to its default."""
        prop = self.properties.find(holder, request.argument)
        if prop.required:
            raise QubesValueError(f"Cannot unset {prop.name}")
        with self.store.change():
            holder.properties.pop(prop.name, None)
        self.events.fire(holder.name, f"property-reset:{prop.name}", name=prop.name)

    def _serialized(self, holder: Qube, name: str) -> str:
        prop = self.properties.find(holder, name)
        try:
            value = self.properties.get(holder, name)
        except NoDefault:
            return f"default=True type={prop.kind} "
        # A qube gets these once, when it is created; dom0's are built in.
        given = name in ("name", "qid", "uuid") and holder.klass != "AdminVM"
        default = name not in holder.properties and not given
        return f"default={default} type={prop.kind} {_text(value)}"

    def _guard(self, holder: Qube, name: str, value: Value) -> None:
        """Refuse values that depend on other qubes, or on the qube being off."""
        if name == "template" and not self.lab.power.is_halted(holder.name):
            self.lab.power.need_halted(holder, "Cannot change template while qube is running")
        if name in ("netvm", "default_netvm") and isinstance(value, str):
            target = self.store[value]
            if target.klass == "AdminVM" or not self.properties.get(target, "provides_network"):
                error = QubesValueError if holder.name else QubesPropertyValueError
                raise error(f"The {value} qube does not provide network")
            seen: Value = value
            while isinstance(seen, str):
                if seen == holder.name:
                    raise QubesValueError("Loops in network are unsupported")
                seen = self.properties.get(self.store[seen], "netvm")
        if name == "provides_network" and not value:
            qubes = [self.store[other] for other in self.store.names() if other != DOM0]
            if any(self.properties.get(qube, "netvm") == holder.name for qube in qubes):
                raise QubesValueError(
                    "The qube is still used by other qubes, change theirs 'netvm' first"
                )

    def feature_get(self, request: Request) -> str:
        """Return a feature."""
        return self._feature(request, [request.dest])

    def feature_inherited(self, request: Request) -> str:
        """Return a feature of the qube or of its template."""
        return self._feature(request, self._with_template(request.dest))

    def feature_netvm(self, request: Request) -> str:
        """Return a feature of the qube or of its netvm."""
        chain = [request.dest]
        if request.dest.name != DOM0:
            netvm = self.properties.get(request.dest, "netvm")
            chain += [self.store[netvm]] if isinstance(netvm, str) else []
        return self._feature(request, chain)

    def feature_dom0(self, request: Request) -> str:
        """Return a feature of the qube or of dom0."""
        return self._feature(request, [request.dest, self.store[DOM0]])

    def feature_inherited_dom0(self, request: Request) -> str:
        """Return a feature of the qube, of its template or of dom0."""
        return self._feature(request, [*self._with_template(request.dest), self.store[DOM0]])

    def feature_set(self, request: Request) -> None:
        """Set a feature."""
        value = checks.feature(request.argument, request.payload)
        with self.store.change():
            request.dest.features[request.argument] = value
        event = f"domain-feature-set:{request.argument}"
        self.events.fire(request.dest.name, event, feature=request.argument, value=value)

    def feature_remove(self, request: Request) -> None:
        """Remove a feature."""
        with self.store.change():
            if request.dest.features.pop(request.argument, None) is None:
                raise QubesFeatureNotFoundError(request.dest.name, request.argument)
        event = f"domain-feature-delete:{request.argument}"
        self.events.fire(request.dest.name, event, feature=request.argument)

    def _feature(self, request: Request, chain: list[Qube]) -> str:
        for qube in chain:
            if request.argument in qube.features:
                return qube.features[request.argument]
        raise QubesFeatureNotFoundError(request.dest.name, request.argument)

    def _with_template(self, qube: Qube) -> list[Qube]:
        template = qube.properties.get("template")
        return [qube, self.store[template]] if isinstance(template, str) else [qube]

    def tag_get(self, request: Request) -> str:
        """Tell whether the qube has a tag."""
        return "1" if checks.tag_name(request.argument) in request.dest.tags else "0"

    def tag_set(self, request: Request) -> None:
        """Add a tag."""
        tag = checks.tag_name(request.argument)
        if tag in request.dest.tags:
            return
        with self.store.change():
            request.dest.tags.append(tag)
        self.events.fire(request.dest.name, f"domain-tag-add:{tag}", tag=tag)

    def tag_remove(self, request: Request) -> None:
        """Remove a tag."""
        tag = checks.tag_name(request.argument)
        with self.store.change():
            if tag not in request.dest.tags:
                raise QubesTagNotFoundError(request.dest.name, tag)
            request.dest.tags.remove(tag)
        self.events.fire(request.dest.name, f"domain-tag-delete:{tag}", tag=tag)

    def _label(self, name: str) -> tuple[int, str, str]:
        checks.label_name(name)
        for label in LABELS:
            if name == label[2]:
                return label
        raise QubesLabelNotFoundError(name)

    def firewall_get(self, request: Request) -> str:
        """Return the rules."""
        return lines(firewall.load(self.lab.pool.folder(request.dest)))

    def firewall_set(self, request: Request) -> None:
        """Replace the rules."""
        try:
            text = request.payload.decode("ascii")
        except UnicodeDecodeError:
            raise ProtocolError("Rules contains non-ASCII characters") from None
        firewall.save(self.lab.pool.folder(request.dest), text.splitlines())
        self.events.fire(request.dest.name, "firewall-changed")

    def firewall_reload(self, request: Request) -> None:
        """Tell listeners; the lab has no network to filter."""
        self.events.fire(request.dest.name, "firewall-changed")

    def notes_get(self, request: Request) -> str:
        """Return the notes."""
        path = self.lab.pool.folder(request.dest) / "notes.txt"
        return path.read_text() if path.exists() else ""

    def notes_set(self, request: Request) -> None:
        """Replace the notes; characters that can't be shown become "_"."""
        if len(request.payload) > NOTES_MAX:
            raise ProtocolError(f"Maximum note size is {NOTES_MAX} bytes")
        try:
            text = request.payload.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"Unable to sanitise qube notes: {error}") from None
        shown = "".join(char if char.isprintable() or char in "\t\n" else "_" for char in text)
        write_synced(self.lab.pool.folder(request.dest) / "notes.txt", shown)


def _text(value: Value) -> str:
    return "" if value is None else str(value)
