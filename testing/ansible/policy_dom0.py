# SPDX-License-Identifier: GPL-3.0-or-later
"""A dom0 with policy, for the tests of the module `qrexec_policy`."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

from qubeslab.policy import Loader, Rule
from qubeslab.policy_files import Dom0Files

from testing.ansible.modules import Modules

NAME = "75-test.policy"
ALLOW = "test.A +x work vault allow"
DENY = "test.A * * * deny"


class Dom0:
    """A folder with dom0's policy."""

    def __init__(self, modules: Modules, root: Path) -> None:
        """Make the folders that Qubes R4.3 has."""
        self.modules, self.root = modules, root
        for folder in ("etc/qubes/policy.d/include", "etc/qubes-rpc/policy", "run/qubes/policy.d"):
            (root / folder).mkdir(parents=True)
        self.folder = root / "etc/qubes/policy.d"
        self.path = self.folder / NAME
        self.owner = pwd.getpwuid(os.getuid()).pw_name
        self.group = grp.getgrgid(os.getgid()).gr_name

    def params(self, *rules: str, **more: object) -> dict[str, Any]:
        """Return the module's parameters."""
        params: dict[str, Any] = {"name": NAME, "root": str(self.root), "rules": list(rules)}
        return params | {"owner": self.owner, "group": self.group} | more

    def __call__(self, *rules: str, check: bool = False, **more: object) -> dict[str, Any]:
        """Run the module, which must succeed."""
        return self.modules("qrexec_policy", check=check, **self.params(*rules, **more))

    def refused(self, *rules: str, **more: object) -> str:
        """Run the module, which must fail and change nothing, and return its message."""
        before = self.tree()
        message = self.modules.refused("qrexec_policy", **self.params(*rules, **more))
        assert self.tree() == before
        return message

    def write(self, name: str, text: str, folder: str = "etc/qubes/policy.d") -> Path:
        """Write another file of policy."""
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def tree(self) -> dict[str, tuple[int, int, bytes]]:
        """Return all files with inode, mode and content."""
        return {
            str(path): (path.stat().st_ino, path.stat().st_mode, path.read_bytes())
            for path in self.root.rglob("*")
            if path.is_file()
        }

    def rules(self) -> list[Rule]:
        """Return all rules as the lab's evaluator reads them."""
        return Loader(Dom0Files(self.root)).load()


def warnings(result: dict[str, Any]) -> str:
    return "\n".join(map(str, result.get("warnings", [])))


def overridden(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return rule, by and entirely of each, with the folder cut off."""
    return [
        (entry["rule"], entry["by"].rpartition("policy.d/")[2], entry["entirely"])
        for entry in result["overridden"]
    ]
