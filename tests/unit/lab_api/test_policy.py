# SPDX-License-Identifier: GPL-3.0-or-later
"""Policy: what is read, what is refused, and who may call whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from qubeslab.policy import Allowed, Call, Denied, Domains, Loader, PolicySyntaxError, decide
from qubeslab.policy_files import Dom0Files, inside

WORK_UUID = "c9024a97-9b15-46cc-8341-38d75d5d421b"
DVM_UUID = "5e9b4fa3-6c3b-4c1f-8c2d-1f4a0d7b9e10"


def domain(klass: str = "AppVM", **more: object) -> dict[str, object]:
    defaults: dict[str, object] = {
        "type": klass,
        "tags": [],
        "uuid": "",
        "template_for_dispvms": False,
        "default_dispvm": None,
        "power_state": "Running",
    }
    return defaults | more


DOMAINS: Domains = {
    "dom0": domain("AdminVM", uuid="00000000-0000-0000-0000-000000000000"),
    "work": domain(tags=["office"], uuid=WORK_UUID, default_dispvm="dvm"),
    "vault": domain(power_state="Halted"),
    "dvm": domain(tags=["disp"], uuid=DVM_UUID, template_for_dispvms=True),
    "debian": domain("TemplateVM"),
}


def write(root: Path, name: str, text: str, folder: str = "etc/qubes/policy.d") -> None:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def ask(root: Path, source: str, target: str, service: str = "test.A", argument: str = "+") -> str:
    """Return "TARGET USER" of an allowed call, or "denied"."""
    rules = Loader(Dom0Files(root)).load()
    try:
        found: Allowed = decide(rules, Call(service, argument, source, target), DOMAINS)
    except Denied:
        return "denied"
    return f"{found.target} {found.user or '-'}"


@pytest.mark.parametrize(
    ("rule", "source", "target", "expected"),
    [
        ("test.A * work vault allow", "work", "vault", "vault -"),
        ("test.A * work vault allow", "vault", "work", "denied"),
        ("test.B * work vault allow", "work", "vault", "denied"),
        ("test.A + work vault allow", "work", "vault", "vault -"),
        ("test.A +x work vault allow", "work", "vault", "denied"),
        ("* * work vault allow user=root", "work", "vault", "vault root"),
        ("test.A * @anyvm @anyvm allow", "work", "vault", "vault -"),
        ("test.A * @anyvm @anyvm allow", "work", "dom0", "denied"),
        ("test.A * * * allow", "work", "dom0", "dom0 -"),
        ("test.A * work @adminvm allow", "work", "dom0", "dom0 -"),
        ("test.A * work dom0 allow", "work", "@adminvm", "dom0 -"),
        ("test.A * @tag:office vault allow", "work", "vault", "vault -"),
        ("test.A * @tag:other vault allow", "work", "vault", "denied"),
        ("test.A * work @type:TemplateVM allow", "work", "debian", "debian -"),
        ("test.A * work @type:TemplateVM allow", "work", "vault", "denied"),
        ("test.A * work @default allow target=vault", "work", "", "vault -"),
        ("test.A * work @default allow target=vault", "work", "no-such-qube", "vault -"),
        ("test.A * work @default allow target=vault", "work", "dvm", "denied"),
        ("test.A * work @anyvm allow target=dom0", "work", "vault", "dom0 -"),
        ("test.A * work @anyvm allow", "work", "", "denied"),
        ("test.A * work @anyvm allow", "work", "work", "denied"),
        ("test.A * work vault allow autostart=no", "work", "vault", "denied"),
        ("test.A * vault work allow autostart=no", "vault", "work", "work -"),
        ("test.A * work vault ask", "work", "vault", "denied"),
        ("test.A * work vault deny notify=no", "work", "vault", "denied"),
        ("test.A * work @dispvm allow", "work", "@dispvm", "@dispvm:dvm -"),
        ("test.A * vault @dispvm allow", "vault", "@dispvm", "denied"),
        ("test.A * work @dispvm:@tag:disp allow", "work", "@dispvm", "@dispvm:dvm -"),
        ("test.A * work @dispvm:dvm allow", "work", "@dispvm:dvm", "@dispvm:dvm -"),
        ("test.A * work @anyvm allow", "work", "@dispvm:vault", "denied"),
        (f"test.A * uuid:{WORK_UUID} vault allow", "work", "vault", "vault -"),
        ("test.A * work vault allow", "work", "@anyvm", "denied"),
        ("test.A * work @dispvm:dvm allow", "work", f"@dispvm:uuid:{DVM_UUID}", "@dispvm:dvm -"),
        (f"test.A * work @dispvm:uuid:{DVM_UUID} allow", "work", "@dispvm:dvm", "@dispvm:dvm -"),
        (f"test.A * work * allow target=@dispvm:uuid:{DVM_UUID}", "work", "", "@dispvm:dvm -"),
        (f"test.A * work @anyvm allow target=uuid:{WORK_UUID}", "work", "vault", "denied"),
        # vault has no default disposable template: upstream fails at the first rule
        (
            "test.A * * @dispvm:dvm allow\ntest.A * * * allow target=work",
            "vault",
            "@dispvm",
            "denied",
        ),
        (
            "test.A * * @dispvm:@tag:disp allow\n* * * * allow target=work",
            "vault",
            "@dispvm",
            "work -",
        ),
    ],
)
def test_a_single_rule(tmp_path: Path, rule: str, source: str, target: str, expected: str) -> None:
    write(tmp_path, "30-a.policy", f"# comment\n\n{rule}\n")
    assert ask(tmp_path, source, target) == expected


@pytest.mark.parametrize(
    "line",
    [
        "test.A * work vault",
        "test.A * work vault permit",
        "test.A x work vault allow",
        "test.A +a$ work vault allow",
        "te$t * work vault allow",
        "test.A+x * work vault allow",
        "* +x work vault allow",
        "test.A * @default vault allow",
        "test.A * @dispvm vault allow",
        "test.A * work @nonsense allow",
        "test.A * work @tag: allow",
        "test.A * work @default allow",
        "test.A * work vault allow target=@tag:x",
        "test.A * work vault allow target=*",
        "test.A * work vault allow target=",
        "test.A * work vault allow default_target=vault",
        "test.A * work vault deny target=vault",
        "test.A * work vault allow notify=maybe",
        "test.A * work vault allow user=a user=b",
        "test.A * work vault allow root",
        "test.A * work vault allow # comment",
        "!include",
        "!include no-such-file",
        "!include-dir no-such-dir",
        "!include-service test.A + ",
        "!nonsense",
        "!compat-4.0 x",
    ],
)
def test_an_error_anywhere_is_an_error_for_all(tmp_path: Path, line: str) -> None:
    write(tmp_path, "30-a.policy", "test.A * work vault allow\n")
    write(tmp_path, "90-z.policy", f"test.B * work vault allow\n{line}\n")
    with pytest.raises(PolicySyntaxError, match=r"90-z.policy:2: "):
        ask(tmp_path, "work", "vault")


def test_the_first_match_wins_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path, "50-b.policy", "test.A * work vault allow\n")
    write(tmp_path, "40-a.policy", "test.A * work vault deny\n")
    assert ask(tmp_path, "work", "vault") == "denied"
    write(tmp_path, "30-c.policy", "test.A * work vault allow user=me\n")
    assert ask(tmp_path, "work", "vault") == "vault me"


def test_a_file_in_run_replaces_the_one_in_etc(tmp_path: Path) -> None:
    write(tmp_path, "30-a.policy", "test.A * work vault allow\n")
    write(tmp_path, "30-a.policy", "test.A * work vault deny\n", "run/qubes/policy.d")
    assert ask(tmp_path, "work", "vault") == "denied"


def test_only_policy_files_count(tmp_path: Path) -> None:
    write(tmp_path, "30-a.policy", "test.A * work vault allow\n")
    for name in ("README", ".hidden.policy", "10-a.policy.rpmsave"):
        write(tmp_path, name, "nonsense\n")
    assert ask(tmp_path, "work", "vault") == "vault -"
    write(tmp_path, "30-Upper.policy", "")
    with pytest.raises(PolicySyntaxError, match="invalid filename"):
        ask(tmp_path, "work", "vault")


def test_without_a_directory_there_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicySyntaxError, match="missing"):
        ask(tmp_path, "work", "vault")


def test_includes(tmp_path: Path) -> None:
    write(tmp_path, "30-a.policy", "!include include/one\n!include-dir include/more\n")
    write(tmp_path, "include/one", "test.A * work vault allow user=one\n")
    write(tmp_path, "include/more/a.policy", "test.B * work vault allow user=two\n")
    assert ask(tmp_path, "work", "vault") == "vault one"
    assert ask(tmp_path, "work", "vault", "test.B") == "vault two"


def test_an_included_service_file_has_the_old_syntax(tmp_path: Path) -> None:
    write(tmp_path, "30-a.policy", "!include-service test.A +x include/old\n")
    write(tmp_path, "include/old", "$include:include/other\n$anyvm vault allow,user=old\n")
    write(tmp_path, "include/other", "dvm vault deny\n")
    assert ask(tmp_path, "work", "vault", argument="+x") == "vault old"
    assert ask(tmp_path, "dvm", "vault", argument="+x") == "denied"
    assert ask(tmp_path, "work", "vault", argument="+y") == "denied"


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    write(tmp_path, "30-a.policy", "!include 30-a.policy\n")
    with pytest.raises(PolicySyntaxError, match="too deeply"):
        ask(tmp_path, "work", "vault")


def test_links_stay_inside_dom0(tmp_path: Path) -> None:
    outside = tmp_path / "outside.policy"
    outside.write_text("test.A * work vault allow\n")
    root = tmp_path / "root"
    write(root, "30-a.policy", "")
    link = root / "etc/qubes/policy.d/40-b.policy"
    for target in (str(outside), "../../../../../outside.policy"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert ask(root, "work", "vault") == "denied"
    write(root, "c", "test.A * work vault allow\n", "srv")
    link.unlink()
    link.symlink_to("/srv/c")
    assert ask(root, "work", "vault") == "vault -"
    link.unlink()
    link.symlink_to("40-b.policy")
    with pytest.raises(OSError, match="too many"):
        inside(root, "/etc/qubes/policy.d/40-b.policy")
