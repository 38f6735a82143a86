# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `qrexec_policy`, on folders of the test's own."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest
from module_runner import PROJECT, Modules

sys.path.insert(0, str(PROJECT / "lab"))

from qubeslab.policy import Loader, Rule
from qubeslab.policy_files import Dom0Files

NAME = "75-test.policy"
ALLOW = "test.A +x work vault allow"
DENY = "test.A * * * deny"
LINT = """#!/bin/sh
echo "$@" > {folder}/arguments
cat > {folder}/stdin
echo '-:1: error: not as I like it'
exit {status}
"""


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


@pytest.fixture
def dom0(modules: Modules, tmp_path: Path) -> Dom0:
    """A dom0 without policy."""
    return Dom0(modules, tmp_path / "dom0")


def warnings(result: dict[str, Any]) -> str:
    return "\n".join(map(str, result.get("warnings", [])))


def overridden(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return rule, by and entirely of each, with the folder cut off."""
    return [
        (entry["rule"], entry["by"].rpartition("policy.d/")[2], entry["entirely"])
        for entry in result["overridden"]
    ]


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test.A * work vault", "needs service, argument, source, target and action"),
        ("test.A * work vault permit", "'permit' is no action"),
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
        ("90-a.policy", "!nonsense\n", "90-a.policy:1: '!nonsense' is no directive"),
        ("90-a.policy", "!compat-4.0 x\n", "90-a.policy:1: "),
        ("90-a.policy", "!include 90-a.policy\n", "90-a.policy:1: files include each other"),
        ("90-A.policy", "", "90-A.policy: no policy file may have such a name"),
        ("90-a.policy", "* * * * allow\x1b[31m\n", "90-a.policy:1: 'allow?[31m' is no action"),
    ],
)
def test_errors_in_other_files_are_told(dom0: Dom0, name: str, text: str, error: str) -> None:
    dom0.write(name, text)
    result = dom0(DENY)
    assert result["changed"]
    assert len(result["errors"]) == 1
    assert error in result["errors"][0].replace("\\x1b", "?")
    assert "Qubes denies every call until this is mended" in warnings(result)


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
