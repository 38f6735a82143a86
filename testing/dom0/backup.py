# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup whose members the real shim made, as Qubes calls it; the ledger is its own, too."""

import functools
from dataclasses import dataclass

from testing.shim.driver import SECRET, Root
from testing.store import archives
from testing.store.archives import Qube

CHUNK = 80_000  # bytes; Qubes' own chunks are 100 MiB
Part = tuple[str, bytes]


@dataclass
class Backup:
    """A backup's members, in order."""

    backup_id: str
    parts: list[Part]

    @property
    def names(self) -> list[str]:
        """The members' names."""
        return [name for name, _ in self.parts]

    def member(self, name: str) -> bytes:
        """Return a member's content."""
        return dict(self.parts)[name]

    def stream(self) -> bytes:
        """Return the whole archive."""
        return join(self.parts)


def qubes() -> list[Qube]:
    """What is in the backup: a template, two qubes, dom0's home."""
    return [
        Qube("debian", 5, "TemplateVM", {"root": archives.image(90_000, 5), "private": b"p"}),
        Qube(
            "work",
            7,
            volumes={"private": archives.image(400_000, 7)},
            files={"firewall.xml": b"<x/>"},
        ),
        Qube("personal", 8, volumes={"private": archives.image(100_000, 8)}),
        Qube("dom0", 0),
    ]


def make_backup(  # noqa: PLR0913 - all but the first two are rare
    root: Root,
    backup_id: str,
    xml: bytes | None = None,
    *,
    chunk: int = CHUNK,
    content: list[Qube] | None = None,
    cut: str = "",
) -> Backup:
    """Encode all members, with the shim in root, as a backup does.

    Args:
        root: dom0.
        backup_id: the backup's.
        xml: stands for the archive of qubes.xml, which may be compressed.
        chunk: bytes of a chunk.
        content: what is in it; qubes() if None.
        cut: the file at which the backup fails, its tar dead in the middle.
    """
    header = archives.header(backup_id=backup_id, compressed=xml is not None)
    (root.work / "backup-header").write_bytes(header)
    source = root.work / "backup-header"
    call = root.start_enc(b"backup-header!" + SECRET, "backup-header.hmac", source)
    assert call.finish().status == 0
    parts = [("backup-header", header), ("backup-header.hmac", _take(root, "backup-header.hmac"))]
    inner = dict(archives.inner_archives(qubes() if content is None else content))
    inner |= {"qubes.xml": xml} if xml else {}
    for name, whole in inner.items():
        data = whole[:600] if name == cut else whole  # a tar's header, and some of what follows
        for number, offset in enumerate(range(0, len(data) + 1, chunk)):
            member = f"{name}.{number:03}.enc"
            (root.work / member).parent.mkdir(exist_ok=True)
            line = f"{backup_id}!{name}.{number:03}!".encode() + SECRET
            assert root.enc(data[offset : offset + chunk], line, member).status == 0
            parts.append((member, _take(root, member)))
        if name == cut:
            break
    return Backup(backup_id, parts)


def _take(root: Root, member: str) -> bytes:
    data = (root.work / member).read_bytes()
    (root.work / member).unlink()
    return data


def join(parts: list[Part]) -> bytes:
    """Return the stream of these members."""
    return b"".join(outer(name, data) for name, data in parts)


@functools.cache
def outer(name: str, data: bytes) -> bytes:
    """One member of the stream, made by GNU tar."""
    return archives.outer(name, data)
