# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's policy parser and the lab's evaluator take the same decisions."""

from __future__ import annotations

import itertools
import logging
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if not os.environ.get("QUBES_SRC"):
    pytest.skip("QUBES_SRC is not set: nothing runs against upstream", allow_module_level=True)

from qubeslab.policy import Call

from testing.upstream.lab_policy import (
    DOMAINS,
    DVM_UUID,
    NO_UUID,
    POLICY_DIR,
    RUN_DIR,
    SOURCES,
    WORK_UUID,
    Files,
    Tally,
    calls_over,
    compare,
    domain,
    tree,
)

DOM0_UUID = str(DOMAINS["dom0"]["uuid"])
# Every token that a rule can have; some can't stand everywhere, which both must notice.
TOKENS = (
    *("*", "@anyvm", "@adminvm", "dom0", "work", "nope", "@default", "@dispvm", "@tag:disp"),
    *("@tag:none", "@type:AppVM", "@type:AdminVM", "@dispvm:dvm", "@dispvm:work", "@dispvm:nope"),
    *("@dispvm:@tag:disp", "@dispvm:@tag:none", f"uuid:{WORK_UUID}", f"uuid:{NO_UUID}"),
    *(f"@dispvm:uuid:{DVM_UUID}", f"uuid:{DOM0_UUID}"),
)
ACTIONS = (
    *("allow", "deny", "ask", "allow autostart=no", "allow target=vault", "allow target=dom0"),
    *("allow target=@adminvm", "allow target=@dispvm", "allow target=@dispvm:dvm"),
    *("allow target=@dispvm:work", "allow target=nope", f"allow target=uuid:{WORK_UUID} user=me"),
    *("ask default_target=vault", "ask target=work", "allow target=@dispvm:dvm autostart=no"),
    *("allow target=@dispvm autostart=no", "allow target=dom0 autostart=no"),
    *(f"allow target=@dispvm:uuid:{DVM_UUID}", "allow target=work autostart=no notify=yes"),
)
CALLERS = tuple(name for name in DOMAINS if name != "dom0")
TARGETS = (
    *("", "@default", *DOMAINS, "nope", "@adminvm", "@anyvm", "@dispvm", "@dispvm:dvm"),
    *("@dispvm:work", "@dispvm:nope", "@dispvm:@tag:disp", "@tag:office", "*", "@", "@nonsense:"),
    *(f"uuid:{WORK_UUID}", f"uuid:{NO_UUID}", f"@dispvm:uuid:{DVM_UUID}", f"uuid:{DOM0_UUID}"),
)
CALLS = calls_over([("test.A", "+")], CALLERS, TARGETS)
SERVICES = (("test.A", "+"), ("test.A", "+x"), ("test.A", "+x+y"), ("test.B", "+"))


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Both log a warning about each call to a qube that isn't there."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def differences(files: Files, calls: Sequence[Call], tally: Tally) -> list[str]:
    """Return what the two disagree about, under a policy."""
    with tempfile.TemporaryDirectory() as folder:
        root = files.write(Path(folder) / "dom0")
        return [f"{files}: {line}" for line in compare(root, calls, tally)]


def shown(found: list[str], tally: Tally) -> str:
    """Return a message of bearable length."""
    return f"{len(found)} of {tally.decisions}:\n" + "\n".join(found[:20])


@pytest.mark.parametrize("source", TOKENS)
def test_every_rule_of_one_line(source: str) -> None:
    """All targets and actions for one kind of source, asked about all kinds of calls."""
    tally = Tally()
    found = [
        line
        for target, action in itertools.product(TOKENS, ACTIONS)
        for line in differences(Files.of(f"test.A * {source} {target} {action}\n"), CALLS, tally)
    ]
    assert not found, shown(found, tally)
    if source in ("@default", "@dispvm"):  # these can't be a source
        assert tally.broken == len(TOKENS) * len(ACTIONS)
    else:
        assert tally.decisions > 35_000


def test_many_rules_at_once() -> None:
    """The first match counts, so each rule's own user tells which one that was."""
    chance, tally, found = random.Random(1), Tally(), []  # noqa: S311 -- repeatable, no secret
    calls = calls_over(SERVICES, CALLERS, TARGETS)
    for _ in range(150):
        lines = []
        for number in range(40):
            service = chance.choice(("test.A", "test.B", "*"))
            argument = "*" if service == "*" else chance.choice(("*", "+", "+x", "+x+y"))
            action = chance.choice((*ACTIONS, *["allow"] * 20))
            user = "" if "user" in action or action[:4] == "deny" else f" user=u{number}"
            source, target = chance.choice(TOKENS), chance.choice(TOKENS)
            source = source if source not in ("@default", "@dispvm") else "*"
            if target == "@default" and action.startswith("allow") and "target=" not in action:
                action += " target=vault"
            lines.append(f"{service} {argument} {source} {target} {action}{user}\n")
        cut = chance.randrange(len(lines))
        found += differences(Files.of("".join(lines[:cut]), "".join(lines[cut:])), calls, tally)
    assert not found, shown(found, tally)
    assert tally.broken == 0
    assert tally.decisions > 50_000
    assert tally.allowed > tally.decisions / 10


ERRORS = (
    *("test.A * work vault", "test.A * work vault permit", "test.A x work vault allow"),
    *("test.A +a$ work vault allow", "te$t * work vault allow", "test.A+x * work vault allow"),
    *("* +x work vault allow", "test.A * work @nonsense allow", "test.A * work @tag: allow"),
    *("test.A * work @tag:@x allow", "test.A * @type: vault allow", "test.A * work @dispvm: allow"),
    *("test.A * work @default allow", "test.A * work vault allow target=@tag:x"),
    *("test.A * work vault allow target=*", "test.A * work vault allow target=@default"),
    *("test.A * work vault allow target=", "test.A * work vault allow default_target=vault"),
    *("test.A * work vault deny target=vault", "test.A * work vault deny autostart=no"),
    *("test.A * work vault allow notify=maybe", "test.A * work vault allow autostart="),
    *("test.A * work vault allow user=a user=b", "test.A * work vault allow root"),
    *("test.A * work vault allow # comment", "test.A * work vault allow =x", "test.A"),
    *("test.A * work vault allow rule=x", "test.A * work vault allow self=x"),
    *("test.A * work vault ask default_target=@tag:x", "test.A * work vault ask default_target="),
    *("!include", "!include a b", "!include no-such-file", "!include ."),
    "!include-dir no-such-dir",
    *("!include-dir 00-test.policy", "!include-service test.A + ", "!include-service test.A x f"),
    *("!include-service * +x include/old", "!include-service test.A + nope", "!nonsense", "!"),
    *("!compat-4.0 x", "!include 01-test.policy", "\udcff"),
)
CORRECT = (
    *("# test.A", "", "  test.A\t*  work vault allow", "test.A * work vault allow\r"),
    *("test.A * work vault allow user=", "test.A * work vault allow target=vault user=a=b"),
    *("test.A * work vault allow\x0b", "test.A * work @tag:a:b allow", "test.A * ! ! deny"),
    *("test.A * work vault deny notify=yes", "test.A * work @dispvm:@tag:x ask"),
    *("test.A * work va\u00fclt allow", "test.A\u00a0* work vault allow"),
    "test.C * * * deny notify=no",
)


@pytest.mark.parametrize("line", ERRORS)
def test_an_error_denies_everything(line: str) -> None:
    tally = Tally()
    files = Files.of("* * * * allow\n", f"test.B * work vault allow\n{line}\n")
    assert not differences(files, CALLS[:1], tally)
    assert tally.broken == 1


@pytest.mark.parametrize("line", CORRECT)
def test_a_strange_line_is_no_error(line: str) -> None:
    tally = Tally()
    calls = calls_over(SERVICES, CALLERS, TARGETS)
    assert not differences(Files.of(f"{line}\n* * * vault allow user=last\n"), calls, tally)
    assert tally.broken == 0
    assert tally.allowed


FILES = {
    "order": (
        (f"{POLICY_DIR}/40-a.policy", "test.A * work vault allow user=forty\n"),
        (f"{POLICY_DIR}/30-b.policy", "test.A +x work vault allow user=thirty\n"),
        (f"{POLICY_DIR}/9-z.policy", "test.A * * * deny\n"),
        (f"{POLICY_DIR}/README", "nonsense\n"),
        (f"{POLICY_DIR}/.hidden.policy", "nonsense\n"),
        (f"{POLICY_DIR}/10-a.policy.rpmsave", "nonsense\n"),
        (f"{POLICY_DIR}/a.policy/b.policy", "nonsense\n"),
    ),
    "run before etc": (
        (f"{POLICY_DIR}/30-a.policy", "nonsense\n"),
        (f"{RUN_DIR}/30-a.policy", "test.A * work vault allow user=run\n!include include/a\n"),
        (f"{RUN_DIR}/include/a", "test.A * work @anyvm allow user=included\n"),
        (f"{POLICY_DIR}/31-b.policy", "!include include/a\n"),
        (f"{POLICY_DIR}/include/a", "test.A * * dom0 allow user=etc\n"),
    ),
    "includes": (
        (f"{POLICY_DIR}/30-a.policy", "!include include/one\n!include-dir include/more\n"),
        (f"{POLICY_DIR}/include/one", "test.A * work vault allow user=one\n!include include/two\n"),
        (f"{POLICY_DIR}/include/two", "test.B * work * allow user=two\n"),
        (f"{POLICY_DIR}/include/more/b.policy", "test.A * * vault allow user=b\n"),
        (f"{POLICY_DIR}/include/more/a.policy", "test.A * vault work allow user=a\n"),
        (f"{POLICY_DIR}/include/more/c", "nonsense\n"),
    ),
    "the old format": (
        (f"{POLICY_DIR}/30-a.policy", "!include-service test.A +x include/old\n"),
        (f"{POLICY_DIR}/40-a.policy", "!include-service * * include/old\n"),
        (f"{POLICY_DIR}/include/old", "$include:include/other\n$anyvm vault allow,user=old\n"),
        (f"{POLICY_DIR}/include/other", "dvm vault deny\nwork $dispvm:dvm allow\n\n#x\n"),
    ),
}
BROKEN_FILES = {
    "a name in capitals": ((f"{POLICY_DIR}/30-Upper.policy", ""),),
    "a name in capitals, included": (
        (f"{POLICY_DIR}/30-a.policy", "!include-dir include\n"),
        (f"{POLICY_DIR}/include/B.policy", ""),
    ),
    "old format without an action": (
        (f"{POLICY_DIR}/30-a.policy", "!include-service test.A * include/old\n"),
        (f"{POLICY_DIR}/include/old", "$anyvm vault\n"),
    ),
    "old format with new directives": (
        (f"{POLICY_DIR}/30-a.policy", "!include-service test.A * include/old\n"),
        (f"{POLICY_DIR}/include/old", "!include-dir .\n"),
    ),
    "old format, comma only": (
        (f"{POLICY_DIR}/30-a.policy", "!include-service test.A * include/old\n"),
        (f"{POLICY_DIR}/include/old", ",\n"),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str) -> None:
    tally = Tally()
    assert not differences(Files(FILES[name]), calls_over(SERVICES, CALLERS, TARGETS), tally)
    assert tally.broken == 0
    assert tally.allowed


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_files(name: str) -> None:
    tally = Tally()
    files = Files((*BROKEN_FILES[name], (f"{POLICY_DIR}/10-a.policy", "* * * * allow\n")))
    assert not differences(files, CALLS[:1], tally)
    assert tally.broken == 1


def test_the_policies_that_qubes_ships(tmp_path: Path) -> None:
    """The default policies of qubes-core-admin and qubes-core-qrexec, with what they include."""
    shipped = SOURCES / "qubes-core-admin/qubes-rpc-policy"
    qrexec = SOURCES / "qubes-core-qrexec/policy.d"
    tree(tmp_path, qrexec, POLICY_DIR)
    # It reads /etc/qubes-rpc/policy of the machine that it runs on.
    (tmp_path / POLICY_DIR / "35-compat.policy").unlink()
    for path in shipped.glob("[0-9]*.policy"):
        (tmp_path / POLICY_DIR / path.name).write_bytes(path.read_bytes())
    tree(tmp_path, qrexec / "include", f"{POLICY_DIR}/include")
    for name in ("admin-global-ro", "admin-global-rwx", "admin-local-ro", "admin-local-rwx"):
        (tmp_path / POLICY_DIR / "include" / name).write_text("work @tag:created-by-work allow\n")
    (tmp_path / RUN_DIR).mkdir(parents=True)
    services = {
        tuple(words[:2])
        for path in (tmp_path / POLICY_DIR).glob("*.policy")
        for words in map(str.split, path.read_text().splitlines())
        if len(words) > 4 and not words[0].startswith(("#", "!"))
    }
    asked = [(name, "+x" if argument == "*" else argument) for name, argument in services]
    mgmt = domain("DispVM", NO_UUID, "backup-restore-mgmt", power_state="Running")
    new = domain("AppVM", NO_UUID[:-1] + "6", "backup-restore-in-progress")
    store = domain("AppVM", NO_UUID[:-1] + "7", "backup-restore-storage", "created-by-work")
    domains = DOMAINS | {"mgmt": mgmt, "new": new, "store": store}
    calls = calls_over(sorted(asked), [*CALLERS, "mgmt"], [*TARGETS, "new", "store"])
    tally = Tally()
    found = list(compare(tmp_path, calls, tally, domains))
    assert not found, shown(found, tally)
    assert tally.broken == 0
    assert tally.allowed


SERVICE = st.sampled_from(("test.A", "test.B", "*", "te$t", "test.A+x", ""))
ARGUMENT = st.sampled_from(("*", "+", "+x", "+x+y", "x", "+a$"))
TOKEN = st.one_of(
    st.sampled_from((*TOKENS, *DOMAINS)),
    st.from_regex(r"@(tag|type|dispvm|dispvm:@tag)?:?@?[a-z]{0,3}", fullmatch=True),
)
KEY = st.sampled_from(("target", "default_target", "user", "notify", "autostart", "x", ""))
VALUE = st.one_of(st.sampled_from(("yes", "no", "vault", "root", "")), TOKEN)
PARAMETER = st.one_of(st.builds("{}={}".format, KEY, VALUE), st.sampled_from(("x", "user=a,b")))
GOOD = st.builds(
    "{} {} {} {}".format,
    st.sampled_from(("test.A *", "test.A +x", "test.B +", "* *")),
    st.sampled_from(sorted(set(TOKENS) - {"@default", "@dispvm"})),
    st.sampled_from(sorted(set(TOKENS) - {"@default"})),
    st.sampled_from(ACTIONS),
)
ANY_RULE = st.builds(
    lambda words, more: " ".join([*words, *more]),
    st.tuples(SERVICE, ARGUMENT, TOKEN, TOKEN, st.sampled_from(("allow", "deny", "ask", "no"))),
    st.lists(PARAMETER, max_size=3),
)
DIRECTIVE = st.builds(
    "!{}".format,
    st.sampled_from(
        (
            *("include include/a", "include include/b", "include-dir include", "include nope"),
            *("include-service test.A + include/b", "include-service * * include/b", "include"),
        )
    ),
)
TEXT = st.text(st.characters(max_codepoint=0x17F), max_size=12)
POLICY = st.lists(st.one_of(GOOD, GOOD, GOOD, GOOD, DIRECTIVE), max_size=8)
WILD = st.lists(st.one_of(GOOD, ANY_RULE, DIRECTIVE, TEXT), max_size=3)
OLD = st.lists(
    st.builds("{} {} {}".format, TOKEN, TOKEN, st.sampled_from((*ACTIONS, "allow,user=x", "no"))),
    max_size=2,
)
SOME_CALLS = calls_over(SERVICES[:3], CALLERS, TARGETS)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(POLICY, WILD), POLICY, st.one_of(POLICY, WILD), OLD)
def test_generated_policies(
    one: list[str], two: list[str], included: list[str], old: list[str]
) -> None:
    texts = {"30-a.policy": one, "40-b.policy": two, "include/a": included, "include/b": old}
    files = Files(tuple((f"{POLICY_DIR}/{name}", "\n".join(t)) for name, t in texts.items()))
    found = differences(files, SOME_CALLS, Tally())
    assert not found, "\n".join(found[:5])
