# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the modules as Ansible does: one process each, parameters in, one JSON result out."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from testing.paths import PROJECT

MODULES = ("backup_profile", "qrexec_policy", "qube", "scrypt_shim")

RUNNER = """
import json, runpy, sys
import ansible.module_utils
from ansible.module_utils.testing import patch_module_args
ansible.module_utils.__path__.append(sys.argv[2])
with patch_module_args(json.load(sys.stdin)):
    runpy.run_path(sys.argv[1], run_name="__main__")
"""


# What Ansible itself returns beside a module's own keys; the file's, when one of these is `path`:
# ansible-core module_utils/basic.py AnsibleModule.add_path_info.
COMMON = {"changed", "diff", "invocation", "warnings", "deprecations"}
PATH_INFO = {"uid", "gid", "owner", "group", "mode", "state", "size", "secontext"}


@cache
def documented(module: str) -> set[str]:
    """Return the keys that a module's RETURN tells of."""
    for node in ast.parse((PROJECT / "library" / f"{module}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RETURN":
            return set(yaml.safe_load(ast.literal_eval(node.value)))
    raise AssertionError(f"{module} has no RETURN")


@dataclass
class Modules:
    """The project's modules, run in this environment."""

    env: dict[str, str] = field(default_factory=dict)

    def __call__(self, module: str, /, *, check: bool = False, **params: object) -> dict[str, Any]:
        """Run a module that must succeed and return its result."""
        result = self.run(module, check, params)
        assert not result.get("failed"), result
        added = COMMON | (PATH_INFO if "path" in result else set())
        assert set(result) - added == documented(module)
        return result

    def refused(self, module: str, /, *, check: bool = False, **params: object) -> str:
        """Run a module that must fail and return its message."""
        result = self.run(module, check, params)
        assert result.get("failed"), result
        return str(result["msg"])

    def run(self, module: str, check: bool, params: dict[str, object]) -> dict[str, Any]:
        """Run a module and return its result: it prints one JSON object, and never a traceback."""
        arguments = {**params, "_ansible_check_mode": check, "_ansible_diff": True}
        done = subprocess.run(
            [
                *(sys.executable, "-B", "-c", RUNNER),
                *(str(PROJECT / "library" / f"{module}.py"), str(PROJECT / "module_utils")),
            ],
            input=json.dumps(arguments),
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        result = json.loads(done.stdout)
        assert isinstance(result, dict)
        assert (done.returncode == 0) is not result.get("failed", False)
        return result


class Dom0(Modules):
    """The modules in a dom0, and what its qubesd has on disk."""

    def __init__(self, state: Path, site: Path) -> None:
        """Take the daemon's state folder, and a folder for Python's start-up file."""
        self.state = state
        self.socket = state / "run" / "dom0" / "qubesd.sock"
        library = os.environ.get("QUBESADMIN_DIR", str(PROJECT / "lab" / "dom0"))
        super().__init__(
            {
                "PYTHONPATH": f"{site}{os.pathsep}{library}",
                "TEST_QUBESD_SOCKET": str(self.socket),
            }
        )

    def qubes(self) -> dict[str, dict[str, Any]]:
        """Return all qubes by name, as qubesd stores them."""
        content = json.loads((self.state / "domains.json").read_text())
        return {qube["name"]: qube for qube in content["qubes"]}

    def qube(self, name: str) -> dict[str, Any]:
        """Return one of them."""
        return self.qubes()[name]
