# SPDX-License-Identifier: GPL-3.0-or-later
"""Our policy file and our parser of policy, judged by upstream's parser and its lint.

Upstream: qubes-core-qrexec qrexec/policy/parser.py, qrexec/tools/qubes_policy_lint.py.
"""

from __future__ import annotations

import grp
import itertools
import logging
import os
import pwd
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

if not os.environ.get("QUBES_SRC"):
    pytest.skip("QUBES_SRC is not set: nothing runs against upstream", allow_module_level=True)

import ansible.module_utils
from qrexec import exc
from qrexec.policy import parser, parser_compat
from qubeslab.policy import Call

from testing.ansible.modules import Modules
from testing.ansible.policy_role import apply
from testing.ansible.policy_table import BACKUP, DOMAINS, OTHERS, OURS, STORAGE, calls, is_allowed
from testing.paths import PROJECT
from testing.upstream.lab_policy import DENIED, REFUSED, SOURCES, Upstream

ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

if TYPE_CHECKING:
    from module_utils import dedup_policy as policy
    from module_utils.dedup_policy_files import Policy
else:
    from ansible.module_utils import dedup_policy as policy
    from ansible.module_utils.dedup_policy_files import Policy

QREXEC = SOURCES / "qubes-core-qrexec"
TOKENS = (
    *("*", "@anyvm", "@adminvm", "dom0", "work", "nope", "@default", "@dispvm", "@tag:office"),
    *("@tag:none", "@type:AppVM", "@type:AdminVM", "@dispvm:dvm", "@dispvm:work"),
    *("@dispvm:@tag:office", f"uuid:{DOMAINS['work']['uuid']}", "@", "@tag:", "@nonsense"),
    *("@tag:@x", "@dispvm:", "@dispvm:@tag:", "@dispvm:@type:x", "@type:", "wörk", "a=b", "#"),
    f"@dispvm:uuid:{DOMAINS['dvm']['uuid']}",
)
PARAMETERS = (
    *("", "target=vault", "target=dom0", "target=@dispvm", "target=@default", "target=@tag:x"),
    *("target=", "target=*", "target=@dispvm:dvm", "target=a=b", "default_target=vault"),
    *("default_target=@dispvm", "default_target=*", "user=root", "user=", "notify=yes"),
    *("notify=maybe", "autostart=no", "autostart=", "user=a user=b", "user=a notify=no", "root"),
    *("# comment", "rule=x", "self=x", "=x", "=", "Target=x", "target=vault user=a autostart=yes"),
)
ACTIONS = ("allow", "ask", "deny", "Allow", "permit", "name", "")
NAMES = ("test.A", "*", "test.A+x", "te$t", "tést", "+", "test-A_b", "#x", "!include", "")
ARGUMENTS = ("*", "+", "+x", "+x+y", "x", "", "+a$", "++", "+*", "*x", "+é")
SPACES = (" ", "\t", "  \t", "\u00a0", "\x0b", "\x1c", "\u2003")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Upstream logs a warning about each call to a qube that isn't there."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def theirs(line: str) -> tuple[object, ...] | None:
    """Return what upstream reads in a line, or None when it is an error."""
    try:
        (rule,) = parser.StringPolicy(policy={"__main__": line}).rules
    except (exc.PolicySyntaxError, exc.AccessDenied):
        return None
    return parts(rule)


def parts(rule: parser.Rule) -> tuple[object, ...]:
    """Return a rule of upstream's in the form that `ours` has."""
    action = type(rule.action).__name__.lower()
    names = {"allow": ("target", "user"), "ask": ("target", "default_target", "user")}
    found = {name: getattr(rule.action, name) for name in names.get(action, ())}
    found["notify"] = rule.action.notify
    found["autostart"] = getattr(rule.action, "autostart", None)
    return (rule.service, rule.argument, str(rule.source), str(rule.target), action, found)


def ours(rule: policy.Rule) -> tuple[object, ...]:
    """Return a rule of ours, with upstream's defaults for what it doesn't say."""
    given: dict[str, Any] = dict(rule.parameters)
    names = {"allow": ("target", "user"), "ask": ("target", "default_target", "user")}
    found = {name: given.get(name) for name in names.get(rule.action, ())}
    default = "yes" if rule.action == "deny" else "no"
    found["notify"] = given.get("notify", default) == "yes"
    found["autostart"] = None if rule.action == "deny" else given.get("autostart", "yes") == "yes"
    return (rule.service, rule.argument, rule.source, rule.target, rule.action, found)


def lines() -> Iterator[str]:
    """Yield lines, right and wrong."""
    for source, target, action in itertools.product(TOKENS, TOKENS, ACTIONS):
        yield f"test.A * {source} {target} {action}"
    for target, action, more in itertools.product(TOKENS, ACTIONS, PARAMETERS):
        yield f"test.A +x work {target} {action} {more}"
    for service, argument, space in itertools.product(NAMES, ARGUMENTS, SPACES):
        yield space.join((service, argument, "work", "vault", "deny"))
    for length in range(6):
        yield " ".join(["test.A", "*", "work", "vault", "deny"][:length])


def test_every_line_is_read_as_upstream_reads_it() -> None:
    right = wrong = 0
    for text in lines():
        line = text.strip()
        if not line or line[0] in "#!":
            continue
        expected = theirs(line)
        try:
            found = ours(policy.parse_rule(line))
        except policy.PolicyError:
            found = None
        assert found == expected, line
        right += expected is not None
        wrong += expected is None
    assert min(right, wrong) > 1_000


def test_what_we_would_write_upstream_accepts() -> None:
    written = 0
    for line in lines():
        try:
            policy.parse_own_rule(line)
        except policy.PolicyError:
            continue
        if not line.startswith(("#", "!")):
            assert theirs(line) is not None, line
            written += 1
    assert written > 1_000


def load(root: Path) -> tuple[list[tuple[object, ...]] | None, list[tuple[object, ...]] | None]:
    """Return all rules as upstream and as we read them, each None when there is an error."""
    folders = [root / "run/qubes/policy.d", root / "etc/qubes/policy.d"]
    try:
        with mock.patch.object(
            parser_compat.Compat40Loader.__init__,
            "__kwdefaults__",
            {"legacy_path": root / "etc/qubes-rpc/policy"},
        ):
            expected = [parts(rule) for rule in parser.FilePolicy(policy_path=folders).rules]
    except (exc.PolicySyntaxError, exc.AccessDenied, UnicodeDecodeError, RecursionError):
        expected = None
    found = Policy(root)
    found.load_before("~")
    return expected, None if found.errors else [ours(rule) for rule, _ in found.rules]


def write(root: Path, files: dict[str, str]) -> Path:
    for folder in ("etc/qubes/policy.d", "run/qubes/policy.d", "etc/qubes-rpc/policy"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return root


ETC, RUN, OLD = "etc/qubes/policy.d", "run/qubes/policy.d", "etc/qubes-rpc/policy"
RULE = "test.A * work vault allow\n"


@pytest.mark.parametrize(
    "files",
    [
        {f"{ETC}/50-b.policy": RULE, f"{ETC}/40-a.policy": "test.A * work vault deny\n"},
        {f"{ETC}/50-b.policy": RULE, f"{RUN}/50-b.policy": "test.A * work vault deny\n"},
        {f"{ETC}/50-b.policy": RULE, f"{RUN}/60-b.policy": "test.B * work vault deny\n"},
        {f"{ETC}/README": "x\n", f"{ETC}/.a.policy": "x\n", f"{ETC}/a.policy.rpmnew": "x\n"},
        {f"{ETC}/50-B.policy": RULE},
        {f"{ETC}/50-b.policy": "nonsense\n", f"{ETC}/60-b.policy": RULE},
        {f"{ETC}/50-b.policy": "nonsense\n", f"{RUN}/50-b.policy": RULE},
        {
            f"{ETC}/50-b.policy": f"!include include/a\n{RULE}",
            f"{ETC}/include/a": "# x\n* * * * deny",
        },
        {f"{ETC}/50-b.policy": "!include include/gone\n"},
        {f"{ETC}/50-b.policy": "!include-dir include\n", f"{ETC}/include/a.policy": RULE},
        {f"{ETC}/50-b.policy": "!include-dir include\n", f"{ETC}/include/A.policy": RULE},
        {f"{ETC}/50-b.policy": "!include-dir include/a.policy\n", f"{ETC}/include/a.policy": RULE},
        {f"{RUN}/50-b.policy": "!include include/a\n", f"{ETC}/include/a": RULE},
        {f"{ETC}/50-b.policy": "!include-service test.A +x include/a\n"}
        | {f"{ETC}/include/a": "$include:include/b\nwork vault allow,user=a\n# $\n"}
        | {f"{ETC}/include/b": "$tag:x $anyvm ask,default_target=vault\n* $adminvm deny\n"},
        {f"{ETC}/50-b.policy": "!include-service * +x include/a\n", f"{ETC}/include/a": ""},
        {f"{ETC}/50-b.policy": "!include-service t * include/a\n", f"{ETC}/include/a": "a b\n"},
        {f"{ETC}/50-b.policy": "!include-service t * include/a\n", f"{ETC}/include/a": "!x\n"},
        {f"{ETC}/50-b.policy": "!include 50-b.policy\n"},
        {f"{ETC}/50-b.policy": "!include\n"},
        {f"{ETC}/50-b.policy": "!include a b\n"},
        {f"{ETC}/50-b.policy": "!\n"},
        {f"{ETC}/50-b.policy": "\udcff\n"},
        {f"{ETC}/50-b.policy": f"{RULE[:-1]}\r\n  \t{RULE}\x0b\n"},
        {f"{ETC}/50-b.policy": f"# a\r{RULE}"},
        {f"{ETC}/50-b.policy": f"# a\x85{RULE}"},
        {f"{ETC}/35-compat.policy": "!compat-4.0\n", f"{ETC}/50-b.policy": RULE}
        | {f"{OLD}/t.A": "$anyvm $anyvm ask\n", f"{OLD}/t.A+x": "work vault allow\n"}
        | {f"{OLD}/t.A+": "$include:inc\n", f"{OLD}/inc": "work vault allow\n"}
        | {f"{OLD}/.x": "x\n", f"{OLD}/x.rpmsave": "x\n", f"{OLD}/t.A+$": "x\n"},
        {f"{ETC}/35-compat.policy": "!compat-4.0\n", f"{OLD}/t.A": "nonsense\n"},
        {f"{ETC}/35-compat.policy": "!compat-4.0 x\n"},
    ],
)
def test_files_are_read_as_upstream_reads_them(tmp_path: Path, files: dict[str, str]) -> None:
    expected, found = load(write(tmp_path, files))
    assert found == expected


def test_upstreams_own_policy_is_read_as_upstream_reads_it(tmp_path: Path) -> None:
    write(tmp_path, {})
    admin = QREXEC.parent / "qubes-core-admin/qubes-rpc-policy"
    shutil.copytree(QREXEC / "policy.d", tmp_path / ETC, dirs_exist_ok=True)
    for path in admin.glob("*.policy"):
        # The other ones are in the old format, one file for each service.
        new = path.name[0].isdigit()
        target = tmp_path / (f"{ETC}/{path.name}" if new else f"{OLD}/{path.stem}")
        shutil.copy(path, target)
    for folder in (ETC, OLD):
        (tmp_path / folder / "include").mkdir(exist_ok=True)
        for path in admin.glob("admin-*-r*"):
            shutil.copy(path, tmp_path / folder / "include")
    expected, found = load(tmp_path)
    assert found == expected
    assert found
    assert len(found) > 50


def test_rules_of_one_call_overlap() -> None:
    """Whatever two rules upstream matches with one call, we know that they overlap."""
    chance, count = random.Random(1), 0  # noqa: S311 -- repeatable, no secret
    tokens = [token for token in TOKENS if is_target(token)]
    # Two chance tokens rarely match one call.
    tokens += ["*", "@anyvm", "@tag:office", "@type:AppVM", "@type:AdminVM", "work"] * 5
    info = Upstream(DOMAINS).info
    questions = [c for c in calls() if (c.service, c.argument) == (OURS[0], "+restic+default")]
    for _ in range(400):
        texts = [
            " ".join(
                (
                    chance.choice((f"{OURS[0]} *", f"{OURS[0]} +restic+default", "* *")),
                    chance.choice([t for t in tokens if t not in ("@default", "@dispvm")]),
                    f"{chance.choice(tokens)} deny",
                )
            )
            for _ in range(2)
        ]
        one, other = (policy.parse_rule(text) for text in texts)
        judges = parser.StringPolicy(policy={"__main__": "\n".join(texts)}).rules
        for call in questions:
            matched = [matches(judge, call, info) for judge in judges]
            if all(matched):
                count += 1
                assert policy.overlaps(one, other), texts
            if matched == [False, True]:
                assert not policy.covers(one, other), texts
            if matched == [True, False]:
                assert not policy.covers(other, one), texts
    assert count > 500


def is_target(token: str) -> bool:
    """Tell whether a token may be a target."""
    try:
        policy.check_token(token, policy.TARGET)
    except policy.PolicyError:
        return False
    return True


def matches(rule: parser.Rule, call: Call, info: Any) -> bool:
    """Tell whether upstream's rule matches a call."""
    try:
        request = parser.Request(
            call.service, call.argument, call.source, call.target, system_info=info
        )
        return bool(rule.is_match(request))
    except REFUSED:
        return False


@pytest.mark.parametrize(
    ("storage", "repositories"),
    [("", ("restic+default",)), (STORAGE, ("restic+default", "borg+archive"))],
)
def test_upstream_decides_every_call_as_meant(
    tmp_path: Path, storage: str, repositories: tuple[str, ...]
) -> None:
    apply(tmp_path, storage, repositories)
    (tmp_path / ETC / "80-others.policy").write_text(OTHERS)
    upstream = Upstream(DOMAINS)
    rules = upstream.load(tmp_path)
    assert rules
    allowed, others = set(), 0
    for call in calls():
        target = upstream.decide(rules, call).removesuffix(" DEFAULT True")
        if call.service not in OURS:
            others += target != DENIED
            continue
        assert target == (STORAGE if is_allowed(call, storage, repositories) else DENIED), call
        if target != DENIED:
            assert call.source == BACKUP
            allowed.add((call.service.removeprefix("dedupbackup."), call.argument, call.target))
    # the backup qube may ask for each repository, and for its maintenance (which the storage qube
    # refuses unless dom0 has opened it), under both names that a qube has; nobody may ask for more
    names = (STORAGE, f"uuid:{DOMAINS[STORAGE]['uuid']}") if storage else ()
    assert allowed == {
        (service, f"+{repository}", name)
        for service in ("Repository", "Maintenance")
        for repository in repositories
        for name in names
    }
    assert others > 10_000


def test_the_module_with_upstreams_lint(tmp_path: Path) -> None:
    """The real tool reads what the module gives it, and its refusal would be heard."""
    write(tmp_path / "dom0", {})
    program = tmp_path / "bin/qubes-policy-lint"
    program.parent.mkdir()
    # As /usr/bin/qubes-policy-lint does: qubes-core-qrexec setup.py.
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(QREXEC)!r})\n"
        "from qrexec.tools.qubes_policy_lint import main\nmain()\n"
    )
    program.chmod(0o755)
    modules = Modules({"PATH": f"{program.parent}:{os.environ['PATH']}"})
    result = modules(
        "qrexec_policy",
        name="75-test.policy",
        root=str(tmp_path / "dom0"),
        owner=pwd.getpwuid(os.getuid()).pw_name,
        group=grp.getgrgid(os.getgid()).gr_name,
        rules=["# why", "test.A * work vault allow", "", "test.A * * * deny"],
    )
    assert result["changed"]
    lint = [program, result["path"]]
    assert subprocess.run(lint, check=True, capture_output=True).stdout == b""
    broken = subprocess.run([program, "-"], input=b"test.A *", capture_output=True, check=False)
    assert broken.returncode == 1
