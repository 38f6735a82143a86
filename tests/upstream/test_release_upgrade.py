# SPDX-License-Identifier: GPL-3.0-or-later
"""What QubesOS/qubes-dist-upgrade does to dom0 and templates is what docs/upgrades.md tells of it.

The steps that touch us are replayed in molecule/shared/guard/tests/test_release_upgrade.py. A new
step of upstream's makes this red: find out what it does to the shim and the guard, and add it.
"""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from testing.paths import PROJECT
from testing.upstream.sources import VARIABLE

NAME = "qubes-dist-upgrade"
FILES = {
    "qubes-dist-upgrade.sh",
    "scripts/qubes-dist-upgrade-r4.2.sh",  # from R4.1, which we never supported
    "scripts/qubes-dist-upgrade-r4.3.sh",
    "scripts/qubes-dist-upgrade-r4.3-minimal-sys.py",  # features of qubes with devices
    "scripts/qubes-dist-upgrade-r4.3-pci.py",  # their assignments
    "scripts/qubes-dist-upgrade-r4.3-vm.sh",
    "scripts/upgrade-template-standalone.sh",  # for R4.2
}
# Programs that change units, packages, files, volumes or qubes.
PROGRAM = re.compile(
    r"(?<![\w/.'-])(systemctl|dnf|rpm|rpmkeys|qubes-dom0-update|qubes-vm-update|qubesctl|apt-get"
    r"|apt|dpkg(?:-\w+)?|mv|cp|rm|ln|sed -i|install|tee|chmod|chown|truncate|lv\w+|vg\w+|pv\w+"
    r"|qvm-(?:shutdown|volume|remove|clone|service)|qubes-prefs|pkill|kill|usermod|groupmod"
    r"|alternatives|update-alternatives|authselect|restorecon|fixfiles|setenforce|dracut|grub2?-\w+"
    r"|qrexec-legacy-convert|crontab|pip3?|python3?)(?= |$)([^;|&]*)"
)
WRITE = re.compile(r"(?<![\d&])>>?\s*(?!/dev/null)\"?(/[\w./-]+)")
SEARCH_PATH = re.compile(r"\bPATH=\S*")
READING = (
    *("lvs", "vgs", "rpm -q", "rpm --qf", "systemctl is-active", "systemctl list-units"),
    *("qubes-prefs updatevm", "qvm-volume info"),
)
# Each step, with how often it stands in the script.
DOM0 = {
    "dnf distro-sync": 2,
    "dnf swap": 2,
    "lvcreate": 1,
    "lvmdevices": 1,
    "lvremove": 2,
    "mv": 1,
    "mv /etc/yum.repos.d/qubes-dom0.repo.rpmnew": 1,
    "pkill xscreensaver": 1,
    "qubes-dom0-update": 3,
    "qubes-dom0-update qubes-release": 1,
    "qubes-prefs": 2,
    "qubes-prefs default-kernel": 1,
    "qubes-vm-update": 3,
    "qubesctl saltutil.clear_cache": 1,
    "qubesctl saltutil.sync_all": 1,
    "qubesctl state.apply": 1,
    "qubesctl top.enable": 1,
    "qvm-shutdown": 5,
    "qvm-volume revert": 1,
    "rm": 2,
    "rpm --import": 2,
    "systemctl enable": 1,
    "systemctl preset-all": 1,
    "systemctl start": 1,
    "vgimportdevices": 1,
}
QUBE = {
    "> /etc/apt/sources.list.d/qubes-r4-testing.list": 1,
    "apt-get clean": 1,
    "apt-get dist-upgrade": 1,
    "apt-get update": 1,
    "cp /etc/apt/sources.list.d/qubes-r4.list": 1,
    "cp /etc/yum.repos.d/qubes-r4.repo": 1,
    "dnf clean": 1,
    "dnf distro-sync": 1,
    "rm /etc/apt/sources.list.d/qubes-r4-testing.list": 1,
    "sed -i /etc/apt/sources.list.d/qubes-r4.list": 2,
    "sed -i /etc/yum.repos.d/qubes-r4.repo": 2,
}


@pytest.fixture(scope="module")
def checkout() -> Path:
    """Return the folder of upstream's scripts."""
    folder = Path(os.environ[VARIABLE]) / NAME
    if not folder.is_dir():
        pytest.skip(f"{VARIABLE} has no checkout of {NAME}")
    return folder


def steps(script: Path) -> Counter[str]:
    """Return what a script calls that could touch us, each with its first word or file."""
    found: Counter[str] = Counter()
    for line in re.sub(r"\\\n\s*", "", script.read_text()).splitlines():
        text = line.strip()
        if text.startswith(("#", "echo ")):
            continue
        for program, rest in PROGRAM.findall(text):
            words = rest.split()
            verb = [w for w in words if re.fullmatch(r"/?[a-z][\w./-]*|--import|-q|--qf", w)]
            found[" ".join([program, *verb[:1]])] += 1
        found.update(f"> {path}" for path in WRITE.findall(text))
        found.update(SEARCH_PATH.findall(text))
    return found


def test_it_has_no_other_scripts(checkout: Path) -> None:
    scripts = {*checkout.glob("*.sh"), *checkout.glob("scripts/*")}
    assert {str(path.relative_to(checkout)) for path in scripts} == FILES


def test_dom0s_steps_are_those_that_we_know(checkout: Path) -> None:
    found = steps(checkout / "scripts/qubes-dist-upgrade-r4.3.sh")
    assert {key: n for key, n in found.items() if not key.startswith(READING)} == DOM0
    assert not steps(checkout / "qubes-dist-upgrade.sh")


def test_templates_steps_are_those_that_we_know(checkout: Path) -> None:
    assert steps(checkout / "scripts/qubes-dist-upgrade-r4.3-vm.sh") == QUBE


def test_docs_tell_of_each() -> None:
    text = (PROJECT / "docs/upgrades.md").read_text()
    assert [step for step in DOM0 if f"`{step}" not in text] == []
