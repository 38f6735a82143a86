# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do with each inner file of a backup.

Stands in for BackupRestore._handle_dom0, _handle_volume_data, _handle_appmenus_list of
qubes-core-admin-client qubesadmin/backup/restore.py, and Core3VM.handle_firewall_xml and
handle_notes_txt of qubesadmin/backup/core3.py. Failures are logged.
"""

from __future__ import annotations

import logging
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from qubesadmin.storage import Volume
from qubesadmin.vm import QubesVM

from ..contents import local_user
from ..system import problem
from .extract import Extractor, Handler
from .metadata import StoredQube, firewall_rules

log = logging.getLogger("qubesadmin.backup")


def handlers_for(
    stored: StoredQube, qube: QubesVM | None, extractor: Extractor
) -> dict[str, Handler]:
    """Return the handlers of a qube's files, by name in the archive.

    Args:
        stored: the qube in the backup.
        qube: the restored one, None for dom0.
        extractor: what calls the handlers.
    """
    path = str(stored.backup_path)
    if qube is None:
        return {path: _restore_home}
    handlers: dict[str, Handler] = {
        f"{path}firewall.xml": _logged(qube, "firewall", lambda data: _set_firewall(qube, data)),
        f"{path}notes.txt": _logged(
            qube, "notes", lambda data: qube.set_notes(data.read().decode())
        ),
        f"{path}whitelisted-appmenus.list": _logged(
            qube, "application list", lambda data: _set_menu(qube, data)
        ),
    }
    for name, volume in qube.volumes.items():
        if volume.save_on_stop:
            handlers[f"{path}{name}.img"] = _import_handler(volume, extractor)
    return handlers


def _import_handler(volume: Volume, extractor: Extractor) -> Handler:
    def restore(stream: IO[bytes], size: int | None) -> None:
        try:
            if size is None:
                volume.import_data(stream)
            else:
                volume.import_data_with_size(stream, size)
        except Exception as error:  # noqa: BLE001 -- upstream goes on with the other volumes
            if not extractor.aborting:
                log.error(
                    "Failed to restore volume %s (size %s) of VM %s: %s",
                    *(volume.name, size, volume.vm, error),
                )

    return restore


def _logged(qube: QubesVM, what: str, action: Callable[[IO[bytes]], None]) -> Handler:
    def restore(stream: IO[bytes], _size: int | None) -> None:
        try:
            action(stream)
        except Exception as error:  # noqa: BLE001 -- upstream goes on
            qube.log.error("Failed to set %s: %s", what, error)

    return restore


def _set_firewall(qube: QubesVM, stream: IO[bytes]) -> None:
    qube.qubesd_call(None, "admin.vm.firewall.Set", payload=firewall_rules(stream))


def _set_menu(qube: QubesVM, stream: IO[bytes]) -> None:
    entries = stream.read().decode("ascii").splitlines()
    qube.features["menu-items"] = " ".join(entry for entry in entries if entry)


def _restore_home(stream: IO[bytes], _size: int | None) -> None:
    user = local_user()
    name = time.strftime("home-restore-%Y-%m-%d-%H%M%S")
    folder = Path(pwd.getpwnam(user).pw_dir) / name
    log.info("Restoring home of user '%s' to '%s' directory...", user, name)
    folder.mkdir()
    if subprocess.run(["tar", "-C", str(folder), "-x"], stdin=stream, check=False).returncode:
        raise problem("Inner tar error for dom0-home")
    if subprocess.run(["sudo", "chown", "-R", user, str(folder)], check=False).returncode:
        log.error("*** Error while setting restore directory owner")
