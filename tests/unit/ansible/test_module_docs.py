# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules' documentation says is what they do."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import ansible.module_utils
import pytest
import yaml

from testing.ansible.modules import MODULES
from testing.paths import PROJECT

COMPARED = ("type", "elements", "choices", "default", "required")


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A module's globals."""
    paths = [*ansible.module_utils.__path__, str(PROJECT / "module_utils")]
    monkeypatch.setattr(ansible.module_utils, "__path__", paths)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return runpy.run_path(str(PROJECT / "library" / f"{request.param}.py"))


def facts(option: dict[str, Any]) -> dict[str, Any]:
    return {"type": "str", "required": False} | {k: option[k] for k in COMPARED if k in option}


def test_all_modules_are_tested_here() -> None:
    assert sorted(path.stem for path in (PROJECT / "library").glob("*.py")) == sorted(MODULES)


def test_options_are_those_of_the_argument_spec(module: dict[str, Any]) -> None:
    documented = yaml.safe_load(module["DOCUMENTATION"])["options"]
    spec = module["ARGUMENT_SPEC"]
    assert {name: facts(option) for name, option in documented.items()} == {
        name: facts(option) for name, option in spec.items()
    }


def test_every_option_is_described(module: dict[str, Any]) -> None:
    options = yaml.safe_load(module["DOCUMENTATION"])["options"]
    assert all(option["description"] for option in options.values())


def test_examples_fit_the_argument_spec(module: dict[str, Any]) -> None:
    name = yaml.safe_load(module["DOCUMENTATION"])["module"]
    examples = yaml.safe_load(module["EXAMPLES"])
    assert examples
    for task in examples:
        params, spec = task[name], module["ARGUMENT_SPEC"]
        assert set(params) <= set(spec), task["name"]
        assert {option for option in spec if spec[option].get("required")} <= set(params)
        for option, value in params.items():
            assert value in spec[option].get("choices", [value])


def test_returned_keys_are_documented(module: dict[str, Any]) -> None:
    for key, described in yaml.safe_load(module["RETURN"]).items():
        assert {"description", "returned", "type", "sample"} <= set(described), key
