# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, playbooks and examples, seen without running them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.paths import PROJECT

ROLES = sorted(path.name for path in (PROJECT / "roles").iterdir())
QUBE_ROLES = [name for name in ROLES if (PROJECT / f"roles/{name}/tasks/qube.yml").exists()]
PLAYBOOKS = sorted((PROJECT / "playbooks").glob("*.yml"))
BIN = Path(sys.executable).parent
# What a task may have beside its module: those of Ansible's keywords that are in use here.
KEYWORDS = {
    *(
        "name",
        "when",
        "loop",
        "loop_control",
        "register",
        "environment",
        "changed_when",
        "failed_when",
    ),
    *("check_mode", "diff", "become", "delegate_to", "remote_user", "vars", "no_log"),
}


def load(path: str) -> Any:  # noqa: ANN401 - YAML may hold anything
    return yaml.safe_load((PROJECT / path).read_text())


def run(*argv: str) -> str:
    env = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    done = subprocess.run(
        [str(BIN / argv[0]), *argv[1:]],
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    """A role's name."""
    return str(request.param)


def options(role: str) -> dict[str, Any]:
    return dict(load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"])


def test_defaults_are_those_of_the_argument_spec(role: str) -> None:
    documented = {
        name: spec["default"] for name, spec in options(role).items() if "default" in spec
    }
    assert load(f"roles/{role}/defaults/main.yml") == documented


def test_options_without_default_are_required(role: str) -> None:
    for name, spec in options(role).items():
        assert ("default" in spec) is not spec.get("required", False), name


def test_variables_start_with_the_roles_name(role: str) -> None:
    assert all(name.startswith(f"{role}_") for name in options(role))
    private = PROJECT / f"roles/{role}/vars/main.yml"
    if private.exists():
        assert all(name.startswith(f"_{role}_") for name in yaml.safe_load(private.read_text()))


def test_every_option_is_used(role: str) -> None:
    files = [
        path for path in (PROJECT / "roles" / role).rglob("*") if path.suffix in (".yml", ".j2")
    ]
    code = "\n".join(
        path.read_text() for path in files if path.parent.name in ("tasks", "templates")
    )
    assert [name for name in options(role) if name not in code] == []


def actions(tasks: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the module that each task uses, those in blocks too."""
    for task in tasks:
        for key, value in task.items():
            if key in ("block", "rescue", "always"):
                yield from actions(value)
            elif key not in KEYWORDS:
                yield key


@pytest.mark.parametrize("role", QUBE_ROLES)
def test_in_qube_tasks_need_nothing_but_ansible_itself(role: str) -> None:
    """Upstream's qubes_proxy strategy ships a play's roles alone: no library/, no other role."""
    used = set(actions(load(f"roles/{role}/tasks/qube.yml")))
    assert used
    assert {action for action in used if not action.startswith("ansible.builtin.")} == set()
    assert {action for action in used if "_role" in action} == set()
    assert load(f"roles/{role}/meta/main.yml")["dependencies"] == []


def test_payload_is_linked_not_copied(role: str) -> None:
    for path in (PROJECT / "roles" / role / "files").glob("*"):
        assert path.is_symlink(), path
        assert path.resolve().is_relative_to(PROJECT / "payload"), path
        assert path.exists(), path


def test_plays_on_qubes_use_the_strategy_of_qubes() -> None:
    plays = [play for path in PLAYBOOKS for play in yaml.safe_load(path.read_text())]
    on_qubes = [play for play in plays if play.get("hosts", "dom0") != "dom0"]
    assert len(on_qubes) >= 2
    for play in on_qubes:
        assert play["strategy"] == "qubesos.security.qubes_proxy"
        assert set(play) == {"name", "hosts", "strategy", "remote_user", "gather_facts", "roles"}


def test_site_imports_every_step() -> None:
    imported = [play["ansible.builtin.import_playbook"] for play in load("playbooks/site.yml")]
    others = {"site.yml", "verify.yml", "reconcile.yml", "remove.yml"}
    assert set(imported) == {path.name for path in PLAYBOOKS} - others


@pytest.mark.sampled(4)
@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_playbooks_can_be_parsed(playbook: Path) -> None:
    run("ansible-playbook", "-i", "inventory.example", "--syntax-check", str(playbook))


def test_example_inventory_has_one_qube_of_each_kind() -> None:
    inventory = json.loads(run("ansible-inventory", "-i", "inventory.example", "--list"))
    hosts = inventory["_meta"]["hostvars"]
    for group in ("backup_template", "backup_qube"):
        (name,) = inventory[group]["hosts"]
        assert hosts[name]["ansible_connection"] == "qubesos.core.qubes"
    assert hosts["dom0"]["ansible_connection"] == "local"


def test_example_settings_are_the_defaults() -> None:
    known = {name: spec.get("default") for role in ROLES for name, spec in options(role).items()}
    settings = load("group_vars/all.example.yml")
    assert settings == {name: known[name] for name in settings}


def test_settings_to_think_about_are_in_the_example() -> None:
    assert set(load("group_vars/all.example.yml")) >= {
        "backup_template_clone_of",
        "backup_qube_private_size",
        "backup_qube_repositories",
        "backup_profile_profiles",
        "shim_mode",
    }


SCENARIOS = sorted((PROJECT / "molecule").glob("*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[path.parent.name for path in SCENARIOS])
def test_every_molecule_scenario_verifies(scenario: Path) -> None:
    """Molecule takes a scenario without anything to verify for a success."""
    verifier = yaml.safe_load(scenario.read_text()).get("verifier", {})
    if verifier.get("name") == "ansible":
        plays = yaml.safe_load((scenario.parent / "verify.yml").read_text())
        assert all(play["tasks"] for play in plays)
    else:
        folder = verifier.get("directory", str(scenario.parent / "tests"))
        folder = folder.replace("${MOLECULE_PROJECT_DIRECTORY}", str(PROJECT))
        assert list(Path(folder).glob("test_*.py"))
