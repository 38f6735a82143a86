# SPDX-License-Identifier: GPL-3.0-or-later
"""Salt, in a lab of its own: the same as the playbook makes, twice, tested, and what must fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from qubeslab.session import Session

from testing.e2e.lab import INVENTORY
from testing.e2e.outcome import Outcome, keep
from testing.paths import PROJECT

NEWER = "3008.3"
TEMPLATES = "debian-13-dedup-backup,debian-13-minimal"
QUBES = "dedup-storage,dedup-backup"
HAS_TOPD = all(
    Path(os.environ.get("QUBES_SRC", "/dev/null"), name).is_dir()
    for name in ("qubes-mgmt-salt", "qubes-mgmt-salt-base-topd")
)
# Finds what in dom0 is newer than /home/user/before.
CHANGED = ["find", "/etc", "/usr", "-type", "f", "-newer", "/home/user/before"]
CHANGED += ["-not", "-name", "*.pyc"]
States = dict[str, dict[str, Any]]


def apply(
    lab: Session, state: str, *args: str, targets: str = "", version: str = "", ok: bool = True
) -> States:
    """Run `qubesctl state.apply` and return all targets' states by target and id.

    Args:
        lab: where.
        state: which, without `dedup-backup.`.
        args: more arguments of state.apply.
        targets: qubes; dom0 when empty.
        version: Salt's; the stand-in's default when empty.
        ok: whether it must succeed.

    Returns:
        the states, or {"": {"comment": ...}} when there was nothing to run.
    """
    where = ["--skip-dom0", f"--targets={targets}"] if targets else []
    call = ["state.apply", f"dedup-backup.{state}", "saltenv=user", "--out=json"]
    env = [f"SALT_VERSION={version}"] if version else []
    done = lab.dom0("sudo", *env, "qubesctl", *where, *call, *args, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    states: States = {}
    for target, text in re.findall(r"(?:^([\w-]+):\n)?^(\{\n.*?^\})", done.stdout, re.M | re.S):
        found = json.loads(text)["local"]
        if isinstance(found, list):
            return {"": {"comment": "\n".join(found)}}
        states |= {f"{target} {key}": value for key, value in found.items()}
    assert states or not ok, done.stdout + done.stderr
    return states


def changes(states: States) -> dict[str, Any]:
    """Return the changes of each state that has any."""
    return {key: state["changes"] for key, state in states.items() if state["changes"]}


def with_pillar(**settings: object) -> str:
    """Return an argument that sets keys of the pillar."""
    return f"pillar={json.dumps({'dedup-backup': settings})}"


def inventory_as_pillar() -> dict[str, Any]:
    """Return the settings of the end-to-end tests' inventory."""
    inventory = yaml.safe_load((PROJECT / INVENTORY).read_text())["all"]
    groups = inventory["children"]["qubes"]["children"]
    settings = {name: next(iter(group["hosts"])) for name, group in groups.items()}
    variables = {k: v for k, v in inventory["vars"].items() if not k.startswith("ansible_")}
    return settings | variables


@pytest.fixture(scope="module")
def fresh() -> Iterator[Session]:
    """A lab with the formula and its pillar, in which nothing is provisioned yet."""
    lab = Session("e2e-salt")
    lab.lab("down", "--destroy")
    lab.lab("up")
    try:
        install(lab)
        pillar = yaml.safe_dump({"dedup-backup": inventory_as_pillar()})
        put(lab, "/srv/user_pillar/dedup-backup.sls", pillar)
        if HAS_TOPD:
            enable_tops(lab)
        else:
            put(lab, "/srv/user_pillar/top.sls", "user: {'*': [dedup-backup]}\n")
        yield lab
    finally:
        lab.lab("down", "--destroy")


def put(lab: Session, path: str, text: str) -> None:
    """Write a file of dom0."""
    lab.dom0("sudo", "install", "-D", "-m", "0644", "/dev/stdin", path, stdin=text.encode())


def bring(lab: Session, source: Path, target: str, *names: str) -> None:
    """Copy folders, as far as there are any, into a folder of dom0."""
    found = [name for name in names if (source / name).is_dir()]
    pack = ["tar", "--create", "-C", str(source), *found]
    archive = subprocess.run(pack, capture_output=True, check=True).stdout
    lab.dom0("sudo", "tar", "--extract", "--no-same-owner", "-C", target, stdin=archive)


def enable_tops(lab: Session) -> None:
    """Enable the formula and its pillar by upstream's top.enable."""
    put(lab, "/srv/user_pillar/dedup-backup.top", "user: {'*': [dedup-backup]}\n")
    # The second as the package of qubes-mgmt-salt-base-topd does it.
    for words in (["dedup-backup", "saltenv=user"], ["topd", "saltenv=base"]):
        lab.dom0("sudo", "qubesctl", "top.enable", *words)
    lab.dom0("sudo", "qubesctl", "top.enable", "dedup-backup", "saltenv=user", "pillar=True")


def install(lab: Session) -> None:
    """Bring the formula to dom0 as docs/install.md says; with QUBES_SRC, Qubes' own states, too."""
    lab.dom0("sudo", "/srv/qubes-dedup-backup/tools/salt-tree.sh", "/srv/user_salt")
    if source := os.environ.get("QUBES_SRC"):
        lab.dom0("sudo", "rm", "-r", "/srv/salt")
        lab.dom0("sudo", "mkdir", "/srv/salt", "/srv/upstream")
        for name in ("base", "dom0-qvm"):
            parts = "_modules", "_states", "_utils", "_pillar"
            bring(lab, Path(source, f"qubes-mgmt-salt-{name}"), "/srv/salt", *parts)
        if HAS_TOPD:
            topd = Path(source, "qubes-mgmt-salt-base-topd")
            bring(lab, topd.with_name("qubes-mgmt-salt") / "srv", "/srv", "salt", "pillar")
            bring(lab, topd, "/srv/salt", "_modules", "_utils", "topd")
            bring(lab, topd / "pillar", "/srv/pillar", "topd")
        bring(lab, Path(source, "qubes-core-admin-client"), "/srv/upstream", "qubesadmin")
        # The lab's qvm-* tools stay with the lab's library.
        tools = "sed -i '1s,$, -I,' $(grep -l 'from qubesadmin.tools import' /usr/bin/q*)"
        lab.dom0("sudo", "sh", "-c", tools)
    lab.dom0("sudo", "qubesctl", "saltutil.sync_all", "saltenv=base,user")


@pytest.fixture(scope="module")
def tested(fresh: Session) -> States:
    """What test=True says before anything is provisioned; dom0 must stay as it was."""
    before = fresh.dom0("qvm-ls", "--raw-list").stdout
    fresh.dom0("touch", "/home/user/before")
    states = apply(fresh, "create", "test=True")
    assert fresh.dom0("sudo", *CHANGED, check=False).stdout == ""
    assert fresh.dom0("qvm-ls", "--raw-list").stdout == before
    return states


@pytest.fixture(scope="module")
def salted(fresh: Session, tested: States) -> Session:
    """The lab after all steps of docs/install.md."""
    assert tested
    apply(fresh, "create")
    apply(fresh, "install", targets=TEMPLATES)
    apply(fresh, "configure", targets=QUBES)
    apply(fresh, "configure")
    return fresh


@pytest.fixture(scope="module")
def salt_outcome(salted: Session) -> Outcome:
    """What Salt made, before other tests change anything."""
    return keep(salted, "salt-upstream" if "QUBES_SRC" in os.environ else "salt")


def test_from_nothing_test_mode_lists_what_would_be(tested: States) -> None:
    listed = " ".join(changes(tested))
    for part in ("scrypt_shim", "75-dedup-backup.policy", "-clone-", "server.toml"):
        assert part in listed
    for qube in ("dedup-backup", "dedup-storage", "debian-13-dedup-backup"):
        assert f"_|-{qube}_|-qube_possible" in listed
    assert all(state["result"] is None for state in tested.values() if state["changes"])


@pytest.mark.usefixtures("salt_outcome")
def test_second_run_changes_nothing(salted: Session) -> None:
    assert changes(apply(salted, "create")) == {}
    assert changes(apply(salted, "install", targets=TEMPLATES)) == {}
    assert changes(apply(salted, "configure", targets=QUBES)) == {}
    assert changes(apply(salted, "configure")) == {}


@pytest.mark.usefixtures("salt_outcome")
def test_a_later_salt_finds_nothing_to_do(salted: Session) -> None:
    assert changes(apply(salted, "create", version=NEWER)) == {}


@pytest.mark.usefixtures("salt_outcome")
def test_test_mode_tells_a_difference_and_leaves_it(salted: Session) -> None:
    salted.dom0("qvm-prefs", "dedup-backup", "include_in_backups", "True")
    states = apply(salted, "create", "test=True")
    assert ["include_in_backups" in str(change) for change in changes(states).values()] == [True]
    assert salted.dom0("qvm-prefs", "dedup-backup", "include_in_backups").stdout == "True\n"
    apply(salted, "create")
    assert salted.dom0("qvm-prefs", "dedup-backup", "include_in_backups").stdout == "False\n"


@pytest.mark.skipif(not HAS_TOPD, reason="QUBES_SRC has no upstream's top.enable")
def test_tops_that_upstream_s_top_enable_enabled(salted: Session) -> None:
    expected = {
        "dom0": "dedup-backup.create",
        "debian-13-dedup-backup": "dedup-backup.install",
        "debian-13-minimal": "dedup-backup.install",
        "dedup-backup": "dedup-backup.configure",
        "dedup-storage": "dedup-backup.configure",
    }
    # Next, as a disposable that manages a qube does it: qubes-mgmt-salt qubes.SaltLinuxVM.
    listed = "cd /srv/salt && find _tops -type f -o -type l | sed 's/^/- /' >tops.yaml"
    for prepare in ("true", listed):
        salted.dom0("sudo", "sh", "-c", prepare)
        for qube, state in expected.items():
            show = "state.show_top", f"--id={qube}", "--out=json"
            found = json.loads(salted.dom0("sudo", "qubesctl", *show).stdout)
            assert found["local"]["user"] == [state]
    salted.dom0("sudo", "rm", "/srv/salt/tops.yaml")
    done = salted.dom0("sudo", "qubesctl", "state.highstate", "--out=json").stdout
    states = json.loads(done)["local"]
    assert "dedup-backup.create" in {state["__sls__"] for state in states.values()}
    assert changes(states) == {}


@pytest.mark.usefixtures("salt_outcome")
def test_reconcile_puts_the_shim_back(salted: Session) -> None:
    salted.dom0("sudo", "systemctl", "stop", "qubes-dedup-backup-guard.path")
    salted.dom0(
        "sudo", "cp", "-p", "--remove-destination", "/usr/bin/scrypt.bak", "/usr/bin/scrypt"
    )
    assert changes(apply(salted, "reconcile"))
    assert changes(apply(salted, "reconcile")) == {}
    salted.dom0("shimctl", "status")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backup_qube_repositores": []}, "did you mean backup_qube_repositories?"),
        ({"shim_mode": False}, "shim_mode must be text"),
        ({"backup_qube": "@anyvm"}, "backup_qube can't be '@anyvm': use a letter"),
        (
            {"backup_qube_repositories": [{"name": "x"}]},
            "backup_qube_repositories:0:engine is missing",
        ),
        (
            {"backup_qube_repositories": [{"name": "-", "engine": "borg"}]},
            "repositories:0:name can't be '-': use",
        ),
        (
            {
                "backup_qube_repositories": [
                    {"name": "x", "engine": "directory", "location": "qrexec:dedup-storage/x"}
                ]
            },
            "use /FOLDER with the engine directory, which doesn't encrypt",
        ),
        (
            {"backup_profile_profiles": [{"name": "x", "repository": "a; b"}]},
            "backup_profile_profiles:0:repository can't be 'a; b': use",
        ),
    ],
)
def test_a_wrong_pillar_is_refused_with_the_key_s_name(
    salted: Session, settings: dict[str, object], said: str
) -> None:
    found = apply(salted, "reconcile", with_pillar(**settings), ok=False)
    assert said in found[""]["comment"]


@pytest.mark.parametrize(
    ("state", "settings", "said"),
    [
        (
            "clone",
            {"backup_template": "new", "backup_template_clone_of": "none-such"},
            "none-such, which does not exist: install it with `qvm-template install none-such`",
        ),
        ("create", {"backup_qube": "debian-13-minimal"}, "exists and is a TemplateVM, not a AppVM"),
        ("create", {"qrexec_policy_file": "10-x.policy"}, "use a number from 31 on"),
    ],
)
def test_what_can_not_be_done_is_said_as_by_the_playbook(
    salted: Session, state: str, settings: dict[str, object], said: str
) -> None:
    salted.dom0("touch", "/home/user/before")
    before = salted.dom0("qvm-ls", "--raw-list").stdout
    states = apply(salted, state, with_pillar(**settings), ok=False)
    failed = [entry["comment"] for entry in states.values() if entry["result"] is False]
    assert said in failed[0]
    assert changes(states) == {}
    assert salted.dom0("sudo", *CHANGED, check=False).stdout == ""
    assert salted.dom0("qvm-ls", "--raw-list").stdout == before


def test_states_of_a_qube_do_nothing_in_dom0(salted: Session) -> None:
    assert apply(salted, "install", ok=False) == {}


@pytest.mark.usefixtures("salt_outcome")
def test_the_playbook_after_salt_changes_nothing(salted: Session) -> None:
    said = salted.playbook("-i", INVENTORY, "--diff", "playbooks/site.yml")
    assert re.findall(r"^TASK.*\n(?:(?!TASK).*\n)*?changed:.*", said, re.MULTILINE) == []
    assert set(re.findall(r"changed=(\d+)", said)) == {"0"}


def test_remove_keeps_the_data_and_then_takes_it_too(salted: Session) -> None:
    apply(salted, "remove", targets="debian-13-minimal")
    apply(salted, "remove")
    salted.dom0("rpm", "-V", "scrypt")
    left = "/usr/lib/qubes-dedup-backup", "/etc/qubes/policy.d/75-dedup-backup.policy"
    for path in left:
        assert salted.dom0("test", "-e", path, check=False).returncode == 1
    qubes = salted.dom0("qvm-ls", "--raw-list").stdout.split()
    assert {"dedup-backup", "dedup-storage", "debian-13-dedup-backup"} <= set(qubes)
    apply(salted, "remove", with_pillar(remove_data=True))
    assert salted.dom0("qvm-ls", "--raw-list").stdout.split() == ["debian-13-minimal", "dom0"]
    assert salted.dom0("sudo", "ls", "/etc/qubes/backup").stdout == ""
    assert changes(apply(salted, "remove", with_pillar(remove_data=True))) == {}
