# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole lab for one backup or restore by the lab's tools; without containers, in the machine.

lab_system.py make ARCHIVE: make qubes, back them up into the file, print JSON of name: description.
lab_system.py restore ARCHIVE PASSPHRASE NAME...: verify and restore a file, print JSON: `verify`
and `restore` are status and messages, `qubes` describes those with the names.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from qubesadmin import config
from qubesadmin.firewall import Rule

from testing.lab.harness import TEMPLATE
from testing.lab.system import MIB, System
from testing.upstream.lab_describe import describe

QUBES = ("work", "net", "alone", TEMPLATE)


@contextlib.contextmanager
def system() -> Iterator[System]:
    """Start a lab that uses this machine's scrypt."""
    state = Path(tempfile.mkdtemp(prefix="lab"))
    config.QUBESD_SOCKET = str(state / "run/dom0/qubesd.sock")
    config.QREXEC_CLIENT = str(state / "dom0bin/qrexec-client")
    config.QREXEC_SERVICES_DIR = str(state / "dom0bin")
    made = System(state)
    (state / "bin/scrypt").unlink()
    try:
        yield made
    finally:
        made.close()


def described(made: System, names: list[str]) -> dict[str, object]:
    """Describe qubes."""

    def api(dest: str, method: str, argument: str) -> bytes:
        return made.lab.raw(f"{method}+{argument} dom0 name {dest}\0".encode())

    def image(name: str, volume: str) -> Path:
        info = made.app.domains[name].volumes[volume]
        return made.state / "qubes" / f"{info.vid}.img"

    return {name: describe(api, image, name) for name in names}


def make(archive: str) -> object:
    """Make a backup of qubes of all classes, with all that a backup keeps."""
    chance = random.Random(7)  # noqa: S311 -- repeatable, no secret

    def data(size: int) -> bytes:
        half = chance.randbytes(size // 2)
        return half[: size // 4] + bytes(size // 2) + half[size // 4 :]

    with system() as made:
        made.fill(made.app.domains[TEMPLATE], data(2 * MIB))
        with (made.state / "qubes/vm-templates" / TEMPLATE / "root.img").open("r+b") as root:
            root.write(data(MIB))
        made.add_qube("net", data(MIB), provides_network=True)
        work = made.add_qube("work", data(6 * MIB), netvm="net", memory=777, autostart=True)
        work.label = "blue"
        work.maxmem = 999
        work.features["empty"] = ""
        work.features["menu-items"] = "a b"
        work.features["service.cups"] = "1"
        work.tags.add("mine")
        work.firewall.rules = [
            Rule("action=accept dst4=10.1.2.0/24 proto=tcp dstports=443-443"),
            Rule("action=accept dsthost=example.com proto=tcp comment=web server"),
            Rule("action=drop"),
        ]
        work.set_notes("several\nlines")
        alone = made.app.add_new_vm("StandaloneVM", "alone", "green")
        made.fill(alone, chance.randbytes(101 * MIB))  # more than one chunk
        (made.state / "qubes/appvms/alone/root.img").write_bytes(data(3 * MIB))
        made.profile(include=list(QUBES), exclude=[])
        made.backup()
        shutil.copy(made.archive, archive)
        return described(made, list(QUBES))


def restore(archive: str, passphrase: str, *names: str) -> object:
    """Verify and restore."""
    with system() as made:
        verified = made.restore("--verify-only", archive, *names, passphrase=passphrase)
        done = made.restore(archive, *names, passphrase=passphrase)
        return {
            "verify": [verified.returncode, verified.stderr],
            "restore": [done.returncode, done.stderr],
            "qubes": described(made, [name for name in names if name in made.app.domains]),
        }


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # upstream's packages have the names of the lab's
    actions: dict[str, Callable[..., object]] = {"make": make, "restore": restore}
    print(json.dumps(actions[sys.argv[1]](*sys.argv[2:])))
