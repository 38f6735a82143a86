# SPDX-License-Identifier: GPL-3.0-or-later
"""Describe what a lab is provisioned with, as text by key, so that two labs can be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from qubeslab.paths import DOM0
from qubeslab.session import Session

from testing.paths import PROJECT

# Prints each path below its arguments with type, owner, mode, and content or target. Passphrases
# and passwords are left out, and so is what is in a repository: it is encrypted with them.
FILES = r"""
import hashlib, json, os, re, stat, sys
prefix, *roots = sys.argv[1:]
found = {}
for root in roots:
    for folder, folders, files in os.walk(prefix + root):
        folders[:] = [name for name in folders if name != "__pycache__"]
        if folder.endswith("/repo") or re.search("/rw/dedup-server/[^/]+$", folder):
            folders[:], files = [], []
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            what = [stat.filemode(info.st_mode), info.st_uid, info.st_gid]
            if stat.S_ISLNK(info.st_mode):
                what.append(os.readlink(path))
            elif stat.S_ISREG(info.st_mode):
                data = open(path, "rb").read()
                data = re.sub(rb"dedup:[A-Za-z0-9_-]{43}", b"dedup:", data)
                if path.endswith(".password"):
                    data = b"%d" % len(data)
                what.append(hashlib.sha256(data).hexdigest())
            found[path.removeprefix(prefix)] = what
print(json.dumps(found))
"""
# Prints each qube's properties, features, tags and volumes.
QUBES = r"""
import json, qubesadmin
found = {}
for vm in qubesadmin.Qubes().domains:
    for name in vm.property_list():
        value = str(getattr(vm, name, None))
        found[f"{vm} property {name}"] = ["default" if vm.property_is_default(name) else value]
    for name, value in vm.features.items():
        found[f"{vm} feature {name}"] = [value]
    for tag in vm.tags:
        found[f"{vm} tag {tag}"] = []
    for name, volume in vm.volumes.items():
        found[f"{vm} volume {name}"] = [volume.size, volume.rw, volume.save_on_stop]
print(json.dumps(found))
"""
# What each lab, and each qube, has of its own.
OF_ITS_OWN = ("uuid", "qid", "xid", "start_time", "mac", "ip", "/etc/machine-id", "/etc/hosts")
UNITS = "for unit in /etc/systemd/system/qubes-dedup-backup*; do unit=$(basename $unit); "
UNITS += "echo $unit $(systemctl is-enabled $unit) $(systemctl is-active $unit); done"
TEMPLATES = ("debian-13-dedup-backup", "debian-13-minimal")
Outcome = dict[str, str]
# Outcomes by way of provisioning, for a comparison when both have been there.
KEPT = PROJECT / ".cache" / "outcome"


def keep(lab: Session, way: str) -> Outcome:
    """Describe a lab, and keep the description for test_parity.py."""
    path = KEPT / f"{way}.json"
    path.unlink(missing_ok=True)
    outcome = describe(lab)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(outcome, indent=0))
    return outcome


def describe(lab: Session) -> Outcome:
    """Return what there is in dom0, in both templates, in the backup and in the storage qube.

    Both templates must be halted.
    """
    outcome: Outcome = {}

    def add(where: str, found: str) -> None:
        outcome.update({f"{where} {key}": str(what) for key, what in json.loads(found).items()})

    places = ("/etc", "/usr", "/var/lib/qubes-dedup-backup")
    add(DOM0, lab.dom0("sudo", "python3", "-c", FILES, "", *places).stdout)
    for line in lab.dom0("sh", "-c", UNITS).stdout.splitlines():
        outcome[f"{DOM0} {line}"] = ""
    add("qubes:", lab.dom0("python3", "-c", QUBES).stdout)
    for name in TEMPLATES:
        root = lab.containers.mounted(
            lab.paths.qubes / "vm-templates" / name / "root.img", f"{name}.outcome"
        )
        try:
            argv = [sys.executable, "-c", FILES, str(root), "/etc", "/usr"]
            add(name, subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
            for line in packages(root):
                outcome[f"{name} package {line}"] = ""
        finally:
            lab.containers.unmount(f"{name}.outcome")
    for name in ("dedup-backup", "dedup-storage"):
        lab.dom0("qvm-start", "--skip-if-running", name)
        places = ("/rw/config", "/rw/dedup-store", "/rw/dedup-server")
        add(name, lab.run(name, "python3", "-c", FILES, "", *places, user="root").stdout)
    return {key: what for key, what in outcome.items() if not key.endswith(OF_ITS_OWN)}


def packages(root: Path) -> list[str]:
    """Return the Debian packages of a mounted template, with versions and states."""
    argv = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show"]
    argv.append("--showformat=${Package} ${Version} ${Status}\\n")
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def differences(one: Outcome, other: Outcome) -> dict[str, tuple[str | None, str | None]]:
    """Return what differs, by key, with both sides; None where there is nothing."""
    return {
        key: (one.get(key), other.get(key))
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key)
    }
