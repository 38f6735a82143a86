# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab knows of its qubes, kept in STATE/domains.json.

The file stands for Qubes' qubes.xml (qubes-core-admin qubes/app.py Qubes.save). It is replaced in
one step, so that a crash leaves the old or the new state, never half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .paths import DOM0, LabError
from .qubesd_exc import QubesVMNotFoundError

Value = str | int | bool | None

VERSION = 1
GIB = 2**30
MAX_QID = 10000  # qubes-core-admin qubes/config.py max_qid
DOM0_UUID = str(uuid.UUID(int=0))

# qubes-core-admin qubes/config.py defaults
ROOT_BYTES = 10 * GIB
PRIVATE_BYTES = 2 * GIB

KERNEL = "6.12-lab"

# qubes-core-admin qubes/app.py Qubes.load_initial_values: index, colour, name
LABELS = (
    (1, "0xcc0000", "red"),
    (2, "0xf57900", "orange"),
    (3, "0xedd400", "yellow"),
    (4, "0x73d216", "green"),
    (5, "0x555555", "gray"),
    (6, "0x3465a4", "blue"),
    (7, "0x75507b", "purple"),
    (8, "0x000000", "black"),
)


# In upstream's order: qubes-core-admin qubes/vm/{appvm,templatevm,standalonevm}.py volume_config.
VOLUMES = ("root", "private", "volatile", "kernel")


@dataclass
class Volume:
    """One volume of a qube; qubes-core-admin qubes/storage/__init__.py Volume.

    Attributes:
        size: in bytes.
        rw: writable for the qube.
        save_on_stop: persistent.
        snap_on_start: a snapshot of the template's volume of the same name.
        revisions_to_keep: stored, but the lab keeps no revisions.
        ephemeral: stored only.
    """

    size: int
    rw: bool = True
    save_on_stop: bool = False
    snap_on_start: bool = False
    revisions_to_keep: int = 0
    ephemeral: bool = False


@dataclass
class Qube:
    """One qube; `properties` holds only what was set explicitly."""

    name: str
    qid: int
    uuid: str
    klass: str
    properties: dict[str, Value] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    volumes: dict[str, Volume] = field(default_factory=dict)


def volumes_for(klass: str) -> dict[str, Volume]:
    """Return a new qube's volumes.

    Source: qubes-core-admin qubes/vm/{appvm,templatevm,standalonevm}.py volume_config.
    """
    if klass == "AdminVM":
        return {}
    own_root = klass in ("TemplateVM", "StandaloneVM")
    return {
        "root": Volume(ROOT_BYTES, save_on_stop=own_root, snap_on_start=not own_root),
        "private": Volume(PRIVATE_BYTES, save_on_stop=True),
        "volatile": Volume(ROOT_BYTES),
        "kernel": Volume(0, rw=False),
    }


class Store:
    """All qubes and the system's settings.

    Attributes:
        lock: held while reading or changing `qubes` and `settings`.
        qubes: by name; dom0 is always there.
        settings: the system's properties that were set explicitly.
    """

    def __init__(self, state: Path) -> None:
        """Read the state.

        Raises:
            LabError: STATE/domains.json can't be read or isn't one of ours.
        """
        self.path = state / "domains.json"
        self.lock = threading.RLock()
        self.qubes: dict[str, Qube] = {}
        self.settings: dict[str, Value] = {}
        try:
            self._load(self.path.read_text())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LabError(
                f"can't use {self.path}: {error}; `lab down --destroy` and `lab up` make a new lab"
            ) from error

    def __getitem__(self, name: str) -> Qube:
        """Return a qube.

        Raises:
            QubesVMNotFoundError: there is none with this name.
        """
        with self.lock:
            if name not in self.qubes:
                raise QubesVMNotFoundError(name)
            return self.qubes[name]

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a qube with this name."""
        return name in self.qubes

    def names(self) -> list[str]:
        """Return the names of all qubes, sorted."""
        with self.lock:
            return sorted(self.qubes)

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Change the state: written when the block ends, taken back when it raises."""
        with self.lock:
            before = self._dump()
            try:
                yield
                write_synced(self.path, self._dump())
            except BaseException:
                self._restore(before)
                raise

    def add(self, name: str, klass: str) -> Qube:
        """Add a qube with default settings; only inside `change`."""
        taken = {qube.qid for qube in self.qubes.values()}
        qid = next(number for number in range(1, MAX_QID) if number not in taken)
        qube = Qube(name, qid, str(uuid.uuid4()), klass, volumes=volumes_for(klass))
        self.qubes[name] = qube
        return qube

    def _dump(self) -> str:
        content = {
            "version": VERSION,
            "settings": self.settings,
            "qubes": [asdict(qube) for qube in self.qubes.values()],
        }
        return json.dumps(content, indent=1, sort_keys=True) + "\n"

    def _load(self, text: str) -> None:
        self.qubes, self.settings = self._parse(text)

    def _restore(self, text: str) -> None:
        """Go back, in place: other threads may hold the objects."""
        qubes, settings = self._parse(text)
        for name, qube in qubes.items():
            if name in self.qubes:
                self.qubes[name].__dict__.update(qube.__dict__)
                qubes[name] = self.qubes[name]
        self.qubes = qubes
        self.settings.clear()
        self.settings.update(settings)

    @staticmethod
    def _parse(text: str) -> tuple[dict[str, Qube], dict[str, Value]]:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise ValueError(f"its version is {content['version']}, not {VERSION}")
        qubes: dict[str, Qube] = {}
        for entry in content["qubes"]:
            volumes = {name: Volume(**volume) for name, volume in entry.pop("volumes").items()}
            qube = Qube(**entry, volumes=volumes)
            qubes[qube.name] = qube
        if DOM0 not in qubes:
            raise ValueError("dom0 is missing in it")
        return qubes, content["settings"]


def create_initial(state: Path, template: str) -> None:
    """Write a new lab's first state: dom0 and one template, whose images are in place already.

    Args:
        state: the lab's state folder.
        template: the template's name, also the default template.
    """
    images = state / "qubes" / "vm-templates" / template
    (state / "domains.json").unlink(missing_ok=True)
    dom0 = Qube(DOM0, 0, DOM0_UUID, "AdminVM", {"label": "black"})
    first = {"version": VERSION, "settings": {}, "qubes": [asdict(dom0)]}
    write_synced(state / "domains.json", json.dumps(first))
    store = Store(state)
    with store.change():
        qube = store.add(template, "TemplateVM")
        qube.properties["label"] = "black"
        qube.tags = ["created-by-dom0"]
        # What the template's agent would report: qubes-core-agent-linux package-managers/
        # upgrades-installed-check and qubes.FeaturesRequest; vmexec and VMRootExec decide which
        # services qvm-run calls.
        qube.features = {
            "os": "Linux",
            "os-distribution": "debian",
            "os-version": "13",
            "qrexec": "1",
            "vmexec": "1",
            "supported-rpc.qubes.VMRootExec": "1",
            "supported-rpc.qubes.VMRootShell": "1",
        }
        for name in ("root", "private"):
            qube.volumes[name].size = (images / f"{name}.img").stat().st_size
        store.settings.update(default_template=template, default_kernel=KERNEL)


def write_synced(path: Path, text: str) -> None:
    """Replace a file in one step that survives a power cut."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
