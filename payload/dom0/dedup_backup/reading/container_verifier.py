# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of containers, by the shim's own code; scrypt's are verified, never decrypted."""

import contextlib
import hashlib
import hmac
import os

from backup_format import container
from dom0_common.text import clean
from shimctl_lib.errors import ShimctlError
from shimctl_lib.inspection import load_shim

from dedup_backup.errors import BackupError

_HEAD, _TAIL = container.HEAD_BYTES, container.TRAILER_BYTES
_BLOCK = 1 << 20
# scrypt chooses them for 5 s and an eighth of the memory (scrypt 1.3 lib/scryptenc pickparams), in
# dom0 some 2^19; what asks for more is refused before it costs memory or time
_MAX_LOG_N, _MAX_P, _MAX_WORK = 20, 64, 1 << 23  # the last: N times p
_MAX_LINE = 2047  # bytes of a passphrase that scrypt takes (lib/util/readpass.c MAXPASSLEN)


class DamagedError(Exception):
    """A container that its passphrase line doesn't make."""


class ContainerVerifier:
    """A verifier of containers under one passphrase."""

    def __init__(self, spool: int, passphrase: bytes) -> None:
        """Load the shim; each container is read from the file `spool`."""
        try:
            self._shim = load_shim()
        except ShimctlError as error:
            raise BackupError(str(error)) from error
        self._spool = spool
        self._passphrase = passphrase

    def kind(self) -> str:
        """Return the kind of container in the spool, by its first bytes."""
        return container.kind_of(os.pread(self._spool, _HEAD, 0))

    def trailer(self) -> str:
        """Return the trailer of the container in the spool, in hex."""
        return os.pread(self._spool, _TAIL, max(0, self._size() - _TAIL)).hex()

    def zeros(self) -> int:
        """Return how many of the payload's last 1024 bytes are zero, up to its end."""
        length = max(0, os.fstat(self._spool).st_size - _HEAD - _TAIL)
        end = os.pread(self._spool, min(length, 1024), _HEAD + max(0, length - 1024))
        return len(end) - len(end.rstrip(b"\0"))

    def check(self, prefix: str, *, limit: int = 0) -> bytes:
        """Check the authenticated container in the spool, every byte of it.

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

    def check_encrypted(self, prefix: str) -> None:
        """Check the really encrypted container in the spool, every byte of it.

        Its HMACs cover what is encrypted, so it need not be decrypted: scrypt's FORMAT file, and
        lib/scryptenc scryptdec_file.

        Args:
            prefix: as for check.

        Raises:
            DamagedError: it was altered, or it is not of this place and passphrase.
            BackupError: dom0 has no memory for it.
        """
        head, size = os.pread(self._spool, _HEAD, 0), self._size()
        if not container.has_sound_head(head, size):
            raise DamagedError("it isn't a scrypt container")
        log_n = head[7]
        r, p = (int.from_bytes(head[at : at + 4], "big") for at in (8, 12))
        if (
            r != self._shim.R
            or not (0 < log_n <= _MAX_LOG_N and 0 < p <= _MAX_P)
            or p << log_n > _MAX_WORK
        ):
            raise DamagedError("it asks for more memory or work than scrypt's own choice")
        line = (prefix.encode() + self._passphrase)[:_MAX_LINE]
        memory = 128 * r * ((1 << log_n) + p + 8)
        try:
            key = hashlib.scrypt(
                line, salt=head[16:48], n=1 << log_n, r=r, p=p, maxmem=memory, dklen=64
            )[32:]
        except (ValueError, MemoryError):
            raise BackupError(
                f"a really encrypted file wants {memory >> 20} MiB of memory, which dom0 lacks:"
                " close programs, or give dom0 more"
            ) from None
        if not hmac.compare_digest(head[64:], hmac.digest(key, head[:64], "sha256")):
            raise DamagedError("passphrase is incorrect")
        signed = hmac.new(key, digestmod="sha256")
        for offset in range(0, size - _TAIL, _BLOCK):
            signed.update(os.pread(self._spool, min(_BLOCK, size - _TAIL - offset), offset))
        if not hmac.compare_digest(signed.hexdigest(), self.trailer()):
            raise DamagedError("its bytes are not those that were written")

    def _size(self) -> int:
        return os.fstat(self._spool).st_size
