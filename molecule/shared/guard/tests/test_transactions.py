# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever dnf and rpm do to scrypt, the shim is back at once: with each trigger alone, and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from testing.guard.dom0 import HOOKS, NEW, OLD, PACKAGE, SECONDS, Dom0, within


class Transaction(NamedTuple):
    """What dnf is told, with which repositories, and what the real scrypt is then."""

    command: str
    repositories: str
    version: str


# In this order: each starts from what the one before left.
TRANSACTIONS = [
    Transaction("upgrade", "lab,new", NEW),
    Transaction("reinstall scrypt", "lab,new", NEW),
    Transaction("downgrade scrypt", "lab", OLD),
    Transaction("distro-sync", "lab,new", NEW),
    Transaction("distro-sync", "lab", OLD),
    Transaction("remove scrypt", "lab", OLD),
    Transaction("install scrypt", "lab,new", NEW),
]


@pytest.fixture(scope="module", params=["dnf", "path", "rpm", "all"])
def trigger(request: pytest.FixtureRequest, clean: Dom0) -> Iterator[str]:
    """The only trigger that is there, or `all`; the RPM isn't installed but for its own."""
    name = str(request.param)
    if name == "path" and not clean.boots:
        pytest.skip("no systemd runs in this dom0")
    clean.clean()
    if name in ("rpm", "all"):
        clean.transaction("install", PACKAGE, repositories="lab,own")
        clean.output("shimctl", "install")
    else:
        clean.lay_down()
    clean.keep_only(name)
    yield name
    clean.clean()


@pytest.mark.parametrize("transaction", TRANSACTIONS, ids=lambda t: f"{t.command}-{t.version}")
def test_shim_is_back(dom0: Dom0, trigger: str, transaction: Transaction) -> None:
    if transaction.command == "remove scrypt" and trigger in ("rpm", "all"):
        # dnf would remove our package with it: see test_package.py.
        dom0.output("rpm", "-e", "--nodeps", "scrypt")
    else:
        dom0.transaction(*transaction.command.split(), repositories=transaction.repositories)
    assert within(SECONDS, lambda: dom0.shim_is_in_place(transaction.version)), dom0.status()
    status = dom0.status()
    problems = [text for text in status["problems"] if "masked" not in text]
    if transaction.command == "remove scrypt":
        assert problems.pop(0).startswith("no package owns /usr/bin/scrypt")
    assert problems == []
    if trigger in ("dnf", "all"):
        assert status["triggers"][dom0.hook]["health"] == "ready"
    fired = {name for name, facts in status["triggers"].items() if facts["last"]}
    if trigger == "all":
        assert fired >= {dom0.hook, "rpm"}
    else:
        assert fired == {dom0.hook if trigger == "dnf" else trigger}


def test_hooks_are_dnfs_own(dom0: Dom0) -> None:
    """Both dnf's read their hooks where we put them: their packages made these folders."""
    folders = [name for name, path in HOOKS.items() if dom0.file(path).parent.is_dir()]
    assert folders == [dom0.hook]
