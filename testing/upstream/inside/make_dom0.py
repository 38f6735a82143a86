# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a dom0's qubes.xml and qubes, with upstream's classes; stdin is the JSON of `Dom0.make`.

Volumes are made by the storage driver and then filled from image files.
"""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import qubes
import qubes.app
import qubes.config
import qubes.firewall
import qubes.vm.appvm
import qubes.vm.standalonevm
import qubes.vm.templatevm
from qubes.utils import coro_maybe

CLASSES = {
    "AppVM": qubes.vm.appvm.AppVM,
    "StandaloneVM": qubes.vm.standalonevm.StandaloneVM,
    "TemplateVM": qubes.vm.templatevm.TemplateVM,
}
KERNEL = "6.12"
SIZE = 8 << 20  # bytes, of a volume that nobody asked for


def make_kernel() -> None:
    """Lay down a kernel that will never boot."""
    folder = Path(qubes.config.qubes_base_dir, "vm-kernels", KERNEL)
    folder.mkdir(parents=True)
    for name in ("vmlinuz", "initramfs", "modules.img"):
        (folder / name).write_bytes(b"dummy")


async def fill(volume: Any, image: str) -> None:
    """Give the volume the image's content, sparse where that is."""
    await coro_maybe(volume.resize(Path(image).stat().st_size))
    subprocess.run(["cp", "--sparse=always", image, volume.path], check=True)


async def make_qube(app: Any, spec: dict[str, Any]) -> None:
    """Make one qube."""
    kind = CLASSES[spec["class"]]
    settings = {"template": app.domains[spec["template"]]} if spec.get("template") else {}
    qube = app.add_new_vm(kind, name=spec["name"], label=spec.get("label", "red"), **settings)
    await coro_maybe(qube.create_on_disk())
    for name, image in spec.get("volumes", {}).items():
        await fill(qube.volumes[name], image)
    for name, value in spec.get("properties", {}).items():
        setattr(qube, name, value)
    qube.features.update(spec.get("features", {}))
    for tag in spec.get("tags", []):
        qube.tags.add(tag)
    if "firewall" in spec:
        qube.firewall.rules = [qubes.firewall.Rule.from_api_string(r) for r in spec["firewall"]]
        qube.firewall.save()
    if "notes" in spec:
        qube.set_notes(spec["notes"])


async def main() -> None:
    """Read the wish, make it so."""
    wish = json.load(sys.stdin)
    qubes.app.VMMConnection.is_xen = False
    qubes.config.defaults["private_img_size"] = SIZE
    qubes.config.defaults["root_img_size"] = SIZE
    make_kernel()
    app = qubes.Qubes.create_empty_store("/var/lib/qubes/qubes.xml", offline_mode=True)
    await app.setup_pools()
    app.default_kernel = KERNEL
    for spec in wish["qubes"]:
        await make_qube(app, spec)
    for name, value in wish.get("properties", {}).items():
        setattr(app, name, app.domains[value])
    app.save()
    shutil.chown("/var/lib/qubes/qubes.xml", group="qubes")


if __name__ == "__main__":
    asyncio.run(main())
