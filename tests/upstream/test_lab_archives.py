# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's qvm-backup writes, upstream's qvm-backup-restore restores; and the other way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testing.paths import PROJECT, PYTHONPATH
from testing.upstream.dom0 import INSIDE, PASSPHRASE, Dom0, Qube, complaints
from testing.upstream.lab_client import lab_dom0
from testing.upstream.lab_describe import Description, describe, differences
from testing.upstream.sources import Sources

LAB_PASSPHRASE = "dedup:a passphrase with blänks"  # noqa: S105 -- that of testing/lab/system.py
MIB = 1 << 20
Descriptions = dict[str, Description]


def lab(dom0: Dom0, *words: str | Path) -> Any:
    """Run a lab in the machine: see inside/lab_system.py."""
    program = (PROJECT / ".venv/bin/python", INSIDE / "lab_system.py")
    done = dom0.machine.run("env", f"PYTHONPATH={PYTHONPATH}", *program, *words)
    return json.loads(done.stdout.splitlines()[-1])


def described(dom0: Dom0, *names: str) -> Descriptions:
    """Describe upstream's qubes."""
    return {name: describe(dom0.api, dom0.volume, name) for name in names}


def test_upstream_restores_what_the_lab_wrote(make_dom0: Callable[[], Dom0]) -> None:
    dom0 = make_dom0()
    dom0.make([])
    dom0.start()
    archive = dom0.folder / "archive"
    before: Descriptions = lab(dom0, "make", archive)
    assert len(before) == 4
    verified = dom0.restore(verify_only=True, source=archive, passphrase=LAB_PASSPHRASE)
    assert not complaints(verified), verified.stdout + verified.stderr
    done = dom0.restore(source=archive, passphrase=LAB_PASSPHRASE)
    assert not complaints(done), done.stdout + done.stderr
    changed = differences(before, described(dom0, *before))
    assert not changed, "\n".join(changed)


def test_upstream_restores_to_the_lab_s_qubesd(
    make_dom0: Callable[[], Dom0], sources: Sources
) -> None:
    """The tool is upstream's, and the system that it restores to is the lab."""
    names = ("work", "net", "alone")
    with lab_dom0(make_dom0(), sources) as made:
        archive = made.dom0.folder / "archive"
        before = lab(made.dom0, "make", archive)
        secret = made.dom0.passphrase_file(LAB_PASSPHRASE)
        done = made.upstream(
            "qvm-backup-restore", "-p", str(secret), str(archive), *names, data="y"
        )
        assert done.returncode == 0, done.stderr
        assert not complaints(done), done.stdout + done.stderr

        def api(dest: str, method: str, argument: str) -> bytes:
            return made.lab.raw(f"{method}+{argument} dom0 name {dest}\0".encode())

        def image(name: str, volume: str) -> Path:
            return made.lab.state / "qubes/appvms" / name / f"{volume}.img"

        found = {name: describe(api, image, name) for name in names}
        changed = differences({name: before[name] for name in names}, found)
        assert not changed, "\n".join(changed)


UPSTREAM = ("work", "net", "alone", "tmpl")


@pytest.mark.parametrize("compress", [False, True])
def test_the_lab_restores_what_upstream_wrote(
    make_dom0: Callable[[], Dom0], compress: bool
) -> None:
    dom0 = make_dom0()
    for number, name in enumerate(("work", "net", "alone", "root", "tmpl")):
        half = os.urandom(MIB << (number % 3))
        (dom0.folder / name).write_bytes(half[: len(half) // 2] + bytes(MIB) + half)
    image = {name: str(dom0.folder / name) for name in ("work", "net", "alone", "root", "tmpl")}
    dom0.make(
        [
            Qube("net", volumes={"private": image["net"]}, properties={"provides_network": True}),
            Qube(
                "work",
                label="blue",
                volumes={"private": image["work"]},
                properties={"memory": 777, "autostart": True},
                features={"empty": "", "menu-items": "a b", "service.cups": "1"},
                tags=["mine"],
                firewall=[
                    "action=accept dst4=10.1.2.0/24 proto=tcp dstports=443-443",
                    "action=accept dsthost=example.com proto=tcp comment=web server",
                    "action=drop",
                ],
                notes="several\nlines",
            ),
            Qube(
                "alone",
                "StandaloneVM",
                None,
                "green",
                volumes={"private": image["alone"], "root": image["root"]},
            ),
        ]
    )
    dom0.start()
    dom0.qvm("qvm-prefs", "work", "netvm", "net")
    dom0.qvm("qvm-prefs", "work", "maxmem", "999")
    dom0.chunk_size(MIB)
    before = described(dom0, *UPSTREAM)
    archive = dom0.folder / "archive"
    dom0.backup(*UPSTREAM, to=archive, compress=compress)
    found = lab(dom0, "restore", archive, PASSPHRASE, *UPSTREAM)
    assert found["verify"][0] == 0, found["verify"]
    assert found["restore"][0] == 0, found["restore"]
    assert "ERROR" not in str(found["verify"]) + str(found["restore"])
    changed = differences(before, found["qubes"])
    assert not changed, "\n".join(changed)
