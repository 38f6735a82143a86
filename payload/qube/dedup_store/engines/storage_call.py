# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of engines to a repository in a storage qube."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from dedup_store.config import Config


@dataclass(frozen=True)
class StorageCall:
    """The way of an engine to its repository in a storage qube.

    Attributes:
        command: for a splitter like the shell's. Both engines add arguments of their own, which
            qrexec-client-vm would take for a local program: so our program qrexec-call calls it,
            and ignores them.
        location: the repository, in the engine's syntax.
        hint: for its error messages; the engines don't pass on what qrexec said.
    """

    command: str
    location: str
    hint: str


def storage_call(config: Config, *, maintenance: bool) -> StorageCall | None:
    """Return the way to a repository's storage qube, None when it has none.

    Args:
        config: the repository's.
        maintenance: whether something will be removed: another service, which dom0 opens.
    """
    if config.storage is None:
        return None
    qube, name = config.storage
    program = Path(__file__).resolve().parents[1] / "qrexec-call"
    kind = "Maintenance" if maintenance else "Repository"
    service = f"dedupbackup.{kind}+{config.engine}+{name}"
    doubt = f"does policy allow it, and is {name} set up there?"
    if maintenance:
        doubt += (
            " dom0 opens it for the time of `sudo qubes-dedup-backup prune`, if its"
            " /etc/qubes-dedup-backup/server.toml names this repository"
        )
    return StorageCall(
        command=shlex.join([str(program), qube, service]),
        # restic shows it only; /./ is borg's mark for a path relative to where its server runs
        location=f"rclone:{qube}/{name}" if config.engine == "restic" else f"ssh://{qube}/./{name}",
        hint=f" (it calls {service} in {qube}: {doubt})",
    )
