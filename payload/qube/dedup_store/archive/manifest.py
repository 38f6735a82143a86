# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a run, its short form for `list`, and the names of runs.

The manifest is one line of JSON. What reads it must refuse a `format` that it doesn't know and
ignore keys that it doesn't know.
"""

import base64
import contextlib
import dataclasses
import json
import re
import secrets
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from dedup_store.errors import DamagedError, FormatError, clean

FORMAT = 2
WHOLE, PARTIAL, OPAQUE = "whole", "partial", "opaque"
STATUSES = (WHOLE, PARTIAL, OPAQUE)

_RUN = re.compile(r"[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9-]{1,80}")
_BACKUP_ID = re.compile(rb"^backup-id=([A-Za-z0-9-]{1,64})$", re.MULTILINE)
_MAX_SUMMARY = 48 * 1024  # characters; it is an argument of the engine's command line
_MAX_SUMMARY_JSON = 4 << 20


def is_run_name(name: str) -> bool:
    """Return whether a name can be a run's."""
    return _RUN.fullmatch(name) is not None


def new_run_name(beginning: bytes, now: time.struct_time) -> str:
    """Name a run: time (UTC), the archive's backup-id, and four digits that make it unique.

    Args:
        beginning: the stream's first kilobytes, with the backup-header in clear.
        now: the time, UTC.
    """
    match = _BACKUP_ID.search(beginning.replace(b"\0", b"\n"))
    backup_id = match[1].decode() if match else "unknown"
    return f"{time.strftime('%Y%m%dT%H%M%SZ', now)}-{backup_id}-{secrets.token_hex(2)}"


@dataclass(slots=True)
class Member:
    """A member of the official archive, or (name None) the rest that isn't one.

    Attributes:
        name: as in the archive, for example `vm7/private.img.000.enc`.
        offset: where its wrapping begins in the stream.
        length: its bytes in the stream, all of its wrapping and padding included.
        container: `authenticated`, `scrypt` (really encrypted), `unknown`, or `none`.
        payload_length: bytes of its payload.
        payload_sha256: of its payload.
        object: number of the payload object that has the payload, None when the recipe has it all.
        object_offset: where in that object.
        object_length: bytes in that object; what is missing to payload_length is in the recipe.
    """

    name: str | None
    offset: int
    length: int = 0
    container: str = "none"
    payload_length: int = 0
    payload_sha256: str = ""
    object: int | None = None
    object_offset: int = 0
    object_length: int = 0


@dataclass
class Manifest:
    """The description of one run.

    Attributes:
        run: its name.
        created: when it was stored, UTC, ISO 8601.
        status: `whole`, `partial` or `opaque`.
        reason: why it isn't whole, empty when it is.
        stream_length: bytes of the official stream.
        header: the backup-header's keys and values.
        qubes: per qube in it: name (None when unknown), path, volumes with name, bytes (payload),
            chunks, and end: whether the inner archive's end was `seen`, is `missing`, or is
            `unseen` because the container hides it.
        objects: length of each payload object.
        recipe_length: bytes of the compressed recipe.
        recipe_sha256: of the compressed recipe.
        members: in the order of the stream.
        order: the run's number in its repository (order.py), 0 in what older versions stored.
    """

    run: str
    created: str
    status: str
    reason: str
    stream_length: int
    header: dict[str, str]
    qubes: list[dict[str, Any]]
    objects: list[int]
    recipe_length: int
    recipe_sha256: str
    members: list[Member] = field(default_factory=list)
    format: int = FORMAT
    order: int = 0

    @property
    def backup_id(self) -> str:
        """The official backup's id, as its header has it; empty when it has none."""
        return self.header.get("backup-id", "")

    def to_json(self) -> bytes:
        """Write the manifest's line, with its newline."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode() + b"\n"

    def summary(self) -> dict[str, Any]:
        """Return the part of the manifest that `list` shows."""
        return {
            "run": self.run,
            "format": self.format,
            "order": self.order,
            "time": self.created,
            "backup_id": self.backup_id,
            "status": self.status,
            "reason": self.reason,
            "stream_bytes": self.stream_length,
            "qubes": [
                {
                    "name": qube["name"],
                    "path": qube["path"],
                    "volumes": [
                        {"name": volume["name"], "bytes": volume["bytes"]}
                        for volume in qube["volumes"]
                    ],
                }
                for qube in self.qubes
            ],
        }


def from_json(line: bytes, run: str) -> Manifest:
    """Read a manifest.

    Args:
        line: as it is stored.
        run: the run it must be of.

    Raises:
        FormatError: it is of another version's format.
        DamagedError: it isn't that run's manifest.
    """
    try:
        data = json.loads(line)
        version = data["format"]
        if version == FORMAT:
            known = {item.name for item in dataclasses.fields(Member)}
            members = [
                Member(**{k: v for k, v in item.items() if k in known}) for item in data["members"]
            ]
            known = {item.name for item in dataclasses.fields(Manifest)}
            manifest = Manifest(**{k: v for k, v in data.items() if k in known})
            manifest.members = members
            if manifest.run == run and manifest.status in STATUSES and _has_sound_sizes(manifest):
                return manifest
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedError(f"the manifest of {run} is malformed") from None
    if version != FORMAT:
        raise unknown_format(run, version)
    raise DamagedError(f"the manifest of {run} contradicts itself")


def unknown_format(run: str, found: object) -> FormatError:
    """Return the error for a run of another format than FORMAT."""
    return FormatError(
        f"the run {run} is of format {clean(str(found), 20)}, and this version of dedup-store uses"
        f" format {FORMAT} only: read the repository with the version that wrote it, and make a new"
        " one for this version, at another location"
    )


def _has_sound_sizes(manifest: Manifest) -> bool:
    sizes = [manifest.stream_length, manifest.recipe_length, manifest.order, *manifest.objects]
    for member in manifest.members:
        sizes += [member.offset, member.length, member.payload_length, member.object_length]
    return all(type(size) is int and size >= 0 for size in sizes)


def pack_summary(summary: dict[str, Any]) -> str:
    """Write a summary in characters that every engine's tags and comments can hold."""
    text = _pack(summary)
    return text if len(text) <= _MAX_SUMMARY else _pack(summary | {"qubes": []})


def _pack(summary: dict[str, Any]) -> str:
    data = json.dumps(summary, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(zlib.compress(data, 9)).decode().rstrip("=")


def read_summary(text: str, run: str) -> dict[str, Any] | None:
    """Read a summary.

    Args:
        text: as pack_summary wrote it.
        run: the run it must be of.

    Returns:
        The summary; None when it is malformed.
    """
    with contextlib.suppress(ValueError, zlib.error, RecursionError):
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        summary = json.loads(zlib.decompressobj().decompress(raw, _MAX_SUMMARY_JSON))
        if isinstance(summary, dict) and _is_sound(summary, run):
            return summary
    return None


def unpack_summary(text: str, run: str) -> dict[str, Any]:
    """Read a summary; return one that says so, and is never `whole`, when it is malformed."""
    return read_summary(text, run) or {
        "run": run,
        "format": FORMAT,
        "time": "",
        "backup_id": "",
        "status": PARTIAL,
        "reason": "its summary is malformed",
        "stream_bytes": 0,
        "qubes": [],
    }


def _is_sound(summary: dict[str, Any], run: str) -> bool:
    return (
        summary.get("run") == run
        and summary.get("status") in STATUSES
        and all(isinstance(summary.get(key), str) for key in ("time", "backup_id", "reason"))
        and isinstance(summary.get("stream_bytes"), int)
        and isinstance(summary.get("qubes"), list)
    )
