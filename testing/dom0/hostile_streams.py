# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile store could give back instead of a backup.

Each case is a function of the backup and of another backup of the same qubes, which returns a
stream, and the name of the member at which it must be noticed.
"""

import hashlib
from collections.abc import Callable

from testing.dom0.backup import Backup, Part, join

Case = Callable[[Backup, Backup], bytes]

FIRST, MIDDLE, LAST = (
    "vm7/private.img.000.enc",
    "vm7/private.img.001.enc",
    "vm7/private.img.002.enc",
)
LONELY = "vm7/firewall.xml.000.enc"
XML, HMAC, HEADER = "qubes.xml.000.enc", "backup-header.hmac", "backup-header"
# regions of a container (docs/design/formats.md): name, offset; negative ones count from the end
REGIONS = {
    "magic": 3,
    "version": 6,
    "log-n": 7,
    "r": 11,
    "p": 15,
    "salt": 16,
    "checksum": 48,
    "header-hmac": 64,
    "payload": 96,
    "payload-end": -33,
    "trailer": -32,
    "trailer-end": -1,
}


def replace(parts: list[Part], name: str, data: bytes) -> list[Part]:
    """Give a member another content."""
    assert name in dict(parts)
    return [(n, data if n == name else d) for n, d in parts]


def flip(data: bytes, offset: int) -> bytes:
    """Alter one byte."""
    changed = bytearray(data)
    changed[offset] ^= 1
    return bytes(changed)


def altered(name: str, offset: int) -> Case:
    """A member with one byte altered."""
    return lambda one, _: join(replace(one.parts, name, flip(one.member(name), offset)))


def dropped(name: str) -> Case:
    """A member is left out."""
    return lambda one, _: join([part for part in one.parts if part[0] != name])


def doubled(name: str) -> Case:
    """A member comes twice."""
    return lambda one, _: join([p for part in one.parts for p in [part] * (1 + (part[0] == name))])


def swapped(name: str, with_name: str) -> Case:
    """Two members have each other's content."""

    def make(one: Backup, _: Backup) -> bytes:
        parts = replace(one.parts, name, one.member(with_name))
        return join(replace(parts, with_name, one.member(name)))

    return make


def moved(name: str, before: str) -> Case:
    """A member comes at another place, with its own name."""

    def make(one: Backup, _: Backup) -> bytes:
        parts = [part for part in one.parts if part[0] != name]
        where = [part[0] for part in parts].index(before)
        return join([*parts[:where], (name, one.member(name)), *parts[where:]])

    return make


def older(name: str) -> Case:
    """A member is that of another backup of the same qubes."""
    return lambda one, other: join(replace(one.parts, name, other.member(name)))


def bare(name: str) -> Case:
    """A container is replaced by its payload."""
    return lambda one, _: join(replace(one.parts, name, one.member(name)[96:-32]))


def encrypted(name: str) -> Case:
    """A container is replaced by what looks really encrypted, with nothing to check."""
    return lambda one, _: join(replace(one.parts, name, restart(one.member(name), {6: 0})))


def costly(name: str, log_n: int) -> Case:
    """A container asks for more work and memory; its checksum is right."""
    return lambda one, _: join(replace(one.parts, name, restart(one.member(name), {7: log_n})))


def restart(container: bytes, changes: dict[int, int]) -> bytes:
    """Change bytes of a container's beginning, and give it the right checksum."""
    start = bytearray(container[:48])
    for offset, value in changes.items():
        start[offset] = value
    return bytes(start) + hashlib.sha256(start).digest()[:16] + container[64:]


# changes what the members are, not which they are: only the whole archive's check can tell
IN_MEMBERS: dict[str, tuple[Case, str]] = {
    **{f"{region} altered": (altered(FIRST, offset), FIRST) for region, offset in REGIONS.items()},
    "header altered": (altered(HEADER, 9), HEADER),
    "header's id altered": (altered(HEADER, -2), HEADER),
    "hmac altered": (altered(HMAC, 100), HMAC),
    "qubes.xml altered": (altered(XML, 700), XML),
    "middle chunk altered": (altered(MIDDLE, 50_000), MIDDLE),
    "last chunk altered": (altered(LAST, 300), LAST),
    "firewall altered": (altered(LONELY, 600), LONELY),
    "dom0's home altered": (altered("dom0-home/user.001.enc", 700), "dom0-home/user.001.enc"),
    "swapped in a qube": (swapped(FIRST, MIDDLE), FIRST),
    "swapped between qubes": (swapped(FIRST, "vm8/private.img.000.enc"), FIRST),
    "swapped volumes": (swapped("vm5/private.img.000.enc", LONELY), "vm5/private.img.000.enc"),
    "of another backup": (older(MIDDLE), MIDDLE),
    "qubes.xml of another backup": (older(XML), XML),
    "hmac of another backup": (older(HMAC), HEADER),
    "other key derivation, allowed": (costly(MIDDLE, 15), MIDDLE),
    "other key derivation, huge": (costly(MIDDLE, 63), MIDDLE),
    "other key derivation, tiny": (costly(MIDDLE, 1), MIDDLE),
}
# changes which members there are, or their sizes and kinds: plain verify sees it, too
IN_LIST: dict[str, tuple[Case, str]] = {
    "first chunk dropped": (dropped(FIRST), FIRST),
    "middle chunk dropped": (dropped(MIDDLE), MIDDLE),
    "last chunk dropped": (dropped(LAST), LAST),
    "firewall dropped": (dropped(LONELY), LONELY),
    "only volume dropped": (dropped("vm5/private.img.000.enc"), "vm5/private.img.000.enc"),
    "header dropped": (dropped(HEADER), HEADER),
    "hmac dropped": (dropped(HMAC), HMAC),
    "qubes.xml dropped": (dropped(XML), XML),
    "chunk doubled": (doubled(MIDDLE), MIDDLE),
    "header doubled": (doubled(HEADER), HEADER),
    "chunk moved": (moved(MIDDLE, FIRST), FIRST),
    "qube moved": (moved(LONELY, "vm5/private.img.000.enc"), LONELY),
    "bare payload": (bare(MIDDLE), MIDDLE),
    "bare hmac": (bare(HMAC), HMAC),
    "bare qubes.xml": (bare(XML), XML),
    "looks encrypted": (encrypted(MIDDLE), MIDDLE),
}
# what the ledger alone knows, or its SHA-256
LEDGER_ONLY = {"firewall dropped", "qube moved"}
