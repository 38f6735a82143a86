# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a backup profile.

Stands in for _load_backup_profile of qubes-core-admin qubes/api/admin.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from qubesadmin.vm import QubesVM

from .inventory import Qube
from .system import PROFILE_DIR, problem

DEFAULT_FILTER = "gzip"


@dataclass
class Profile:
    """A profile, with its patterns resolved.

    Attributes:
        destination: the qube the backup goes to; None is dom0.
        path: a folder or file in dom0; a folder or command in a qube.
        selected: the qubes to store, in upstream's order.
        compressed: whether to compress.
        compression_filter: the program, written to the header even if unused.
        passphrase: as bytes; None when only a summary is wanted.
    """

    destination: Qube | None
    path: str
    selected: list[Qube]
    compressed: bool
    compression_filter: str
    passphrase: bytes | None


def _read(name: str) -> Mapping[str, Any]:
    path = PROFILE_DIR / f"{name}.conf"
    if "/" in name:
        raise problem("Backup profile ID must not contain forward slash character")
    if not path.exists():
        raise problem(f"Backup profile does not exist: {name}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise problem(f"Invalid backup profile - not YAML: {error}") from error
    if not isinstance(data, dict):
        raise problem("Invalid backup profile - no keys in it")
    for key in ("destination_vm", "destination_path", "include"):
        if key not in data:
            raise problem(f"Invalid backup profile - missing {key!r}")
    return data


def _patterns(data: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of entries; the old keywords `$tag:` and `$type:` become `@...`.

    Upstream fails with an internal error on anything but a list of strings.
    """
    entries = data[key]
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise problem(f"Invalid backup profile - {key} is not a list of names")
    return [entry.replace("$", "@") for entry in entries]


def _select(data: Mapping[str, Any], qubes: Sequence[Qube]) -> list[Qube]:
    """Return the qubes to store.

    With `include`, upstream keeps them in a set, where a qube's hash is its qid: so theirs is the
    order of a set of these numbers.
    """
    if data["include"] is None:
        chosen = [qube for qube in qubes if qube.include_in_backups]
    else:
        include = _patterns(data, "include")
        by_qid = {qube.qid: qube for qube in qubes}
        matching = {qube.qid for qube in qubes if any(map(qube.matches, include))}
        chosen = [by_qid[qid] for qid in matching]
    exclude = _patterns(data, "exclude") if "exclude" in data else []
    return [qube for qube in chosen if not any(map(qube.matches, exclude))]


def _passphrase_from(vm: QubesVM, profile: str) -> bytes:
    service = f"qubes.BackupPassphrase+{profile}"
    try:
        answer, _ = vm.run_service_for_stdio(service, autostart=False)
    except subprocess.CalledProcessError as error:
        raise problem(f"Failed to retrieve passphrase from '{vm.name}' VM") from error
    passphrase = bytes(answer).strip()
    if b"\n" in passphrase:
        raise problem("Passphrase must not contain newline character")
    return passphrase


def _passphrase(data: Mapping[str, Any], qubes: Mapping[str, Qube], profile: str) -> bytes:
    if "passphrase_text" in data:
        text = data["passphrase_text"]
        if text is None:
            raise problem("No passphrase set")
        if not isinstance(text, str):
            raise problem("Invalid backup profile - passphrase_text must be in quotes")
        return text.encode()
    if "passphrase_vm" not in data:
        raise problem(
            "Invalid backup profile - you need to specify passphrase_text or passphrase_vm"
        )
    if data["passphrase_vm"] not in qubes:
        raise problem("Invalid backup profile - invalid passphrase_vm")
    return _passphrase_from(qubes[data["passphrase_vm"]].vm, profile)


def load_profile(name: str, qubes: Sequence[Qube], with_passphrase: bool) -> Profile:
    """Read /etc/qubes/backup/NAME.conf.

    Args:
        name: the profile's name.
        qubes: all qubes.
        with_passphrase: whether the passphrase is needed; asking a qube for it may take long.

    Raises:
        QubesException: the profile isn't there or isn't valid; the text is upstream's.
    """
    data = _read(name)
    selected = _select(data, qubes)
    by_name = {qube.name: qube for qube in qubes}
    destination = by_name.get(data["destination_vm"])
    if destination is None:
        raise problem("Invalid destination_vm specified in backup profile")
    if not isinstance(data["destination_path"], str):
        raise problem("Invalid backup profile - destination_path is not a string")
    compression = data.get("compression", True)
    return Profile(
        destination=None if destination.klass == "AdminVM" else destination,
        path=data["destination_path"],
        selected=selected,
        compressed=bool(compression),
        compression_filter=compression if isinstance(compression, str) else DEFAULT_FILTER,
        passphrase=_passphrase(data, by_name, name) if with_passphrase else None,
    )
