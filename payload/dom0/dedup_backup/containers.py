# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers, read by the shim's own code."""

import contextlib
import os

from shimctl_lib.layout import ShimctlError
from shimctl_lib.look import load_shim

from dedup_backup.errors import BackupError, clean

AUTHENTICATED, ENCRYPTED, UNKNOWN, NONE = "authenticated", "scrypt", "unknown", "none"
_HEAD, _TAIL = 96, 32  # bytes of any container before and behind its payload


class DamagedError(Exception):
    """The shim refuses a container."""


class Containers:
    """Checks containers under one passphrase."""

    def __init__(self, spool: int, passphrase: bytes) -> None:
        """Load the shim; each container is read from the file `spool`."""
        try:
            self._shim = load_shim()
        except ShimctlError as error:
            raise BackupError(str(error)) from error
        self._spool = spool
        self._passphrase = passphrase

    def kind(self) -> str:
        """Tell what is in the spool, by its first bytes."""
        start = os.pread(self._spool, 7, 0)
        if not start.startswith(b"scrypt") or len(start) < 7:
            return NONE
        if start[6] in self._shim.CONTAINERS:
            return AUTHENTICATED
        return UNKNOWN if start[6] else ENCRYPTED

    def trailer(self) -> str:
        """Give the trailer of the container in the spool, in hex."""
        return os.pread(self._spool, 32, max(0, os.fstat(self._spool).st_size - 32)).hex()

    def zeros(self) -> int:
        """Tell how many of the payload's last 1024 bytes are zero, up to its end."""
        length = max(0, os.fstat(self._spool).st_size - _HEAD - _TAIL)
        end = os.pread(self._spool, min(length, 1024), _HEAD + max(0, length - 1024))
        return len(end) - len(end.rstrip(b"\0"))

    def check(self, prefix: str, *, limit: int = 0) -> bytes:
        """Check the container in the spool, every byte of it.

        Args:
            prefix: what Qubes puts before the passphrase for this member (see the shim's LINE).
            limit: bytes of the payload to return.

        Raises:
            DamagedError: it was altered, or it is not of this place and passphrase.
        """
        line = prefix.encode() + self._passphrase
        decode = self._shim.CONTAINERS[os.pread(self._spool, 7, 0)[6]][1]
        out = os.memfd_create("payload") if limit else os.open(os.devnull, os.O_WRONLY)
        os.lseek(self._spool, 0, os.SEEK_SET)
        try:
            decode(self._spool, out, line)
            return os.pread(out, limit, 0) if limit else b""
        except self._shim.ScryptError as error:
            raise DamagedError(clean(str(error))) from None
        finally:
            with contextlib.suppress(OSError):
                os.close(out)
