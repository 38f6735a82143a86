# SPDX-License-Identifier: GPL-3.0-or-later
"""The properties of qubes and of the system: types, defaults, who may have which.

Source: qubes-core-admin qubes/vm/{__init__,qubesvm,adminvm,appvm,templatevm}.py, qubes/vm/mix/*.py
and qubes/app.py, the `qubes.property` and `qubes.VMProperty` members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from . import domains_checks as checks
from .domains import KERNEL, LABELS, Qube, Store, Value
from .qubesd_exc import (
    NoAnswer,
    QubesLabelNotFoundError,
    QubesNoSuchPropertyError,
    QubesPropertyValueError,
    QubesValueError,
)

Kind = Literal["str", "int", "bool", "vm", "label"]
PRINTABLE = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("\t\n\r\x0b\x0c")

ADMIN = frozenset({"AdminVM"})
APP = frozenset({"AppVM"})
TEMPLATE = frozenset({"TemplateVM"})
OTHERS = frozenset({"AppVM", "TemplateVM", "StandaloneVM"})
ALL = OTHERS | ADMIN


class NoDefault(Exception):  # noqa: N818 - a signal
    """The property has no default; upstream raises AttributeError."""


Default = Callable[["Properties", Qube], Value]


@dataclass(frozen=True)
class Property:
    """One property.

    Attributes:
        name: such as netvm.
        kind: its type on the wire.
        default: computes the value when none was set.
        help: one sentence.
        check: returns the value to store or raises QubesPropertyValueError.
        fixed: can't be set by a client.
        required: a qube must be named, "none" isn't accepted (kind vm).
    """

    name: str
    kind: Kind
    default: Default
    help: str
    check: Callable[[str, Any], Value] | None = None
    fixed: bool = False
    required: bool = False


def always(value: Value) -> Default:
    """Return a default that is the same for all qubes."""
    return lambda _properties, _qube: value


def missing(_properties: Properties, _qube: Qube) -> Value:
    """Be the default of properties that have none."""
    raise NoDefault


def setting(name: str) -> Default:
    """Return a default that is a setting of the system."""
    return lambda properties, _qube: properties.get(properties.system, name)


def inherited(name: str, default: Default) -> Default:
    """Return a default that is the template's value, or `default` for qubes without a template."""

    def value(properties: Properties, qube: Qube) -> Value:
        template = qube.properties.get("template")
        if isinstance(template, str) and template in properties.store:
            return properties.get(properties.store[template], name)
        return default(properties, qube)

    return value


def _ip(properties: Properties, qube: Qube) -> Value:
    if properties.get(qube, "netvm") is None and not properties.get(qube, "provides_network"):
        return None
    return f"10.137.{qube.qid >> 8 & 255}.{qube.qid & 255}"


def _icon(properties: Properties, qube: Qube) -> Value:
    kinds = {"TemplateVM": "templatevm", "StandaloneVM": "standalonevm", "AdminVM": "adminvm"}
    kind = kinds.get(qube.klass, "appvm")
    if qube.klass == "AppVM" and properties.get(qube, "template_for_dispvms"):
        kind = "templatevm"
    return f"{kind}-{properties.get(qube, 'label')}"


_KLASS = Property("klass", "str", lambda _, qube: qube.klass, "Domain class name", fixed=True)
_ICON = Property("icon", "str", _icon, "Freedesktop icon name", fixed=True)
_LABEL = Property("label", "label", missing, "Colourful label assigned to VM.")
_DISPVM = Property(
    "default_dispvm", "vm", setting("default_dispvm"), "Default disposable template."
)
_KEYBOARD = Property(
    "keyboard_layout", "str", always("us++"), "Keyboard layout.", checks.keyboard_layout
)
_COMMON = (
    Property("name", "str", lambda _, qube: qube.name, "User-specified name.", fixed=True),
    Property("qid", "int", lambda _, qube: qube.qid, "Persistent identificator.", fixed=True),
    Property("uuid", "str", lambda _, qube: qube.uuid, "UUID from libvirt.", fixed=True),
    *(_KLASS, _ICON, _LABEL, _DISPVM, _KEYBOARD),
    Property("include_in_backups", "bool", always(True), "Is it in the default backup?"),
    Property("devices_denied", "str", always(""), "Denied device interfaces.", fixed=True),
)
_QUBE = (
    Property("netvm", "vm", setting("default_netvm"), "The qube that gives it the network."),
    Property("provides_network", "bool", always(False), "Can it be a netvm?"),
    Property("mac", "str", always("00:16:3e:5e:6c:00"), "MAC address.", checks.mac_address),
    Property("ip", "str", _ip, "IP address."),
    Property("ip6", "str", always(None), "IPv6 address."),
    Property("visible_ip", "str", _ip, "IP address as seen inside.", fixed=True),
    Property("guivm", "vm", setting("default_guivm"), "VM used for Gui"),
    Property("audiovm", "vm", setting("default_audiovm"), "VM used for Audio"),
    Property(
        "virt_mode", "str", inherited("virt_mode", always("pvh")), "How it runs.", checks.virt_mode
    ),
    Property("installed_by_rpm", "bool", always(False), "Does a package own its image?"),
    Property("memory", "int", inherited("memory", always(400)), "Memory, MiB.", checks.positive),
    Property(
        "maxmem", "int", inherited("maxmem", always(4000)), "Most memory, MiB.", checks.not_negative
    ),
    Property("stubdom_mem", "int", always(None), "Memory for the stubdom.", checks.positive),
    Property("vcpus", "int", inherited("vcpus", always(2)), "Virtual CPUs.", checks.positive),
    Property("kernel", "str", inherited("kernel", setting("default_kernel")), "Kernel."),
    Property(
        *("kernelopts", "str", inherited("kernelopts", always("swiotlb=2048"))),
        *("Kernel command line.", checks.kernel_options),
    ),
    Property("debug", "bool", always(False), "Turns on debugging features."),
    Property(
        *("default_user", "str", inherited("default_user", always("user"))),
        *("Default user to start applications as.", checks.user_name),
    ),
    Property(
        *("qrexec_timeout", "int", inherited("qrexec_timeout", setting("default_qrexec_timeout"))),
        *("Seconds until a qrexec connection fails.", checks.positive),
    ),
    Property(
        *("shutdown_timeout", "int"),
        inherited("shutdown_timeout", setting("default_shutdown_timeout")),
        *("Seconds until a shutdown fails.", checks.positive),
    ),
    Property("autostart", "bool", always(False), "Start it with dom0?"),
    Property("backup_timestamp", "int", always(None), "Time of the last backup, Unix epoch."),
    Property("bootmode", "str", always("default"), "Active boot mode."),
    Property(
        *("management_dispvm", "vm"),
        inherited("management_dispvm", setting("management_dispvm")),
        "Disposable template for managing this qube.",
    ),
    Property(
        "updateable",
        "bool",
        lambda _, qube: "template" not in qube.properties,
        "May it be updated on its own?",
        fixed=True,
    ),
)
_OF_CLASS: dict[str, tuple[Property, ...]] = {
    "AdminVM": (Property("updateable", "bool", always(True), "Is it updateable?", fixed=True),),
    "AppVM": (
        Property("template", "vm", missing, "Template of this qube.", required=True),
        Property("template_for_dispvms", "bool", always(False), "May disposables use it?"),
    ),
    "TemplateVM": (
        Property("netvm", "vm", always(None), "The qube that gives it the network."),
        Property("appvm_default_bootmode", "str", always("default"), "Boot mode of its AppVMs."),
    ),
    "StandaloneVM": (),
}
_SYSTEM = (
    Property("default_guivm", "vm", always("dom0"), "Default GuiVM for VMs."),
    Property("default_audiovm", "vm", always("dom0"), "Default AudioVM for VMs."),
    Property("default_netvm", "vm", always(None), "Default NetVM for AppVMs."),
    Property("default_template", "vm", missing, "Default template for new AppVMs"),
    Property("updatevm", "vm", always(None), "The proxy for updates."),
    Property("clockvm", "vm", always(None), "The source of time."),
    Property("default_kernel", "str", always(KERNEL), "Kernel when a qube has none."),
    Property("default_dispvm", "vm", always(None), "Default disposable template."),
    Property("management_dispvm", "vm", always(None), "Default management disposable template."),
    *(
        Property(f"default_pool{volume}", "str", always("varlibqubes"), "Storage pool.", fixed=True)
        for volume in ("", "_private", "_root", "_volatile")
    ),
    Property("default_pool_kernel", "str", always("linux-kernel"), "Storage pool.", fixed=True),
    *(
        Property(f"default_{kind}_timeout", "int", always(60), "Seconds.", checks.positive)
        for kind in ("qrexec", "shutdown")
    ),
    Property("stats_interval", "int", always(3), "Seconds between statistics.", checks.positive),
    Property("check_updates_vm", "bool", always(True), "Check for updates inside qubes"),
)
SYSTEM = "app"
TABLE: dict[str, dict[str, Property]] = {
    klass: {
        prop.name: prop
        for prop in (*_COMMON, *(() if klass == "AdminVM" else _QUBE), *_OF_CLASS[klass])
    }
    for klass in ALL
} | {SYSTEM: {prop.name: prop for prop in _SYSTEM}}


class Properties:
    """Reads and changes properties."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self.store = store

    @property
    def system(self) -> Qube:
        """The system's settings in the guise of a qube."""
        return Qube("", 0, "", SYSTEM, self.store.settings)

    def names(self, holder: Qube) -> list[str]:
        """Return the names of a holder's properties, sorted."""
        return sorted(TABLE[holder.klass])

    def find(self, holder: Qube, name: str) -> Property:
        """Return a property.

        Raises:
            QubesNoSuchPropertyError: the holder has no such property.
        """
        try:
            return TABLE[holder.klass][name]
        except KeyError:
            raise QubesNoSuchPropertyError(holder.name or SYSTEM, name) from None

    def get(self, holder: Qube, name: str) -> Value:
        """Return a property's value.

        Raises:
            NoDefault: it has no value.
        """
        if name in holder.properties:
            return holder.properties[name]
        return self.find(holder, name).default(self, holder)

    def parse(self, holder: Qube, name: str, payload: bytes) -> Value:
        """Turn a client's value into one to store.

        Source: qubes-core-admin qubes/__init__.py property.sanitize, qubes/vm/__init__.py
        VMProperty.

        Raises:
            QubesValueError, QubesPropertyValueError, QubesLabelNotFoundError: it isn't valid.
            NoAnswer: the property is set once, when the qube is created.
        """
        prop = self.find(holder, name)
        if name in ("name", "qid", "uuid"):
            raise NoAnswer(f"property {name!r} is write-once and already set")
        if prop.fixed:
            raise QubesPropertyValueError(f"property {name!r} on {holder.klass} cannot be set")
        try:
            text = payload.decode("ascii")
        except UnicodeDecodeError:
            raise QubesValueError("Non-ASCII bytes in property value") from None
        value = self._typed(prop, text)
        return value if prop.check is None or value is None else prop.check(name, value)

    def _typed(self, prop: Property, text: str) -> Value:
        if prop.kind == "vm":
            return self._qube(prop, text)
        if prop.kind == "bool":
            return checks.boolean(text)
        if prop.kind == "int":
            try:
                return int(text)
            except ValueError:
                raise QubesValueError("Failed to parse property value as int") from None
        if not PRINTABLE.issuperset(text):
            raise QubesValueError("Invalid characters in property value")
        if prop.kind == "label":
            if text not in {name for _, _, name in LABELS}:
                raise QubesLabelNotFoundError(text)
        elif prop.name.endswith("kernel") and text not in ("", KERNEL):
            raise QubesPropertyValueError(f"Kernel {text!r} not installed")
        return text

    def _qube(self, prop: Property, text: str) -> str | None:
        if text == "":
            if prop.required:
                raise QubesPropertyValueError(f"Invalid value None for property {prop.name!r}")
            return None
        checks.qube_name(text)
        if text not in self.store:
            raise QubesPropertyValueError(f"Can't set {prop.name} to non-existing qube {text}")
        wanted = "TemplateVM" if prop.name in ("template", "default_template") else None
        klass = self.store[text].klass
        if wanted and klass != wanted:
            raise QubesPropertyValueError(
                f"wrong VM class: domains[{text!r}] is of type {klass} and not {wanted}"
            )
        if prop.name.endswith("_dispvm"):
            self._need(text, "template_for_dispvms", f"{text!r} has template_for_dispvms False")
        return text

    def _need(self, name: str, flag: str, message: str) -> None:
        qube = self.store[name]
        if flag not in TABLE[qube.klass] or not self.get(qube, flag):
            raise QubesPropertyValueError(message)
