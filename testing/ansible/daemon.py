# SPDX-License-Identifier: GPL-3.0-or-later
"""A real lab qubesd whose qubes are only names in a set.

`python3 -m testing.ansible.daemon STATE` serves it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qubeslab.containers import QubeSpec
from qubeslab.daemon import serve
from qubeslab.domains import create_initial
from qubeslab.paths import LabError
from qubeslab.qrexec_run import Paths

TEMPLATE = "debian-13-minimal"


class Names:
    """Qubes without anything inside."""

    def __init__(self) -> None:
        """Begin with all of them halted."""
        self._running: set[str] = set()

    def start(self, qube: QubeSpec) -> None:
        """Note that it runs."""
        self._running.add(qube.name)

    def stop(self, name: str) -> None:
        """Note that it doesn't."""
        self._running.discard(name)

    def is_running(self, name: str) -> bool:
        """Tell which."""
        return name in self._running

    def enter(self, name: str, user: str | None) -> list[str]:
        """Refuse: nobody needs it here."""
        raise LabError(f"{name} has no inside for {user}")

    def root(self, name: str) -> Path:
        """Refuse: nobody needs it here."""
        raise LabError(f"{name} has no files")


def main(state: Path) -> None:
    """Make a lab with one template and serve it."""
    images = state / "qubes" / "vm-templates" / TEMPLATE
    images.mkdir(parents=True)
    for name in ("root", "private"):
        (images / f"{name}.img").write_bytes(bytes(4096))
    create_initial(state, TEMPLATE)
    serve(state, Names(), Paths())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
