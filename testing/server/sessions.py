# SPDX-License-Identifier: GPL-3.0-or-later
"""What reaches an engine's server: each start of it, and the requests that came."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpack
import msgpack

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4
_HEADERS, _END_HEADERS, _PADDED_OR_PRIORITY = 1, 0x04, 0x28  # section 6.2


@dataclass(frozen=True)
class Session:
    """One start of an engine's server.

    Attributes:
        argv: its command line.
        requests: `GET /config`, or the name of borg's request.
    """

    argv: list[str]
    requests: list[str]


class Recorder:
    """Programs named rclone and borg that keep what they get before they pass it on."""

    def __init__(self, folder: Path, programs: dict[str, Path]) -> None:
        """Make them.

        Args:
            folder: where they are to be.
            programs: the real ones, by name.
        """
        self.folder = folder
        self._kept = folder / "kept"
        self._kept.mkdir(parents=True)
        for name, program in programs.items():
            real, kept = shlex.quote(str(program)), shlex.quote(str(self._kept))
            script = folder / name
            script.write_text(
                f'#!/bin/bash\n[ "$1" = serve ] || exec {real} "$@"\n'
                f'file={kept}/$EPOCHREALTIME.$$.{name}\nprintf "%s\\0" "$@" >"$file.argv"\n'
                f'exec {real} "$@" < <(exec setpriv --pdeathsig KILL tee "$file")\n'
            )
            script.chmod(0o755)

    def taken(self) -> list[Session]:
        """Give the sessions since the last call, oldest first."""
        found = []
        for path in sorted(self._kept.glob("*.argv")):
            data = path.with_suffix("")
            argv = path.read_text().split("\0")[:-1]
            read = _of_borg if data.suffix == ".borg" else _of_restic
            found.append(Session(argv, read(data.read_bytes()) if data.exists() else []))
            path.unlink()
            data.unlink(missing_ok=True)
        return found


def _of_restic(data: bytes) -> list[str]:
    """Read requests of HTTP/2 (RFC 9113, sections 4.1 and 6.2)."""
    if not data:
        return []
    assert data.startswith(_PREFACE)
    at, found, decoder = len(_PREFACE), [], hpack.Decoder()
    while at < len(data):
        length, kind, flags = int.from_bytes(data[at : at + 3]), data[at + 3], data[at + 4]
        body = data[at + 9 : at + 9 + length]
        at += 9 + length
        if kind == _HEADERS and len(body) == length:
            assert flags & _END_HEADERS
            assert not flags & _PADDED_OR_PRIORITY
            fields: dict[Any, Any] = dict(decoder.decode(body))
            found.append(f"{fields[':method']} {fields[':path']}")
    return found


def _of_borg(data: bytes) -> list[str]:
    """Read requests of borg's (borg/remote.py RepositoryServer.serve)."""
    unpacker = msgpack.Unpacker(raw=True, max_buffer_size=1 << 30, strict_map_key=False)
    unpacker.feed(data)
    return [item[b"m"].decode() if isinstance(item, dict) else "negotiate" for item in unpacker]
