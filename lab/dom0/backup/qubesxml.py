# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the qubes.xml of a backup, in the form of qubesd's own file.

Stands in for qubes-core-admin qubes/app.py Qubes.__xml__, qubes/vm/__init__.py BaseVM.__xml__,
qubes/__init__.py PropertyHolder.xml_properties and the first part of qubes/backup.py
Backup.backup_do. It is read by qubes-core-admin-client qubesadmin/backup/core3.py. The lab has no
storage pools or devices to describe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from .inventory import Qube


@dataclass(frozen=True)
class Content:
    """What the backup holds of one qube.

    Attributes:
        path: its folder in the archive, such as `vm7/`.
        size: bytes on disk, uncompressed.
    """

    path: str
    size: int


def _properties(parent: ElementTree.Element, values: Mapping[str, str | None]) -> None:
    group = ElementTree.SubElement(parent, "properties")
    for name, value in values.items():
        ElementTree.SubElement(group, "property", name=name).text = value


def _features(qube: Qube, content: Content | None) -> dict[str, str]:
    """Return the features to store; an empty value means present, but false."""
    features = {**qube.features, "backup-content": ""}
    if content is None:
        return features
    features.update(
        {"backup-content": "1", "backup-path": content.path, "backup-size": str(content.size)}
    )
    return {
        name: value
        for name, value in features.items()
        if not name.startswith("preload-dispvm") or name == "preload-dispvm-max"
    }


def _domain(parent: ElementTree.Element, qube: Qube, content: Content | None) -> None:
    attributes = {"id": f"domain-{qube.qid}", "class": qube.klass}
    domain = ElementTree.SubElement(parent, "domain", attributes)
    _properties(domain, qube.properties)
    group = ElementTree.SubElement(domain, "features")
    for name, value in _features(qube, content).items():
        ElementTree.SubElement(group, "feature", name=name).text = value
    group = ElementTree.SubElement(domain, "tags")
    for tag in qube.tags:
        ElementTree.SubElement(group, "tag", name=tag)


def write_qubes_xml(
    target: Path,
    qubes: Sequence[Qube],
    settings: Mapping[str, str | None],
    labels: Sequence[tuple[int, str, str]],
    contents: Mapping[int, Content],
) -> None:
    """Write the file; it describes all qubes, also those that aren't in the backup.

    Args:
        target: the file.
        qubes: all qubes.
        settings: the system's properties.
        labels: (index, colour, name) of each.
        contents: by qid, what is in the backup.
    """
    top = ElementTree.Element("qubes")
    group = ElementTree.SubElement(top, "labels")
    for index, color, name in labels:
        ElementTree.SubElement(group, "label", id=f"label-{index}", color=color).text = name
    ElementTree.SubElement(top, "pools")
    _properties(top, settings)
    domains = ElementTree.SubElement(top, "domains")
    for qube in qubes:
        _domain(domains, qube, contents.get(qube.qid))
    ElementTree.indent(top)
    ElementTree.ElementTree(top).write(target, encoding="UTF-8", xml_declaration=True)
