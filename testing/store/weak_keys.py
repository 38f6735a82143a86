# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a restic repository's keys cheap to derive: tests start restic thousands of times.

restic chooses parameters that take half a second of a processor at each start. The format of its
keys: restic's doc/design.rst "Keys, Encryption and MAC", internal/crypto/crypto.go; that is AES in
counter mode, and Poly1305-AES.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

CHEAP = {"N": 2, "r": 1, "p": 1}
BLOCK = 16  # bytes of AES's block, of the nonce, of the tag


class Derived(NamedTuple):
    """What a password gives: for AES, and the two parts of Poly1305-AES's key."""

    encryption: bytes
    k: bytes
    r: bytes

    @classmethod
    def of(cls, password: str, key: dict[str, Any]) -> "Derived":
        """Derive them, as a key's file says."""
        numbers = {"n": key["N"], "r": key["r"], "p": key["p"]}
        salt = base64.b64decode(key["salt"])
        data = hashlib.scrypt(password.encode(), salt=salt, **numbers, dklen=64, maxmem=1 << 30)
        return cls(data[:32], data[32:48], data[48:])

    def crypt(self, nonce: bytes, data: bytes) -> bytes:
        """Encrypt or decrypt."""
        return Cipher(algorithms.AES(self.encryption), modes.CTR(nonce)).encryptor().update(data)

    def authenticator(self, nonce: bytes) -> Poly1305:
        """Begin a tag."""
        # one block, so the mode doesn't matter
        pad = Cipher(algorithms.AES(self.k), modes.CBC(bytes(BLOCK))).encryptor().update(nonce)
        return Poly1305(self.r + pad)


def weaken(repository: Path, password: str) -> None:
    """Write a repository's keys again, in cheap parameters.

    Args:
        repository: its folder.
        password: of all its keys.

    Raises:
        cryptography.exceptions.InvalidSignature: a key has another password.
    """
    for path in list((repository / "keys").iterdir()):
        key = json.loads(path.read_text())
        data = base64.b64decode(key["data"])
        nonce, body, tag = data[:BLOCK], data[BLOCK:-BLOCK], data[-BLOCK:]
        old, new = Derived.of(password, key), Derived.of(password, key | CHEAP)
        check = old.authenticator(nonce)
        check.update(body)
        check.verify(tag)
        body = new.crypt(nonce, old.crypt(nonce, body))
        made = new.authenticator(nonce)
        made.update(body)
        data = nonce + body + made.finalize()
        text = json.dumps(key | CHEAP | {"data": base64.b64encode(data).decode()}).encode()
        path.with_name(hashlib.sha256(text).hexdigest()).write_bytes(text)
        path.unlink()
