# SPDX-License-Identifier: GPL-3.0-or-later
"""The qubes that the backups are made of, and the comparison of what came back."""

import filecmp
import os
import subprocess
from pathlib import Path

from testing.upstream.dom0 import Dom0, Qube

# Bytes. GNU tar pads its streams to 10240, so only with a multiple of that can one end at the end
# of a chunk.
CHUNK = 100 * 10240
EXACT = 2 * CHUNK  # an image as long as two chunks
AT_THE_EDGE = 2 * CHUNK - 512 - 1024  # its stream, with a header and two zero blocks, is so long


def ext4(path: Path, size: str, contents: int) -> str:
    """Make an image with an ext4 filesystem that has a file of random bytes and some texts."""
    files = path.with_suffix(".files")
    (files / "home/user/Dokumente æøå").mkdir(parents=True)
    (files / "home/user/random").write_bytes(os.urandom(contents))
    for number in range(20):
        (files / f"home/user/Dokumente æøå/{number}.txt").write_text("text\n" * 100 * number)
    subprocess.run(["mkfs.ext4", "-q", "-d", files, path, size], check=True, capture_output=True)
    return str(path)


def image(path: Path, size: int, parts: dict[int, bytes]) -> str:
    """Make an image of size bytes that is a hole but for some parts, by their offset."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in parts.items():
            file.seek(offset)
            file.write(data)
    return str(path)


def corpus(folder: Path) -> list[Qube]:
    """Make the images and return the qubes to make of them."""
    islands = {0: b"start", 31 << 20: os.urandom(70000), (64 << 20) - 3: b"end"}
    big = os.urandom(101 << 20)  # more than a chunk of Qubes' own size
    return [
        Qube(
            "work",
            label="blue",
            volumes={"private": ext4(folder / "work.img", "12M", 3 << 20)},
            properties={"memory": 555, "maxmem": 999, "kernelopts": "quiet", "autostart": True},
            features={"service.cups": "1", "menu-items": "a.desktop b.desktop", "empty": ""},
            tags=["office"],
            firewall=[
                "action=accept dsthost=example.org proto=tcp dstports=443-443 comment=x y",
                "action=drop",
            ],
            notes="Remember:\n\tthe milk\n",
        ),
        Qube(
            "alone",
            "StandaloneVM",
            volumes={
                "root": ext4(folder / "alone-root.img", "8M", 1 << 20),
                "private": ext4(folder / "alone.img", "6M", 1 << 20),
            },
        ),
        Qube("exact", volumes={"private": image(folder / "e.img", EXACT, {0: os.urandom(EXACT)})}),
        Qube(
            "edge",
            volumes={"private": image(folder / "g.img", AT_THE_EDGE, {0: os.urandom(AT_THE_EDGE)})},
        ),
        Qube("hollow", volumes={"private": image(folder / "h.img", 8 << 20, {})}),
        Qube("big", volumes={"private": image(folder / "b.img", 128 << 20, {4096: big})}),
        Qube("sparse", volumes={"private": image(folder / "s.img", 64 << 20, islands)}),
    ]


VOLUMES = {"alone": ("root", "private"), "tmpl": ("root", "private")}


def settings(dom0: Dom0, name: str) -> dict[str, object]:
    """Return all that a backup keeps of a qube beside its volumes."""
    properties = dom0.properties(name)
    for own in ("qid", "uuid", "backup_timestamp", "name"):
        properties.pop(own, None)
    return {
        "properties": properties,
        "features": dom0.features(name),
        "tags": {tag for tag in dom0.tags(name) if not tag.startswith("created-by-")},
        "firewall": dom0.firewall(name),
        "notes": dom0.api(name, "admin.vm.notes.Get"),
    }


def assert_same(old: Dom0, new: Dom0, *names: str, renamed: str = "") -> None:
    """Compare qubes with those restored, byte for byte and setting by setting."""
    for name in names:
        assert name + renamed in new.names(), f"{name} wasn't restored"
        for volume in VOLUMES.get(name, ("private",)):
            files = old.volume(name, volume), new.volume(name + renamed, volume)
            assert filecmp.cmp(*files, shallow=False), f"{name}'s {volume} differs"
        assert settings(new, name + renamed) == settings(old, name)


def give_store(old: Dom0, new: Dom0) -> None:
    """Bring the backup qube's files to the new machine."""
    new.machine.run("cp", "-a", f"{old.folder}/rw/.", "/rw/")
