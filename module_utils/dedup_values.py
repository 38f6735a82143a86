# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as people write them in YAML, and as qubesd keeps them."""

from __future__ import annotations

import re
from typing import TypeAlias

from .dedup_common import ProvisionError

Plain: TypeAlias = bool | int | str | None

# qubes-core-admin qubes/vm/__init__.py validate_name
QUBE_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]{0,30}\Z")
RESERVED_NAMES = ("none", "default", "Domain-0")
# qubes-core-admin qubes/vm/__init__.py Tags.validate_tag
TAG_NAME = re.compile(r"[a-zA-Z0-9_-]+\Z")
# qubes-core-admin qubes/api/admin.py vm_feature_set
FEATURE_NAME = re.compile(r"[a-zA-Z0-9_.-]+\Z")
FEATURE_VALUE = re.compile(r"[\x20-\x7e]*\Z")
SIZE = re.compile(r"(\d+)\s*([KMGT]iB)?\Z")
UNITS = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
# The value that stands for "the default, whatever it is"; upstream's qubesos.core.qube has it too.
RESET = "*default*"
TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")


def check_name(name: str) -> str:
    """Return a qube's name if it can be one.

    Raises:
        ProvisionError: it can't.
    """
    if not QUBE_NAME.match(name) or name in RESERVED_NAMES or name.endswith("-dm"):
        raise ProvisionError(
            f"{name!r} can't be a qube's name: use a letter first, then letters, digits, '_', '.' "
            "and '-', at most 31 characters"
        )
    return name


def check_tag(tag: str) -> str:
    """Return a tag if it can be one.

    Raises:
        ProvisionError: it can't.
    """
    if not TAG_NAME.match(tag):
        raise ProvisionError(f"{tag!r} can't be a tag: use letters, digits, '_' and '-'")
    return tag


def parse_size(size: object) -> int:
    """Return a size such as `20GiB`, or a number of bytes, in bytes.

    Raises:
        ProvisionError: it isn't one. Units of 1000 are refused: they are too easily mistaken.
    """
    match = None if isinstance(size, bool) else SIZE.match(str(size).strip())
    if not match:
        raise ProvisionError(
            f"{size!r} can't be a volume's size: write bytes, or a whole number with KiB, MiB, GiB "
            "or TiB"
        )
    return int(match[1]) * UNITS[match[2]]


def show_size(size: int) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("TiB", "GiB", "MiB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.1f} {unit}"
    return f"{size / UNITS['KiB']:.0f} KiB"


def parse_features(
    features: dict[str, object], services: dict[str, object]
) -> dict[str, str | None]:
    """Return features as qubesd stores them, services among them.

    A feature is a string; true is `1` and false is empty; None stands for "absent". A service NAME
    is the feature `service.NAME`. Source: qubes-core-admin-client qubesadmin/features.py.

    Raises:
        ProvisionError: a name or value that qubesd would refuse.
    """
    merged = {**features, **{f"service.{name}": value for name, value in services.items()}}
    for name in merged:
        if not FEATURE_NAME.match(str(name)):
            raise ProvisionError(
                f"{name!r} can't be a feature's or service's name: use letters, digits, '_', '.' "
                "and '-'"
            )
    return {str(name): _feature(str(name), value) for name, value in merged.items()}


def _feature(name: str, value: object) -> str | None:
    if isinstance(value, bool):
        return "1" if value else ""
    if value is None:
        return None
    if not FEATURE_VALUE.match(str(value)):
        raise ProvisionError(f"the value of feature {name} must be one line of printable ASCII")
    return str(value)


def plain(value: object) -> Plain:
    """Return a property's value as data: qubes and labels by their names."""
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def same(current: Plain, wanted: object) -> bool:
    """Return whether a property's value is the wanted one, however YAML spelled it."""
    text = "" if wanted is None else str(wanted)
    if isinstance(current, bool):
        return text.lower() in (TRUE if current else FALSE)
    return text == ("" if current is None else str(current))
