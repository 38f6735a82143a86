# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `scrypt_shim`, with the real shimctl below a folder of the test's own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from testing.ansible.modules import Modules
from testing.paths import PROJECT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")

SHIMCTL = PROJECT / "payload" / "dom0" / "shimctl"


def real_scrypt() -> Path:
    for path in (Path("/usr/bin/scrypt.bak"), Path("/usr/bin/scrypt")):
        if path.exists() and path.read_bytes()[:4] == b"\x7fELF":
            return path
    raise AssertionError("these tests need the scrypt package")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with scrypt, as its package left it."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    shutil.copy2(real_scrypt(), tmp_path / "usr/bin/scrypt")
    return tmp_path


def options(root: Path, shimctl: Path = SHIMCTL) -> dict[str, Any]:
    return {"shimctl": str(shimctl), "root": str(root)}


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_installs_and_removes(modules: Modules, root: Path) -> None:
    shipped = files(root)
    params = options(root)
    announced = modules("scrypt_shim", check=True, **params)
    assert announced["changed"]
    assert files(root) == shipped
    installed = modules("scrypt_shim", **params)
    assert installed["changed"]
    assert installed["diff"] == announced["diff"]
    assert installed["diff"]["before"]["installed"] == "no"
    assert installed["diff"]["after"]["installed"] == "yes"
    assert installed["steps"]
    assert (root / "usr/bin/scrypt").read_bytes() == (PROJECT / "payload/dom0/scrypt").read_bytes()
    assert (root / "usr/bin/scrypt.bak").read_bytes() == shipped["usr/bin/scrypt"]
    for check in (True, False):
        again = modules("scrypt_shim", check=check, **params)
        assert (again["changed"], again["steps"]) == (False, [])
        assert again["diff"] == {"before": {}, "after": {}}
    for check, changed in ((True, True), (False, True), (False, False)):
        removed = modules("scrypt_shim", check=check, state="absent", **params)
        assert removed["changed"] is changed
    assert files(root) == shipped


def test_mode_is_set_and_else_kept(modules: Modules, root: Path) -> None:
    params = options(root)
    assert modules("scrypt_shim", mode="off", **params)["diff"]["after"]["mode"] == "off"
    config = root / "etc/qubes-dedup-backup/scrypt.conf"
    assert "\nmode = off\n" in config.read_text()
    assert not modules("scrypt_shim", **params)["changed"]
    result = modules("scrypt_shim", mode="authenticated", **params)
    assert result["diff"] == {"before": {"mode": "off"}, "after": {"mode": "authenticated"}}
    assert "\nmode = authenticated\n" in config.read_text()


def test_mode_that_wrote_in_clear_is_refused_and_told(modules: Modules, root: Path) -> None:
    params = options(root)
    assert "authenticated" in modules.refused("scrypt_shim", mode="plain", **params)
    modules("scrypt_shim", **params)
    config = root / "etc/qubes-dedup-backup/scrypt.conf"
    config.write_text("mode = plain\n")
    for state in ("present", "reconciled"):
        assert "in clear" in modules.refused("scrypt_shim", state=state, **params)
    assert config.read_text() == "mode = plain\n"
    result = modules("scrypt_shim", mode="authenticated", **params)
    assert result["diff"]["after"] == {"mode": "authenticated"}
    assert any("in clear" in step for step in result["steps"])


def test_method_is_set_and_else_kept(modules: Modules, root: Path) -> None:
    params = options(root)
    for check in (True, False):
        result = modules("scrypt_shim", check=check, method="path", **params)
        assert result["diff"]["after"]["method"] == "path"
    assert (root / "usr/local/bin/scrypt").exists()
    assert not (root / "usr/bin/scrypt.bak").exists()
    assert not modules("scrypt_shim", **params)["changed"]
    result = modules("scrypt_shim", method="replace", **params)
    assert (result["changed"], result["diff"]["after"]["method"]) == (True, "replace")
    assert not modules("scrypt_shim", method="replace", **params)["changed"]


def test_reconciles_what_an_update_overwrote(modules: Modules, root: Path) -> None:
    params = options(root)
    assert not modules("scrypt_shim", state="reconciled", **params)["changed"]
    modules("scrypt_shim", **params)
    shutil.copy2(real_scrypt(), root / "usr/bin/scrypt")
    assert modules("scrypt_shim", check=True, state="reconciled", **params)["changed"]
    assert modules("scrypt_shim", state="reconciled", **params)["changed"]
    assert b"scrypt shim" in (root / "usr/bin/scrypt").read_bytes()
    assert not modules("scrypt_shim", state="reconciled", **params)["changed"]


def test_what_shimctl_refuses_is_told(modules: Modules, root: Path) -> None:
    (root / "usr/bin/scrypt").write_text("#!/bin/sh\nexit 0\n")
    before = files(root)
    for check in (True, False):
        message = modules.refused("scrypt_shim", check=check, shimctl=str(SHIMCTL), root=str(root))
        assert "neither scrypt nor the shim" in message
    assert files(root) == before


def test_mode_and_method_go_with_present_alone(modules: Modules, root: Path) -> None:
    for name, value in (("mode", "off"), ("method", "path")):
        params = {name: value, "root": str(root)}
        message = modules.refused("scrypt_shim", state="absent", **params)
        assert message == f"{name} goes with state=present only"


def test_before_shimctl_is_laid_down(modules: Modules, root: Path) -> None:
    params = options(root, root / "nothing")
    announced = modules("scrypt_shim", check=True, mode="off", **params)
    assert announced["changed"]
    assert announced["diff"]["after"] == {"installed": "yes", "mode": "off"}
    assert not modules("scrypt_shim", state="absent", **params)["changed"]
    for state in ("present", "reconciled"):
        message = modules.refused("scrypt_shim", state=state, **params)
        assert "apply the role shim first" in message


def test_another_program_in_shimctls_place(modules: Modules, root: Path) -> None:
    program = root / "shimctl"
    program.write_text("#!/bin/sh\necho hello\necho oops >&2\nexit 1\n")
    program.chmod(0o755)
    message = modules.refused("scrypt_shim", shimctl=str(program), root=str(root))
    assert "did not answer as expected (exit status 1): oops" in message
