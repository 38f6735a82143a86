# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a restic repository, written without restic.

Formats: restic's doc/design.rst ("Pack Format", "Indexing", "Snapshots"), and in its code
internal/crypto/crypto.go Key.Seal (sealed data), internal/repository/pack/pack.go Packer (packs),
internal/repository/index/index.go Index.Encode (indexes), internal/repository/repository.go
compressUnpacked (the byte 2 before compressed data). Its version 2 allows all to be uncompressed.
"""

import base64
import hashlib
import itertools
import json
import os
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from testing.store.weak_keys import BLOCK, Derived

_COMPRESS_FROM = 1 << 16  # bytes; what is smaller isn't worth a start of zstd
_KINDS = {("data", False): 0, ("tree", False): 1, ("data", True): 2, ("tree", True): 3}
_PACK_BYTES, _PACK_BLOBS = 16 << 20, 16  # restic's own size, and chunks of a megabyte
_INDEX_BLOBS = 50_000  # internal/repository/index/index.go indexMaxBlobs
_COMPRESSED = b"\2"
_SHORT = 1024  # bytes


@dataclass(frozen=True)
class _Blob:
    """A blob in a pack."""

    sha256: str
    kind: str
    length: int  # sealed
    plain: int | None  # its length, if it is compressed


@dataclass
class _Pack:
    """A pack in the making."""

    data: list[bytes] = field(default_factory=list)
    blobs: list[_Blob] = field(default_factory=list)
    length: int = 0


class _Sealer:
    """Encrypts: nonce, ciphertext, tag. It takes a tenth of weak_keys' time for a short text.

    Args:
        key: the repository's.
    """

    def __init__(self, key: Derived) -> None:
        self._key = key
        self._nonces = itertools.count(int.from_bytes(os.urandom(8)) << 64, 1 << 32)
        # of single blocks, so the mode doesn't matter
        self._text, self._pad = (
            Cipher(algorithms.AES(part), modes.ECB()).encryptor()  # noqa: S305
            for part in (key.encryption, key.k)
        )

    def seal(self, data: bytes) -> bytes:
        """Encrypt data; a nonce is the number of the first block, and no number comes twice."""
        first = next(self._nonces)
        nonce = first.to_bytes(BLOCK)
        if len(data) > _SHORT:
            body = self._key.crypt(nonce, data)
        else:
            numbers = range(first, first + -(-len(data) // BLOCK))
            stream = self._text.update(b"".join(number.to_bytes(BLOCK) for number in numbers))
            mixed = int.from_bytes(data) ^ int.from_bytes(stream[: len(data)])
            body = mixed.to_bytes(len(data))
        return nonce + body + Poly1305.generate_tag(self._key.r + self._pad.update(nonce), body)


class ResticFiles:
    """A writer of files into a restic repository that exists.

    Args:
        folder: the repository.
        password: its password.
    """

    def __init__(self, folder: Path, password: str) -> None:
        self._folder = folder
        self._sealer = _Sealer(_master_key(folder, password))
        self._packs = {"data": _Pack(), "tree": _Pack()}
        self._index: list[dict[str, Any]] = []
        self._indexed = 0

    def blob(self, kind: str, data: bytes) -> str:
        """Store a blob, which must be new; give its id."""
        name = hashlib.sha256(data).hexdigest()
        packed = _compress(data) if len(data) >= _COMPRESS_FROM else data
        sealed = self._sealer.seal(packed)
        pack = self._packs[kind]
        plain = None if packed is data else len(data)
        pack.blobs.append(_Blob(name, kind, len(sealed), plain))
        pack.data.append(sealed)
        pack.length += len(sealed)
        if pack.length >= _PACK_BYTES or len(pack.blobs) == _PACK_BLOBS:
            self._end_pack(kind)
        return name

    def snapshot(self, content: dict[str, Any]) -> None:
        """Store a snapshot."""
        self._file("snapshots", self._sealer.seal(json.dumps(content).encode()))

    def finish(self) -> None:
        """Write what is left; from then on all blobs are there."""
        for kind in self._packs:
            self._end_pack(kind)
        self._end_index()

    def _end_pack(self, kind: str) -> None:
        pack, self._packs[kind] = self._packs[kind], _Pack()
        if not pack.blobs:
            return
        header, rows, offset = [], [], 0
        for blob in pack.blobs:
            row = {"id": blob.sha256, "type": kind, "offset": offset, "length": blob.length}
            numbers = [blob.length]
            if blob.plain is not None:
                row["uncompressed_length"] = blob.plain
                numbers.append(blob.plain)
            code = _KINDS[kind, blob.plain is not None]
            header.append(struct.pack(f"<B{len(numbers)}I", code, *numbers))
            header.append(bytes.fromhex(blob.sha256))
            rows.append(row)
            offset += blob.length
        end = self._sealer.seal(b"".join(header))
        name = self._file("data", b"".join([*pack.data, end, struct.pack("<I", len(end))]))
        self._index.append({"id": name, "blobs": rows})
        self._indexed += len(rows)
        if self._indexed >= _INDEX_BLOBS:
            self._end_index()

    def _end_index(self) -> None:
        if self._index:
            text = json.dumps({"packs": self._index}, separators=(",", ":")).encode()
            self._file("index", self._sealer.seal(_COMPRESSED + _compress(text)))
        self._index, self._indexed = [], 0

    def _file(self, kind: str, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        folder = self._folder / kind
        (folder / name[:2] / name if kind == "data" else folder / name).write_bytes(data)
        return name


def _master_key(folder: Path, password: str) -> Derived:
    """Open the first key's file (internal/repository/key.go Key, internal/crypto Key's JSON)."""
    key = json.loads(next((folder / "keys").iterdir()).read_text())
    data = base64.b64decode(key["data"])
    master = json.loads(Derived.of(password, key).crypt(data[:BLOCK], data[BLOCK:-BLOCK]))
    parts = (master["encrypt"], master["mac"]["k"], master["mac"]["r"])
    return Derived(*map(base64.b64decode, parts))


def _compress(data: bytes) -> bytes:
    command = ["zstd", "-q", "-1", "-c"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout
