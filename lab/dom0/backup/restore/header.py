# SPDX-License-Identifier: GPL-3.0-or-later
"""The file `backup-header`.

Stands in for BackupHeader of qubes-core-admin-client qubesadmin/backup/restore.py.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from ..system import problem

KNOWN_FILTERS = ("gzip", "bzip2", "xz")
OPTIONAL_FILTERS = ("lzma", "pbzip2", "pigz", "zstd", "zstdmt")
TRUE = ("1", "true", "yes")
KEYS = (
    *("version", "encrypted", "compressed", "compression-filter"),
    *("crypto-algorithm", "hmac-algorithm", "backup-id"),
)
_WORD = re.compile(r"[A-Za-z0-9-]*\Z")


@dataclass(frozen=True)
class BackupHeader:
    """What the header says.

    Attributes:
        compression_filter: the program, or None for a backup that isn't compressed.
        backup_id: part of each file's passphrase.
    """

    compression_filter: str | None
    backup_id: str


def _lines(data: bytes) -> dict[str, str]:
    """Split the header, which nobody has verified yet."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise problem("Non-ASCII characters in backup header") from error
    values: dict[str, str] = {}
    for line in text.splitlines():
        if line.count("=") != 1:
            raise problem("Invalid backup header")
        key, value = line.strip().split("=")
        if not _WORD.match(key):
            raise problem("Invalid backup header (key)")
        if key not in KEYS:
            continue
        if key in values:
            raise problem(f"Duplicated header line: {key}")
        if not _WORD.match(value):
            raise problem("Invalid backup header (value)")
        values[key] = value
    return values


def _check_filter(name: str) -> None:
    if name in KNOWN_FILTERS or (name in OPTIONAL_FILTERS and shutil.which(name)):
        return
    if name in OPTIONAL_FILTERS:
        raise problem(
            f"Optional '{name}' compression filter is not installed. Install it and retry."
        )
    raise problem(
        f"Unusual compression filter '{name}' found. Use --compression-filter={name} to use it "
        "anyway."
    )


def parse_header(data: bytes, forced_filter: str | None = None) -> BackupHeader:
    """Read a header.

    Args:
        data: the file's content.
        forced_filter: a compression program to use instead of the header's.

    Raises:
        QubesException: it isn't valid, or not of version 4.
    """
    values = _lines(data)
    if forced_filter is None:
        _check_filter(values.get("compression-filter", KNOWN_FILTERS[0]))
    else:
        values["compression-filter"] = forced_filter
    version = values.get("version")
    if version != "4":
        known = version in ("1", "2", "3")
        raise problem(
            f"Backup format version {version} not supported"
            if known
            else f"Unsupported backup version {version}"
        )
    backup_id = values.get("backup-id", "unknown")
    if backup_id.startswith("-") or not backup_id:
        raise problem("Invalid value for header: backup-id")
    if values.get("hmac-algorithm", "scrypt").lower() != "scrypt":
        raise problem("Invalid value for header: hmac-algorithm")
    compressed = values.get("compressed", "").lower() in TRUE
    expected = ["encrypted", "compressed", "hmac-algorithm", "backup-id"]
    for key in [*expected, "compression-filter"] if compressed else expected:
        if key not in values:
            raise problem(f"Backup header lack '{key.replace('-', '_')}' info")
    return BackupHeader(values["compression-filter"] if compressed else None, backup_id)
