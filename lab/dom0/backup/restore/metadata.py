# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a backup's qubes.xml and firewall.xml.

Stands in for qubes-core-admin-client qubesadmin/backup/core3.py. Both files come from the archive,
but were authenticated by scrypt before.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

RULE_PARTS = ("action", "proto", "dstports", "icmptype", "specialtarget", "expire", "comment")


@dataclass
class StoredQube:
    """A qube as the backup describes it; it may describe more qubes than it holds.

    Attributes:
        backup_path: its folder in the archive, None if the archive doesn't hold it.
        size: bytes on disk at the time of the backup.
    """

    klass: str
    name: str
    label: str
    template: str | None
    properties: dict[str, str | None]
    features: dict[str, str | bool]
    tags: set[str]
    backup_path: str | None = None
    size: int = 0

    @property
    def included(self) -> bool:
        """Whether the archive holds it."""
        return self.backup_path is not None

    def flag(self, name: str) -> bool:
        """Tell whether a property is set, to whatever it is."""
        return bool(self.properties.get(name))


def _named(element: ElementTree.Element, path: str) -> dict[str, str | None]:
    return {str(node.get("name")): node.text for node in element.findall(path)}


def _qube(element: ElementTree.Element, labels: dict[str, str]) -> StoredQube:
    properties = _named(element, "./properties/property")
    features: dict[str, str | bool] = {
        name: False if value is None else value
        for name, value in _named(element, "./features/feature").items()
    }
    klass = str(element.get("class"))
    name = "dom0" if klass == "AdminVM" else str(properties.pop("name"))
    label = labels[str(properties.pop("label"))]
    template = properties.pop("template", None)
    for generated in ("uuid", "qid"):
        properties.pop(generated, None)
    qube = StoredQube(klass, name, label, template, properties, features, set())
    qube.tags = set(_named(element, "./tags/tag"))
    if features.pop("backup-content", False):
        qube.backup_path = str(features.pop("backup-path"))
        qube.size = int(features.pop("backup-size", 0))
    return qube


def read_qubes_xml(path: Path) -> dict[str, StoredQube]:
    """Return all qubes that a qubes.xml describes, by name.

    Raises:
        ElementTree.ParseError: it is no XML.
        KeyError: something that each qube has is missing.
    """
    top = ElementTree.parse(path)  # noqa: S314 -- authenticated
    labels = {}
    for node in top.findall("./labels/label"):
        labels[str(node.get("id"))] = labels[str(node.text)] = str(node.text)
    qubes = (_qube(element, labels) for element in top.findall("./domains/domain"))
    return {qube.name: qube for qube in qubes}


def _address(value: str) -> str:
    """Return an address as admin.vm.firewall.Set wants it (qubesadmin/firewall.py DstHost)."""
    try:
        version = ipaddress.ip_network(value, strict=False).version
    except ValueError:
        return f"dsthost={value}"
    return f"dst{version}={value}"


def firewall_rules(stream: IO[bytes]) -> bytes:
    """Turn a firewall.xml into the payload of admin.vm.firewall.Set.

    Raises:
        ElementTree.ParseError: it is no XML.
    """
    lines = []
    for rule in ElementTree.parse(stream).findall("./rules/rule"):  # noqa: S314 -- authenticated
        parts = _named(rule, "./properties/property")
        words = [f"{name}={parts[name]}" for name in RULE_PARTS if parts.get(name)]
        for name in ("dsthost", "dst4", "dst6"):
            if value := parts.get(name):
                words.insert(1, _address(value))
        lines.append(" ".join(words) + "\n")
    return "".join(lines).encode("ascii")
