# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab whose dom0 has upstream's qubes-ansible and client library in place of the lab's.

They are installed as upstream's own Makefile does, into a folder, and from there into the lab. dom0
runs ansible-core 2.16, as in Fedora 41, unless a test wants Debian 13's 2.19, which the management
qubes have. In place of management disposables there are app qubes of the same names: upstream's
strategy uses a qube that is there already, and the lab has no disposables.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qubeslab.paths import BASE_TEMPLATE, DOM0
from qubeslab.session import Session

from testing.upstream.sources import PYTHON, Sources

INVENTORY = "tests/e2e/inventory/hosts.yml"
MANAGEMENT = "management-template"
LIBRARY = "usr/lib/python3/dist-packages"
ANSIBLE = "usr/local/lib/ansible-2.16"
TOOLS = ("qvm-ls", "qvm-run", "qvm-start", "qvm-shutdown", "qvm-prefs", "qubes-prefs")
# qubes_proxy.py: dispvm_mgmt_name, DISPVM_NAME_MAXLEN
NAME_MAX = 31


def disposable(host: str) -> str:
    """Return the name that upstream's strategy gives to the disposable of a qube."""
    return f"disp-mgmt-{host}"[:NAME_MAX]


@contextmanager
def ansible_lab(folder: Path, sources: Sources, hosts: list[str]) -> Iterator[Session]:
    """Start a lab with upstream's Ansible parts.

    Args:
        folder: an empty folder.
        sources: the checkouts.
        hosts: the qubes that plays will run on.
    """
    lab = Session("upstream")
    lab.lab("down", "--destroy")
    lab.lab("up")
    try:
        _make_disposables(lab, _install(folder / "vm", sources, "vm"), hosts)
        _make_dom0(lab, _install(folder / DOM0, sources, DOM0))
        yield lab
    finally:
        lab.lab("down", "--destroy")


def _install(root: Path, sources: Sources, part: str) -> Path:
    """Lay upstream's files for dom0, or for a qube, into a folder that stands for its root."""
    ansible = sources.checkouts / "qubes-ansible"
    targets = ["install-common", f"install-{part}"]
    subprocess.run(["make", "-s", "-C", ansible, f"DESTDIR={root}", *targets], check=True)
    client = sources.copies / "qubes-core-admin-client"
    (root / LIBRARY).mkdir(parents=True)
    for path in (client / "qubesadmin", *client.glob("*.egg-info")):
        subprocess.run(["cp", "-r", path, root / LIBRARY], check=True)
    (root / "usr/bin").mkdir()
    for name in TOOLS:
        tool = root / "usr/bin" / name
        module = f"qubesadmin.tools.{name.replace('-', '_')}"
        tool.write_text(
            f"#!/usr/bin/python3\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
        )
        tool.chmod(0o755)
    if part == DOM0:
        _install_ansible(root)
        _write_policy(root / "etc/qubes/policy.d", sources)
    return root


def _install_ansible(root: Path) -> None:
    """Lay down the other ansible-playbook; what it needs itself it takes from Debian's."""
    (root / ANSIBLE).mkdir(parents=True)
    (packages,) = PYTHON.parents[1].glob("lib/python3*/site-packages")
    subprocess.run(["cp", "-r", packages / "ansible", root / ANSIBLE], check=True)
    (root / "usr/local/bin").mkdir()
    program = root / "usr/local/bin/ansible-playbook"
    program.write_text(
        f"#!/usr/bin/python3\nimport sys\nsys.path.insert(0, '/{ANSIBLE}')\n"
        "from ansible.cli.playbook import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)


def _write_policy(folder: Path, sources: Sources) -> None:
    """Lay down upstream's policy for the Admin API: `make install` of qubes-core-admin."""
    shipped = sources.copies / "qubes-core-admin/qubes-rpc-policy"
    (folder / "include").mkdir(parents=True)
    for name in ("admin-global-ro", "admin-global-rwx", "admin-local-ro", "admin-local-rwx"):
        (folder / "include" / name).write_bytes((shipped / name).read_bytes())
    subprocess.run(
        [
            *(PYTHON, shipped / "generate-admin-policy"),
            f"--dest={folder / '90-admin-default.policy'}",
            f"--header={shipped / '90-admin-default.policy.header'}",
        ],
        check=True,
        env={"PYTHONPATH": sources.python_path},
    )


def _copy(lab: Session, qube: str, root: Path) -> None:
    pack = ["tar", "-C", str(root), "--owner=0", "--group=0", "-c", "."]
    packed = subprocess.run(pack, check=True, stdout=subprocess.PIPE).stdout
    unpack = ("tar", "-C", "/", "--no-overwrite-dir", "-x")
    lab.run(qube, *unpack, stdin=packed, user="root")


def _make_dom0(lab: Session, root: Path) -> None:
    collections = "/usr/share/ansible/collections"
    lab.run(DOM0, "rm", "-r", f"/{LIBRARY}/qubesadmin", collections, user="root")
    _copy(lab, DOM0, root)
    for command in (
        ("ln", "-s", "/usr/bin/qrexec-client", "/usr/lib/qubes/qrexec-client"),
        ("chgrp", "-R", "qubes", "/etc/qubes/policy.d"),
        ("chmod", "-R", "g+w", "/etc/qubes/policy.d"),
        # A clone's menu entries are made by it: qubes-desktop-linux-common.
        ("ln", "-s", "/bin/true", "/usr/bin/qvm-appmenus"),
        ("mkdir", "-p", "/etc/ansible"),
        ("/usr/lib/qubes/update-ansible-default-strategy",),
    ):
        lab.run(DOM0, *command, user="root")


def _make_disposables(lab: Session, root: Path, hosts: list[str]) -> None:
    lab.dom0("qvm-clone", BASE_TEMPLATE, MANAGEMENT)
    lab.dom0("qvm-start", MANAGEMENT)
    for command in (
        ("apt-get", "-qq", "update"),
        ("apt-get", "-qq", "install", "--yes", "--no-install-recommends", "ansible-core"),
    ):
        lab.run(MANAGEMENT, "env", "DEBIAN_FRONTEND=noninteractive", *command, user="root")
    _copy(lab, MANAGEMENT, root)
    lab.dom0("qvm-shutdown", "--wait", MANAGEMENT)
    for host in hosts:
        create = ("qvm-create", "--class=AppVM", "--label=red", f"--template={MANAGEMENT}")
        lab.dom0(*create, disposable(host))


def project(lab: Session, files: dict[str, str]) -> str:
    """Write a small Ansible project in dom0 and return its folder."""
    folder = lab.dom0("mktemp", "--directory").stdout.strip()
    for name, text in files.items():
        lab.dom0("mkdir", "-p", str(Path(folder, name).parent))
        lab.dom0("tee", f"{folder}/{name}", stdin=text.encode())
    return folder
