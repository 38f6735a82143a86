# SPDX-License-Identifier: GPL-3.0-or-later
"""A qube's firewall; qubesadmin/firewall.py. Rules stay in the API's form: qubesd checks them."""

from __future__ import annotations

from collections.abc import Iterable

from qubesadmin.base import Value


class Rule:
    """One rule, such as `action=accept dst4=1.2.3.4/32 proto=tcp dstports=80-80`."""

    def __init__(self, rule: str) -> None:
        """Take its text."""
        self.rule = rule

    def __str__(self) -> str:
        """Return its text."""
        return self.rule

    def __eq__(self, other: object) -> bool:
        """Compare texts."""
        return str(self) == str(other)

    def __hash__(self) -> int:
        """Hash the text."""
        return hash(self.rule)


class Firewall:
    """The rules of a qube."""

    def __init__(self, vm: Value) -> None:
        """Take the qube."""
        self.vm = vm

    @property
    def rules(self) -> list[Rule]:
        """The rules, in order."""
        answer = self.vm.qubesd_call(None, "admin.vm.firewall.Get").decode()
        return [Rule(line) for line in answer.splitlines()]

    @rules.setter
    def rules(self, value: Iterable[object]) -> None:
        self.save_rules(value)

    def save_rules(self, rules: Iterable[object]) -> None:
        """Replace the rules."""
        text = "".join(f"{rule}\n" for rule in rules)
        self.vm.qubesd_call(None, "admin.vm.firewall.Set", None, text.encode("ascii"))

    @property
    def policy(self) -> str:
        """What happens to everything that no rule matches."""
        return "drop"

    def reload(self) -> None:
        """Apply the rules again."""
        self.vm.qubesd_call(None, "admin.vm.firewall.Reload")
