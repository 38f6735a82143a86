# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `qrexec_policy`: what it tells of other files of policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.ansible.modules import Modules
from testing.ansible.policy_dom0 import ALLOW, DENY, NAME, Dom0, overridden, warnings


@pytest.fixture
def dom0(modules: Modules, tmp_path: Path) -> Dom0:
    """A dom0 without policy."""
    return Dom0(modules, tmp_path / "dom0")


@pytest.mark.parametrize(
    ("earlier", "rule", "entirely"),
    [
        ("test.A * work vault allow", DENY, False),
        ("* * @anyvm @anyvm allow", DENY, False),
        ("* * * * allow", DENY, True),
        ("test.A * @anyvm @anyvm deny", ALLOW, True),
        ("test.A * @tag:x vault deny", ALLOW, False),
        ("test.A * work vault ask", ALLOW, True),
        ("test.A +x work vault allow user=root", ALLOW, True),
        ("test.A * work @type:AppVM deny", ALLOW, False),
    ],
)
def test_an_earlier_rule_that_overrides_is_told(
    dom0: Dom0, earlier: str, rule: str, entirely: bool
) -> None:
    dom0.write("30-user.policy", f"# mine\n\n{earlier}\n")
    for check in (True, False):
        result = dom0(rule, check=check)
        assert overridden(result) == [(rule, "30-user.policy:3", entirely)]
        extent = "all" if entirely else "some"
        assert f"decides otherwise about {extent} calls" in warnings(result)
        assert f"{dom0.folder}/30-user.policy:3 comes before" in warnings(result)


@pytest.mark.parametrize(
    ("earlier", "rule"),
    [
        ("test.A * work vault deny", DENY),
        ("test.A * work vault deny notify=no", DENY),
        ("test.A * work vault allow autostart=yes notify=yes", ALLOW),
        ("test.B * * * allow", DENY),
        ("test.A +y * * deny", ALLOW),
        ("test.A * other vault deny", ALLOW),
        ("test.A * work dom0 deny", ALLOW),
        ("test.A * work @default deny", ALLOW),
        ("test.A * work @dispvm deny", ALLOW),
        ("test.A * @type:AdminVM vault deny", ALLOW),
    ],
)
def test_an_earlier_rule_that_does_not_is_not(dom0: Dom0, earlier: str, rule: str) -> None:
    dom0.write("30-user.policy", f"{earlier}\n")
    result = dom0(rule)
    assert overridden(result) == []
    assert warnings(result) == ""


def test_rules_of_later_files_and_of_the_old_file_are_not(dom0: Dom0) -> None:
    dom0.write(NAME, "test.A * * * allow\n")
    dom0.write("75-test2.policy", "test.A * * * allow\n")
    dom0.write("90-default.policy", "test.A * * * allow\n")
    assert overridden(dom0(DENY)) == []


def test_after_a_rule_that_covers_it_none_counts(dom0: Dom0) -> None:
    dom0.write("40-a.policy", "test.A * * * deny\n")
    dom0.write("50-b.policy", "test.A * * * allow\n")
    assert overridden(dom0(DENY)) == []


def test_overrides_in_included_files_are_told(dom0: Dom0) -> None:
    dom0.write("include/one", "\ntest.A * work vault deny\n")
    dom0.write("include/more/a.policy", "test.A * work vault ask\n")
    dom0.write("include/old", "# old\n$include:include/older\n")
    dom0.write("include/older", "work vault allow,user=root\n")
    dom0.write(
        "30-user.policy",
        "!include include/one\n!include-dir include/more\n!include-service test.A * include/old\n",
    )
    result = dom0("test.A +x work vault allow", DENY)
    assert overridden(result) == [
        (ALLOW, "include/one:2", True),
        (DENY, "include/more/a.policy:1", False),
        (DENY, "include/older:1", False),
    ]


def test_overrides_in_files_of_qubes_40_are_told(dom0: Dom0) -> None:
    dom0.write("35-compat.policy", "!compat-4.0\n")
    old = "etc/qubes-rpc/policy"
    dom0.write("test.A", "work vault allow\n", old)
    dom0.write("test.A+y", "work vault allow\n", old)
    dom0.write("test.A.rpmsave", "nonsense\n", old)
    result = dom0(DENY, "test.A +y work vault allow")
    assert [(e["rule"], Path(e["by"]).name, e["entirely"]) for e in result["overridden"]] == [
        (DENY, "test.A+y:1", False),
        (DENY, "test.A:1", False),
    ]
    result = dom0("test.A +y vault work allow")
    assert [Path(entry["by"]).name for entry in result["overridden"]] == ["test.A+y"]


def test_a_file_in_run_that_takes_its_place_is_told(dom0: Dom0) -> None:
    instead = dom0.write(NAME, "test.A * * * deny\n", "run/qubes/policy.d")
    for check in (True, False):
        result = dom0(DENY, check=check)
        assert f"{instead} takes the place of {dom0.path}" in warnings(result)
        assert overridden(result) == [(DENY, NAME, True)]
    instead.unlink()
    assert overridden(dom0(DENY)) == []


def test_a_file_in_run_replaces_the_earlier_file_of_its_name(dom0: Dom0) -> None:
    dom0.write("30-user.policy", "test.A * work vault allow\n")
    dom0.write("30-user.policy", "\n\ntest.A * work vault ask\n", "run/qubes/policy.d")
    result = dom0(DENY)
    assert [entry["by"] for entry in result["overridden"]] == [
        f"{dom0.root}/run/qubes/policy.d/30-user.policy:3"
    ]


def test_without_a_folder_in_run_as_before_r43(dom0: Dom0) -> None:
    (dom0.root / "run/qubes/policy.d").rmdir()
    assert dom0(DENY)["changed"]


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("30-a.policy", "# x\ntest.A * work\n", "30-a.policy:2: it needs service"),
        ("90-a.policy", "!include include/gone\n", "90-a.policy:1: "),
        ("90-a.policy", "!include-dir include/gone\n", "90-a.policy:1: "),
        ("90-a.policy", "!include-service te$t * include/a\n", "90-a.policy:1: service"),
        ("90-a.policy", "!nonsense\n", "90-a.policy:1: '!nonsense' isn't a directive"),
        ("90-a.policy", "!compat-4.0 x\n", "90-a.policy:1: "),
        ("90-a.policy", "!include 90-a.policy\n", "90-a.policy:1: files include each other"),
        ("90-A.policy", "", "90-A.policy: no policy file may have such a name"),
        ("90-a.policy", "* * * * allow\x1b[31m\n", "90-a.policy:1: 'allow?[31m' isn't an action"),
    ],
)
def test_errors_in_other_files_are_told(dom0: Dom0, name: str, text: str, error: str) -> None:
    dom0.write(name, text)
    result = dom0(DENY)
    assert result["changed"]
    assert len(result["errors"]) == 1
    assert error in result["errors"][0].replace("\\x1b", "?")
    assert "Qubes denies every call until you correct this" in warnings(result)


def test_an_error_does_not_hide_what_overrides(dom0: Dom0) -> None:
    dom0.write("30-a.policy", "nonsense\ntest.A * work vault allow\n")
    result = dom0(DENY)
    assert overridden(result) == [(DENY, "30-a.policy:2", False)]


def test_a_broken_file_of_ours_is_mended(dom0: Dom0) -> None:
    dom0.path.write_bytes(b"\xff nonsense\n")
    result = dom0(DENY)
    assert (result["changed"], result["errors"]) == (True, [])
    assert len(dom0.rules()) == 1


def test_many_warnings_are_bounded(dom0: Dom0) -> None:
    dom0.write("30-a.policy", "nonsense\n" * 100)
    result = dom0(DENY)
    assert len(result["errors"]) == 100
    assert len(result["warnings"]) == 10
