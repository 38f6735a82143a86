# SPDX-License-Identifier: GPL-3.0-or-later
"""The qubes that a backup should contain, read from its qubes.xml.

The form is qubes-core-admin's (qubes/vm/__init__.py BaseVM.__xml__, qubes/vm/qubesvm.py
QubesVM.__xml__); the features backup-content and backup-path are set by qubes/backup.py
Backup.backup_do, and read at restore by qubesadmin/backup/core3.py.
"""

import bz2
import io
import lzma
import re
import tarfile
import xml.parsers.expat
import zlib
from dataclasses import dataclass, field

from backup_format.limits import MAX_XML

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_STAMP = re.compile(r"[0-9]{1,12}")
_VOLUME = ["domains", "domain", "volume-config", "volume"]
_LZMA_MEMORY = 256 << 20


class XmlError(Exception):
    """A qubes.xml that is damaged or isn't one."""


class UnknownCompressionError(Exception):
    """A compression that Python's standard library can't undo."""


@dataclass
class Qube:
    """A qube that the backup describes.

    Attributes:
        name: its name, None when it isn't a qube's name.
        klass: `AppVM`, `TemplateVM`, ...
        path: where its members are: `vm7/`, or `dom0-home/user`; empty when it isn't included.
        volumes: files that it must have, as far as qubes.xml says.
        stamp: its backup_timestamp before this backup, None when it had none.
    """

    name: str | None = None
    klass: str = ""
    path: str = ""
    volumes: list[str] = field(default_factory=list)
    stamp: int | None = None


def unpack(data: bytes) -> bytes:
    """Get qubes.xml out of its inner archive, compressed or not.

    Raises:
        XmlError: when it isn't such an archive.
        UnknownCompressionError: when the compression is none of gzip, bzip2, xz.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_decompress(data)), mode="r:") as archive:
            member = archive.next()
            if member is None or member.name != "qubes.xml" or not member.isreg():
                raise XmlError("its first file isn't qubes.xml")
            file = archive.extractfile(member)
            text = file.read(MAX_XML + 1) if file else b""
            if len(text) > MAX_XML:
                raise XmlError("it is too large")
            if len(text) < member.size:
                raise XmlError("it is cut")
            return text
    except (tarfile.TarError, ValueError, OverflowError, OSError, EOFError, zlib.error) as error:
        raise XmlError("its inner archive is damaged") from error
    except lzma.LZMAError as error:
        raise XmlError("its compression is damaged") from error


def _decompress(data: bytes) -> bytes:
    """Undo the compression filters that Qubes always accepts (restore.py: gzip, bzip2, xz)."""
    if not is_compressed(data):
        return data
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(data, MAX_XML + 1)
    if data.startswith(b"BZh"):
        return bz2.BZ2Decompressor().decompress(data, MAX_XML + 1)
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, _LZMA_MEMORY).decompress(data, MAX_XML + 1)
    raise UnknownCompressionError


def is_compressed(data: bytes) -> bool:
    """Return whether qubes.xml's inner archive is compressed, and so all inner archives."""
    return data[257:262] != b"ustar"


def included(text: bytes) -> list[Qube]:
    """List the qubes that the backup includes, as described lists all."""
    return [qube for qube in described(text) if qube.path]


def described(text: bytes) -> list[Qube]:
    """List all described qubes; those that the backup includes have a path.

    Args:
        text: qubes.xml, at most MAX_XML bytes.

    Raises:
        XmlError: when it isn't well-formed, or defines entities (Qubes never does).
    """
    reader = _Reader()
    parser = xml.parsers.expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(text, True)
    except xml.parsers.expat.ExpatError as error:
        raise XmlError(f"it isn't well-formed (line {error.lineno})") from None
    if not reader.is_qubes_xml:
        raise XmlError("it has no list of domains")
    return reader.qubes


class _Reader:
    """Handlers for expat, with the path of open elements and the current domain."""

    def __init__(self) -> None:
        self.qubes: list[Qube] = []
        self.is_qubes_xml = False
        self._open: list[str] = []
        self._key = ""
        self._value: list[str] = []
        self._features: dict[str, str] = {}

    def doctype(self, *_: object) -> None:
        raise XmlError("it has a document type")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._open.append(tag)
        self._key, self._value = attributes.get("name", ""), []
        where = self._open[1:]
        if where == ["domains"]:
            self.is_qubes_xml = True
        elif where == ["domains", "domain"]:
            klass = attributes.get("class", "")
            self.qubes.append(Qube("dom0" if klass == "AdminVM" else None, klass))
            self._features = {}
        elif where == _VOLUME and attributes.get("save_on_stop") == "True":
            self.qubes[-1].volumes.append(self._key + ".img")

    def text(self, data: str) -> None:
        self._value.append(data)

    def end(self, _tag: str) -> None:
        where, value = self._open[1:], "".join(self._value)
        if where == ["domains", "domain", "properties", "property"]:
            if self._key == "name" and _NAME.fullmatch(value):
                self.qubes[-1].name = value
            elif self._key == "backup_timestamp" and _STAMP.fullmatch(value):
                self.qubes[-1].stamp = int(value)
        elif where == ["domains", "domain", "features", "feature"]:
            self._features[self._key] = value
        elif where == ["domains", "domain"] and self._features.get("backup-content"):
            self.qubes[-1].path = self._features.get("backup-path", "")
        self._open.pop()
        self._value = []
