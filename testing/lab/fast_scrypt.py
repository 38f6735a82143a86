# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that is called, and behaves on its terminal, as scrypt(1), but doesn't take seconds.

Its files are "fast" + HMAC-SHA256 of the data under the passphrase line + the data in clear, so
that tests can look into them; a wrong line or a changed byte is refused with scrypt's words.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from pathlib import Path

MAGIC = b"fast"


def ask(tty: int, prompt: bytes) -> bytes:
    os.write(2, prompt)
    line = b""
    while not line.endswith(b"\n"):
        got = os.read(tty, 4096)
        if not got:
            sys.exit("scrypt: EOF reading password")
        line += got
    return line[:-1]


def tag(line: bytes, data: bytes) -> bytes:
    return hmac.digest(hashlib.sha256(line).digest(), data, "sha256")


def main() -> int:
    action, *rest = sys.argv[1:]
    source, target = (word for word in rest if word != "-f")
    tty = os.open("/dev/tty", os.O_RDWR)
    line = ask(tty, b"Please enter passphrase: ")
    if action == "enc" and ask(tty, b"Please confirm passphrase: ") != line:
        os.write(2, b"scrypt: Passphrases mismatch, please try again\n")
        return 1
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    if action == "enc":
        Path(target).write_bytes(MAGIC + tag(line, data) + data)
        return 0
    if data[:4] != MAGIC or not hmac.compare_digest(data[4:36], tag(line, data[36:])):
        os.write(2, b"scrypt: Passphrase is incorrect\n")
        return 1
    Path(target).write_bytes(data[36:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
