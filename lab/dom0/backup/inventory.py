# SPDX-License-Identifier: GPL-3.0-or-later
"""What a backup needs to know of the system, asked from qubesd over the Admin API.

Upstream's qubes.backup runs inside qubesd and looks at its objects; this asks for the same things.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import qubesadmin
from qubesadmin.vm import QubesVM

OWN_UPDATES = ("TemplateVM", "StandaloneVM", "AdminVM")


@dataclass(frozen=True)
class Volume:
    """One volume; `path` is that of its data as a backup shall store it, seen from dom0."""

    name: str
    path: str
    usage: int
    save_on_stop: bool
    snapshots_disabled: bool


@dataclass
class Qube:
    """One qube.

    Attributes:
        vm: the client library's object.
        properties: those that differ from the default, as text; None is Qubes' None.
    """

    vm: QubesVM
    name: str
    klass: str
    qid: int
    properties: dict[str, str | None]
    features: dict[str, str]
    tags: list[str]
    volumes: list[Volume] = field(default_factory=list)
    include_in_backups: bool = True

    @property
    def folder(self) -> Path | None:
        """Its folder in dom0, such as /var/lib/qubes/appvms/work (upstream's dir_path)."""
        paths = (Path(volume.path) for volume in self.volumes if volume.name == "private")
        return next((path.parent for path in paths), None)

    @property
    def updateable(self) -> bool:
        """Whether it has a root of its own to update."""
        return self.klass in OWN_UPDATES

    def matches(self, pattern: str) -> bool:
        """Tell whether a profile's entry means this qube.

        Stands in for qubes-core-admin qubes/utils.py match_vm_name_with_special.
        """
        if pattern.startswith("@tag:"):
            return pattern.removeprefix("@tag:") in self.tags
        if pattern.startswith("@type:"):
            return pattern.removeprefix("@type:") == self.klass
        return pattern == self.name


@dataclass(frozen=True)
class Property:
    """One line of admin.vm.property.GetAll or admin.property.GetAll."""

    is_default: bool
    kind: str
    value: str

    @property
    def text(self) -> str | None:
        """The value as qubes.xml has it; a reference to no qube is None."""
        return None if self.kind == "vm" and not self.value else self.value


def _unescape(text: str) -> str:
    r"""Undo the API's escapes, which are \\ and \n."""
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\"))


def parse_properties(answer: bytes) -> dict[str, Property]:
    r"""Parse a GetAll answer: lines `NAME default=BOOL type=TYPE VALUE`, with \\ and \n escaped.

    Source: qubes-core-admin qubes/api/admin.py _property_get_all and _serialize_property.
    """
    properties = {}
    for line in answer.decode().splitlines():
        name, default, kind, value = line.split(" ", 3)
        properties[name] = Property(
            default == "default=True", kind.removeprefix("type="), _unescape(value)
        )
    return properties


def _explicit(properties: dict[str, Property]) -> dict[str, str | None]:
    return {name: prop.text for name, prop in properties.items() if not prop.is_default}


def _volumes(app: qubesadmin.Qubes, vm: QubesVM) -> list[Volume]:
    volumes = []
    for name in app.qubesd_call(vm.name, "admin.vm.volume.List").decode().splitlines():
        answer = app.qubesd_call(vm.name, "admin.vm.volume.Info", name).decode()
        info = dict(line.split("=", 1) for line in answer.splitlines())
        volumes.append(
            Volume(
                name,
                info.get("path", ""),
                int(info["usage"]),
                info["save_on_stop"] == "True",
                int(info["revisions_to_keep"]) == -1,
            )
        )
    return volumes


def _qube(app: qubesadmin.Qubes, vm: QubesVM) -> Qube:
    properties = parse_properties(app.qubesd_call(vm.name, "admin.vm.property.GetAll"))
    klass = str(vm.klass)
    explicit = _explicit(properties)
    # These are saved always: they have no default in upstream.
    for name in ("qid", "name", "uuid", "label", "template"):
        if name in properties and not (klass == "AdminVM" and name != "label"):
            explicit[name] = properties[name].text
    included = properties.get("include_in_backups")
    return Qube(
        vm=vm,
        name=str(vm.name),
        klass=klass,
        qid=int(properties["qid"].value) if "qid" in properties else 0,
        properties=explicit,
        features={name: str(vm.features[name]) for name in vm.features},
        tags=sorted(vm.tags),
        volumes=[] if klass == "AdminVM" else _volumes(app, vm),
        include_in_backups=included is None or included.value == "True",
    )


def load_qubes(app: qubesadmin.Qubes) -> list[Qube]:
    """Return all qubes, dom0 among them, in qubesd's order: by qid."""
    return sorted((_qube(app, vm) for vm in app.domains), key=lambda qube: qube.qid)


def load_globals(app: qubesadmin.Qubes) -> dict[str, str | None]:
    """Return the system's properties that differ from their defaults."""
    return _explicit(parse_properties(app.qubesd_call("dom0", "admin.property.GetAll")))


def load_labels(app: qubesadmin.Qubes) -> list[tuple[int, str, str]]:
    """Return the labels as (index, colour, name), by index."""
    labels = []
    for name in app.qubesd_call("dom0", "admin.label.List").decode().splitlines():
        color = app.qubesd_call("dom0", "admin.label.Get", name).decode()
        index = int(app.qubesd_call("dom0", "admin.label.Index", name))
        labels.append((index, color, name))
    return sorted(labels)
