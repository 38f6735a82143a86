# SPDX-License-Identifier: GPL-3.0-or-later
"""The check that each file of a backup reaches its end.

In a backup that isn't compressed each file is a tar archive, cut into chunks. A tar archive ends
in two blocks of zeros (POSIX.1 pax, "ustar Interchange Format"; GNU tar and qubes-core-admin
qubes/tarwriter.py write them), whatever is in it. A file whose tar died in dom0 ends without them;
Qubes sends it anyway (qubes/backup.py _wrap_and_send_files), and the backup fails.
"""

from backup_format.members import HEADER, HMAC

_END = 1024  # bytes


class Ends:
    """A count of the zeros at the end of each file, from the members in their order."""

    def __init__(self) -> None:
        self._zeros: dict[str, int | None] = {}

    def add(self, name: str, length: int, zeros: int | None) -> None:
        """Take the next member.

        Args:
            name: the member's.
            length: bytes of its payload.
            zeros: how many of its last 1024 bytes are zero, up to the end; None when not known.
        """
        if name in (HEADER, HMAC):
            return
        volume = name.removesuffix(".enc").rpartition(".")[0]
        before = self._zeros.get(volume, 0)
        if zeros is not None and zeros == length < _END:  # a last chunk may be short, or empty
            zeros = None if before is None else min(_END, before + zeros)
        self._zeros[volume] = zeros

    def missing(self) -> list[str]:
        """Name the files that don't reach their end."""
        return [name for name, zeros in self._zeros.items() if zeros is not None and zeros < _END]
