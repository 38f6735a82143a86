# SPDX-License-Identifier: GPL-3.0-or-later
"""Run upstream's qubesd without a hypervisor: qubesd.py --offline-mode.

What the hypervisor would say of power states comes from files: a qube runs while
/run/qubes/running/NAME exists. /run/qubes/backup-settings.json, read at the start of each backup,
can set attributes of upstream's Backup object, such as `chunk_size`.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import qubes.app
import qubes.backup
import qubes.exc
import qubes.tools.qubesd
from qubes.vm.qubesvm import QubesVM

RUNNING = Path("/run/qubes/running")
SETTINGS = Path("/run/qubes/backup-settings.json")


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
    return (RUNNING / qube.name).exists()


async def start(qube: Any, *_args: Any, **_kwargs: Any) -> None:
    """Start a qube, as far as there is anything to start."""
    if runs(qube):
        raise qubes.exc.QubesVMNotHaltedError(qube)
    (RUNNING / qube.name).touch()


def main() -> None:
    """Put the stand-in for the hypervisor in place and run."""
    RUNNING.mkdir(parents=True, exist_ok=True)
    if not SETTINGS.exists():
        SETTINGS.write_text("{}")
    QubesVM.get_power_state = lambda qube: "Running" if runs(qube) else "Halted"
    QubesVM.is_running = runs
    QubesVM.is_qrexec_running = lambda qube, **_stubdom: runs(qube)
    QubesVM.is_paused = lambda _qube: False
    QubesVM.start = start
    qubes.app.Qubes.register_event_handlers = lambda _app: None  # they are the hypervisor's
    qubes.app.VMMConnection.is_xen = False
    if sys.version_info < (3, 13):  # dom0's Python has it
        asyncio.base_events.Server.close_clients = lambda _server: None  # type: ignore[attr-defined]
    qubes.backup.Backup = Backup
    qubes.tools.qubesd.main()


if __name__ == "__main__":
    main()
