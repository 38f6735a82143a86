# SPDX-License-Identifier: GPL-3.0-or-later
"""Describe a qube as a backup must bring it back, asked over the Admin API.

Of upstream's qubesd or the lab's. Standard library only: it runs inside and outside of the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

Api = Callable[[str, str, str], bytes]  # destination, method, argument: the whole answer
Image = Callable[[str, str], Path]  # qube, volume: the image
Description = dict[str, object]

PROPERTIES = (
    *("label", "template", "netvm", "memory", "maxmem", "vcpus", "autostart", "debug"),
    *(
        "provides_network",
        "default_user",
        "include_in_backups",
        "template_for_dispvms",
        "virt_mode",
    ),
)
# Set by upstream's extensions (qubes-core-admin qubes/ext/), which the lab doesn't have, or when a
# qube is created through the API.
AUTOMATIC = frozenset({"servicevm", "guivm-dom0", "audiovm-dom0", "created-by-dom0"})


def content(api: Api, dest: str, method: str, argument: str = "") -> str:
    """Return an answer's content.

    Raises:
        RuntimeError: the answer is an error.
    """
    answer = api(dest, method, argument)
    if not answer.startswith(b"0\0"):
        raise RuntimeError(f"{method}+{argument} {dest}: {answer!r}")
    return answer[2:].decode()


def describe(api: Api, image: Image, name: str) -> Description:
    """Return class, properties, features, tags, firewall, notes and the hashes of volumes."""
    rows = content(api, "dom0", "admin.vm.List").splitlines()
    found = next(row for row in rows if row.startswith(f"{name} "))
    properties = {
        key: value if default == "default=False" else None  # two systems' defaults may differ
        for key, default, _, value in (
            row.split(" ", 3) for row in content(api, name, "admin.vm.property.GetAll").splitlines()
        )
        if key in PROPERTIES
    }
    features = content(api, name, "admin.vm.feature.List").splitlines()
    rules = content(api, name, "admin.vm.firewall.Get").splitlines()
    volumes = {}
    for volume in content(api, name, "admin.vm.volume.List").splitlines():
        info = content(api, name, "admin.vm.volume.Info", volume).splitlines()
        if "save_on_stop=True" in info:
            with image(name, volume).open("rb") as stream:
                volumes[volume] = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "class": found.split(" ")[1],
        "properties": properties,
        "features": {
            key: content(api, name, "admin.vm.feature.Get", key)
            for key in features
            if key not in AUTOMATIC
        },
        "tags": sorted({*content(api, name, "admin.vm.tag.List").splitlines()} - AUTOMATIC),
        "firewall": [sorted(rule.partition("comment=")[0].split()) for rule in rules],
        "comments": [rule.partition("comment=")[2] for rule in rules],
        "notes": content(api, name, "admin.vm.notes.Get"),
        "volumes": volumes,
    }


def differences(before: object, after: object, where: str = "") -> list[str]:
    """Return what differs, one line each."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in sorted({*before, *after})
            for line in differences(before.get(key), after.get(key), f"{where}/{key}")
        ]
    return [] if before == after else [f"{where}: {before!r} became {after!r}"]
