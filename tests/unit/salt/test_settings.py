# SPDX-License-Identifier: GPL-3.0-or-later
"""The Salt formula's settings are the Ansible roles', all of them, with the same defaults."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from testing.paths import PROJECT

FORMULA = PROJECT / "salt" / "dedup-backup"
# The roles that site.yml applies; `verify` has no settings of its own.
ROLES = [path.name for path in sorted((PROJECT / "roles").iterdir()) if path.name != "verify"]


def load(path: Path) -> Any:  # noqa: ANN401 -- YAML
    return yaml.safe_load(path.read_text())


def derived() -> set[str]:
    """Return what the map doesn't take from the pillar: an inventory, or a playbook, decides it."""
    text = (FORMULA / "map.jinja").read_text()
    found = re.search(r"set derived = \[(.*?)\]", text, re.DOTALL)
    assert found
    return set(re.findall(r"'(\w+)'", found[1]))


def options() -> dict[str, Any]:
    merged = dict(groups_options())
    for role in ROLES:
        merged |= load(PROJECT / "roles" / role / "meta/argument_specs.yml")["argument_specs"][
            "main"
        ]["options"]
    return merged


def groups_options() -> dict[str, Any]:
    return dict(load(FORMULA / "settings/groups.yml")["argument_specs"]["main"]["options"])


def groups() -> dict[str, Any]:
    """Return the names of the qubes, and remove_data, with their defaults."""
    return {name: option["default"] for name, option in groups_options().items()}


def test_the_formula_reads_the_roles_own_files() -> None:
    for role in ROLES:
        folder = FORMULA / "settings" / role
        specs = PROJECT / "roles" / role / "meta/argument_specs.yml"
        assert (folder / "options.yml").samefile(specs)


def test_both_front_ends_check_with_one_file() -> None:
    for link in ("playbooks/filter_plugins", "salt/_modules"):
        path = PROJECT / link / "dedup_settings.py"
        assert path.samefile(PROJECT / "module_utils/dedup_settings.py")


def test_pillar_example_has_each_setting_with_its_default() -> None:
    settings = {name: option for name, option in options().items() if name not in derived()}
    wanted = {name: option["default"] for name, option in settings.items()}
    assert load(PROJECT / "salt/pillar.example") == {"dedup-backup": wanted}


def test_what_is_not_set_in_the_pillar_is_no_setting_of_the_playbook_either() -> None:
    """Each is a role's variable that a playbook gives the role, or which way a role is applied."""
    playbooks = "".join(path.read_text() for path in (PROJECT / "playbooks").glob("*.yml"))
    assert derived() <= set(options())
    for name in derived():
        assert f"{name}:" in playbooks, name


def test_groups_are_the_inventory_s() -> None:
    text = (PROJECT / "inventory.example").read_text()
    for group, name in groups().items():
        found = re.search(rf"^\[{group}\]\n(.*)", text, re.MULTILINE)
        if group != "remove_data":
            assert found, group
            assert found[1] == name or (found[1].startswith("#") and name == "")


@pytest.mark.parametrize(
    ("top", "states"),
    [
        ("init", {"backup_template": "install", "backup_qube": "configure", "dom0": "create"}),
        ("install", {"backup_template": "install"}),
        ("configure", {"backup_qube": "configure", "dom0": "configure"}),
        ("remove", {"dom0": "remove"}),
    ],
)
def test_tops_name_the_groups(top: str, states: dict[str, str]) -> None:
    names = groups()
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 -- YAML
    environment.filters["json"] = json.dumps
    template = environment.from_string((FORMULA / f"{top}.top").read_text())

    def rendered(**pillar: str) -> Any:  # noqa: ANN401 -- YAML
        return yaml.safe_load(template.render(pillar={"dedup-backup": pillar}))

    expected = {names.get(key, key): [f"dedup-backup.{state}"] for key, state in states.items()}
    assert rendered() == {"user": expected}
    given = {"backup_template": "t", "backup_qube": "b", "storage_qube": "s"}
    found = rendered(management_template="m", **given)["user"]
    assert set(found) >= {given.get(key, key) for key in states}
    assert ("m" in found) == (top != "configure")
    assert ("s" in found) == (top in ("init", "configure"))


def formula_check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROJECT / "tools/salt_formula.py", folder], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('- unless: "qubes-dedup-backup', '- env: "qubes-dedup-backup', "without a guard"),
        ("{{ slsdotpath }}-configure-secrets", "secrets", "must begin with"),
    ],
)
def test_the_lint_finds_what_it_is_for(tmp_path: Path, old: str, new: str, said: str) -> None:
    for path in FORMULA.glob("*.*"):
        text = path.read_text()
        if path.name == "configure.sls":
            text = text.replace(old, new)
            assert text != path.read_text()
        (tmp_path / path.name).write_text(text)
    done = formula_check(tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert formula_check(FORMULA).returncode == 0


def test_the_installed_tree_has_real_files_only(tmp_path: Path) -> None:
    subprocess.run([PROJECT / "tools/salt-tree.sh", tmp_path], check=True)
    found = list(tmp_path.rglob("*"))
    assert not [path for path in found if path.is_symlink()]
    for name in ("scrypt", "shimctl", "shimctl_lib/cli.py"):
        copy = tmp_path / "dedup-backup/files/dom0" / name
        assert copy.read_bytes() == (PROJECT / "payload/dom0" / name).read_bytes()
    assert (tmp_path / "_utils/dedup_provision/dedup_profile.py").is_file()
