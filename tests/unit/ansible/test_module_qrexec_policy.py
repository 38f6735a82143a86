# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `qrexec_policy`, on folders of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testing.ansible.modules import Modules
from testing.ansible.policy_dom0 import ALLOW, DENY, NAME, Dom0

LINT = """#!/bin/sh
echo "$@" > {folder}/arguments
cat > {folder}/stdin
echo '-:1: error: not as I like it'
exit {status}
"""


@pytest.fixture
def dom0(modules: Modules, tmp_path: Path) -> Dom0:
    """A dom0 without policy."""
    return Dom0(modules, tmp_path / "dom0")


def test_written_as_qubes_reads_it(dom0: Dom0) -> None:
    result = dom0("# why", ALLOW, "", "test.A   *\t* * deny notify=no")
    assert (result["changed"], result["overridden"], result["errors"]) == (True, [], [])
    assert result["path"] == str(dom0.path)
    assert dom0.path.read_text().splitlines()[1:] == [
        "# why",
        "test.A +x work vault allow",
        "",
        "test.A *  *    *     deny notify=no",
    ]
    assert [(rule.action, rule.source) for rule in dom0.rules()] == [
        ("allow", "work"),
        ("deny", "*"),
    ]
    assert dom0.path.stat().st_mode & 0o7777 == 0o664
    assert [path.name for path in dom0.folder.iterdir() if path.is_file()] == [NAME]


def test_second_run_changes_nothing(dom0: Dom0) -> None:
    dom0(ALLOW, DENY)
    before = dom0.tree()
    for check in (False, True):
        result = dom0(ALLOW, DENY, check=check)
        assert not result["changed"]
        (diff,) = result["diff"]
        assert diff["before"] == diff["after"]
    assert dom0.tree() == before


def test_check_mode_tells_and_changes_nothing(dom0: Dom0) -> None:
    first = dom0(ALLOW, check=True)
    assert first["changed"]
    assert dom0.tree() == {}
    assert dom0(ALLOW)["diff"] == first["diff"]
    assert dom0(state="absent", check=True)["changed"]
    assert dom0.path.exists()


def test_diff_is_the_whole_file(dom0: Dom0) -> None:
    dom0(ALLOW)
    old = dom0.path.read_text()
    (diff,) = dom0(DENY)["diff"]
    assert (diff["before"], diff["after"]) == (old, dom0.path.read_text())
    assert diff["before_header"] == diff["after_header"] == str(dom0.path)


def test_replaced_in_one_step(dom0: Dom0) -> None:
    dom0(ALLOW)
    with dom0.path.open() as old:
        before = old.read()
        dom0(DENY)
        old.seek(0)
        assert old.read() == before
    assert dom0.path.read_text() != before


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_rights_are_put_right(dom0: Dom0, mode: int) -> None:
    dom0(ALLOW)
    dom0.path.chmod(mode)
    result = dom0(ALLOW, check=True)
    assert result["changed"]
    assert result["diff"][1]["after"] == "rights 0664\n"
    assert dom0.path.stat().st_mode & 0o7777 == mode
    assert dom0(ALLOW)["changed"]
    assert dom0.path.stat().st_mode & 0o7777 == 0o664
    assert not dom0(ALLOW)["changed"]


@pytest.mark.parametrize("target", ["elsewhere", "gone"])
def test_a_link_becomes_a_file(dom0: Dom0, target: str) -> None:
    (dom0.root / "elsewhere").write_text("mine\n")
    dom0.path.symlink_to(dom0.root / target)
    assert dom0(ALLOW)["changed"]
    assert not dom0.path.is_symlink()
    assert (dom0.root / "elsewhere").read_text() == "mine\n"


def test_removed_once(dom0: Dom0) -> None:
    dom0(ALLOW)
    dom0.write("74-other.policy", ALLOW)
    result = dom0(state="absent")
    assert (result["changed"], result["diff"][0]["after"]) == (True, "")
    assert [path.name for path in dom0.folder.iterdir() if path.is_file()] == ["74-other.policy"]
    assert not dom0(state="absent")["changed"]


def test_a_file_with_a_wrong_order_can_be_removed(dom0: Dom0) -> None:
    path = dom0.write("10-test.policy", ALLOW)
    assert dom0(state="absent", name="10-test.policy")["changed"]
    assert not path.exists()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test.A * work vault", "needs service, argument, source, target and action"),
        ("test.A * work vault permit", "'permit' isn't an action"),
        ("test.A x work vault allow", "argument 'x' must be * or begin with +"),
        ("test.A +a$ work vault allow", "argument '+a$' has a character"),
        ("te$t * work vault allow", "service 'te$t' has a character"),
        ("test.A+x * work vault allow", "service 'test.A+x' has a character"),
        ("* +x work vault allow", "service * can have no argument but *"),
        ("test.A * @default vault allow", "'@default' can't be a source"),
        ("test.A * @dispvm vault allow", "'@dispvm' can't be a source"),
        ("test.A * work @nonsense allow", "'@nonsense' can't be a target"),
        ("test.A * work @tag: allow", "'@tag:' can't be a target"),
        ("test.A * work @default allow", "needs target="),
        ("test.A * work vault allow target=@tag:x", "'@tag:x' can't be a redirect"),
        ("test.A * work vault allow target=*", "'*' can't be a redirect"),
        ("test.A * work vault allow target=", "a redirect is empty"),
        ("test.A * work vault allow default_target=vault", "'default_target=vault' can't follow"),
        ("test.A * work vault deny target=vault", "'target=vault' can't follow deny"),
        ("test.A * work vault allow notify=maybe", "notify= must be yes or no"),
        ("test.A * work vault allow user=a user=b", "user= is given twice"),
        ("test.A * work vault allow user=", "user= needs a name"),
        ("test.A * work vault allow root", "'root' can't follow allow"),
        ("test.A * work vault allow # comment", "'#' can't follow allow"),
        ("test.A * work 1vault allow", "'1vault' can't be a qube's name"),
        ("test.A * @tag:a.b vault allow", "'a.b' can't be a tag"),
        ("test.A * @type:Appvm vault allow", "'@type:Appvm' matches nothing"),
        ("test.A * work vault allow\n* * * * allow", "one line of printable ASCII"),
        ("test.A * work vault\x0c allow", "one line of printable ASCII"),
        ("test.A * wörk vault allow", "one line of printable ASCII"),
        ("# comment\n* * * * allow", "one line of printable ASCII"),
        ("# comment\r* * * * allow", "one line of printable ASCII"),
        ("!include include/admin-local-rwx", "needs service, argument"),
        ("   ", "needs service, argument"),
    ],
)
def test_a_wrong_rule_is_told_and_replaces_nothing(dom0: Dom0, line: str, message: str) -> None:
    dom0(DENY)
    told = dom0.refused(ALLOW, line)
    assert told.startswith("rule 2, ")
    assert message in told
    assert "\n" not in told


def test_no_rule_is_no_policy(dom0: Dom0) -> None:
    assert "no rule is given" in dom0.refused("# only a comment")
    assert "no rule is given" in dom0.refused()
    params = {**dom0.params(), "rules": None}
    assert "no rule is given" in dom0.modules.refused("qrexec_policy", **params)
    params = {k: v for k, v in dom0.params().items() if k != "rules"}
    assert "state is present but" in dom0.modules.refused("qrexec_policy", **params)


@pytest.mark.parametrize(
    "name",
    [
        *("75-Test.policy", "75-test", "test.policy", "75-.policy", "75-a/b.policy"),
        *("75-é.policy", "../75-a.policy", ".75-a.policy", "75-a.policy\n", "75-a b.policy"),
        "75-a.policy.rpmsave",
    ],
)
def test_names_that_qubes_would_stumble_over(dom0: Dom0, name: str) -> None:
    assert "can't be a policy file's name" in dom0.refused(DENY, name=name)
    assert "can't be a policy file's name" in dom0.refused(DENY, name=name, state="absent")


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("10-test.policy", "30-qubes-ansible.policy and 30-qubesctl-salt.policy"),
        ("30-dedup.policy", "30-qubes-ansible.policy and 30-qubesctl-salt.policy"),
        ("30-qubes-b.policy", "30-qubesctl-salt.policy"),
        ("30-qubesctl-salt.policy", "30-qubesctl-salt.policy"),
    ],
)
def test_a_file_that_would_come_before_provisioning(dom0: Dom0, name: str, before: str) -> None:
    assert f"{name} would come before {before}, which" in dom0.refused(DENY, name=name)


@pytest.mark.parametrize("name", ["30-user.policy", "31-a.policy", "99-a_b.c-d.policy"])
def test_a_file_that_comes_after_it(dom0: Dom0, name: str) -> None:
    assert dom0(DENY, name=name)["changed"]


def lint(dom0: Dom0, status: int) -> Path:
    """Put a program called qubes-policy-lint into the path."""
    folder = dom0.root.parent / "bin"
    folder.mkdir()
    program = folder / "qubes-policy-lint"
    program.write_text(LINT.format(folder=folder, status=status))
    program.chmod(0o755)
    dom0.modules.env["PATH"] = f"{folder}:{os.environ['PATH']}"
    return folder


def test_qubes_own_lint_gets_the_whole_text(dom0: Dom0) -> None:
    folder = lint(dom0, 0)
    dom0(ALLOW, check=True)
    assert (folder / "arguments").read_text() == "-\n"
    dom0(ALLOW)
    assert (folder / "stdin").read_text() == dom0.path.read_text()


def test_what_qubes_own_lint_refuses_replaces_nothing(dom0: Dom0) -> None:
    dom0(DENY)
    lint(dom0, 1)
    wanted = "qubes-policy-lint refuses the rules: -:1: error: not as I like it"
    assert dom0.refused(ALLOW) == wanted
    assert dom0.modules.refused("qrexec_policy", check=True, **dom0.params(ALLOW)) == wanted


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group": "no-such-group"}, "no such user or group in dom0"),
        ({"root": "/nonexistent"}, "/nonexistent/etc/qubes/policy.d does not exist: is this dom0?"),
        ({"state": "absent", "root": "/nonexistent"}, "does not exist: is this dom0?"),
    ],
)
def test_refused(dom0: Dom0, wrong: dict[str, object], message: str) -> None:
    assert message in dom0.refused(DENY, **wrong)


def test_a_folder_in_the_files_place(dom0: Dom0) -> None:
    dom0.path.mkdir()
    assert "can't read" in dom0.refused(DENY)
    assert "can't read" in dom0.refused(state="absent")
