# SPDX-License-Identifier: GPL-3.0-or-later
"""Run upstream's qubesd without a hypervisor: qubesd.py --offline-mode.

What the hypervisor would say of power states comes from files: a qube runs while
/run/qubes/running/NAME exists. /run/qubes/backup-settings.json, read at the start of each backup,
can set attributes of upstream's Backup object, such as `chunk_size`. /run/qubes/exports.json names
other paths to export volumes from, by the volume's: a block device, as with LVM, or another name.
SIGUSR1 has Python collect garbage at once.
"""

import asyncio
import gc
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qubes.api.admin
import qubes.app
import qubes.backup
import qubes.exc
import qubes.tools.qubesd
from qubes.storage.file import FileVolume
from qubes.vm.qubesvm import QubesVM

RUNNING = Path("/run/qubes/running")
SETTINGS = Path("/run/qubes/backup-settings.json")
EXPORTS = Path("/run/qubes/exports.json")


class Backup(qubes.backup.Backup):  # type: ignore[misc] # upstream has no types
    """Upstream's, with the test's settings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take a backup's arguments."""
        super().__init__(*args, **kwargs)
        for name, value in json.loads(SETTINGS.read_text()).items():
            if not hasattr(self, name):
                raise AttributeError(name)
            setattr(self, name, value)


def runs(qube: Any) -> bool:
    """Tell whether the qube is said to run."""
    return Path(RUNNING, qube.name).exists()


def exported(volume: Any, export: Any = FileVolume.export) -> str:
    """Return the path that the volume is read from."""
    path = export(volume)
    return str(json.loads(EXPORTS.read_text()).get(path, path))


async def start(qube: Any, *_args: Any, **_kwargs: Any) -> None:
    """Start a qube, as far as there is anything to start."""
    if runs(qube):
        raise qubes.exc.QubesVMNotHaltedError(qube)
    Path(RUNNING, qube.name).touch()


def shown_as_is(code_point: int) -> bool:
    """Stand for libqubes-pure, which is no Python: tell whether a character is safe to show."""
    return chr(code_point).isprintable()


def main() -> None:
    """Put the stand-in for the hypervisor in place and run."""
    RUNNING.mkdir(parents=True, exist_ok=True)
    for path in (SETTINGS, EXPORTS):
        if not path.exists():
            path.write_text("{}")
    QubesVM.get_power_state = lambda qube: "Running" if runs(qube) else "Halted"
    QubesVM.is_running = runs
    QubesVM.is_qrexec_running = lambda qube, **_stubdom: runs(qube)
    QubesVM.is_paused = lambda _qube: False
    QubesVM.start = start
    FileVolume.export = exported
    qubes.app.Qubes.register_event_handlers = lambda _app: None  # they are the hypervisor's
    qubes.app.VMMConnection.is_xen = False
    if sys.version_info < (3, 13):  # dom0's Python has it
        asyncio.base_events.Server.close_clients = lambda _server: None  # type: ignore[attr-defined]
    qubes.api.admin.CDLL = lambda _name: SimpleNamespace(
        qubes_pure_code_point_safe_for_display=shown_as_is
    )
    qubes.backup.Backup = Backup
    signal.signal(signal.SIGUSR1, lambda _number, _frame: gc.collect())
    qubes.tools.qubesd.main()


if __name__ == "__main__":
    main()
