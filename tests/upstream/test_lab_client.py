# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's client library and its qvm-* tools work with the lab's qubesd.

And the lab's stand-ins for these tools print the same, and end with the same status.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.lab.harness import TEMPLATE
from testing.upstream.dom0 import Dom0
from testing.upstream.lab_client import Done, LabDom0, lab_dom0
from testing.upstream.sources import Sources

# Each is done by upstream's tool; the status must be 0.
STEPS = (
    ("qvm-create", "--label", "red", "--property", "memory=500", "work"),
    ("qvm-create", "--label", "orange", "--property", "provides_network=True", "net"),
    ("qvm-create", "--label", "blue", "--class", "StandaloneVM", "--template", TEMPLATE, "alone"),
    ("qvm-prefs", "work", "netvm", "net"),
    ("qvm-prefs", "work", "memory", "555"),
    ("qvm-prefs", "work", "autostart", "True"),
    ("qvm-prefs", "--default", "work", "autostart"),
    ("qvm-features", "work", "a", "b c"),
    ("qvm-features", "work", "empty", ""),
    ("qvm-features", "work", "gone", "x"),
    ("qvm-features", "--unset", "work", "gone"),
    ("qvm-service", "--enable", "work", "cups"),
    ("qvm-service", "--disable", "work", "crond"),
    ("qvm-tags", "work", "add", "one", "two", "three"),
    ("qvm-tags", "work", "del", "three"),
    ("qvm-firewall", "work", "add", "accept", "10.0.0.0/8", "tcp", "80-90"),
    ("qvm-firewall", "work", "add", "--before", "0", "drop", "dsthost=example.com", "comment=a b"),
    ("qvm-firewall", "work", "add", "accept", "specialtarget=dns"),
    ("qvm-firewall", "work", "add", "accept", "proto=icmp", "icmptype=8"),
    ("qvm-firewall", "work", "del", "--rule-no", "1"),
    ("qvm-volume", "resize", "work:private", "3GiB"),
    ("qvm-volume", "set", "work:private", "revisions_to_keep", "1"),
    ("qvm-notes", "work", "--set", "first\nsecond"),
    ("qvm-clone", "work", "copy"),
    ("qvm-create", "--label", "gray", "gone"),
    ("qvm-start", "gone"),
    ("qvm-shutdown", "--wait", "gone"),
    ("qvm-remove", "--force", "gone"),
    ("qvm-start", "work"),
)


@pytest.fixture(scope="module")
def both(make_dom0: Callable[[], Dom0], sources: Sources) -> Iterator[LabDom0]:
    """The lab after STEPS."""
    with lab_dom0(make_dom0(), sources) as made:
        for step in STEPS:
            done = made.upstream(*step)
            assert done.returncode == 0, f"{step}: {done.stdout}{done.stderr}{made.lab.log()}"
        yield made


SAME = (
    ("qvm-ls",),
    ("qvm-ls", "--raw-list"),
    ("qvm-ls", "--raw-list", "--all", "--exclude", "work"),
    ("qvm-ls", "--raw-data", "--fields", "NAME,STATE,CLASS,LABEL,TEMPLATE,NETVM,memory"),
    ("qvm-ls", "--raw-list", "--running"),
    ("qvm-ls", "--raw-list", "--class", "AppVM"),
    ("qvm-ls", "--raw-list", "--tags", "one"),
    ("qvm-ls", "nope"),
    ("qvm-prefs", "work"),
    ("qvm-prefs", "alone"),
    ("qvm-prefs", "dom0"),
    ("qvm-prefs", TEMPLATE),
    ("qvm-prefs", "--hide-default", "work"),
    *(("qvm-prefs", "work", name) for name in ("memory", "netvm", "name", "label", "nonsense")),
    ("qvm-prefs", TEMPLATE, "netvm"),
    ("qvm-prefs", "nope"),
    ("qvm-prefs", "work", "memory", "x"),
    ("qvm-prefs", "work", "label", "mauve"),
    ("qvm-prefs", "work", "netvm", "nope"),
    ("qvm-prefs", "work", "template", "none"),
    ("qvm-prefs", "work", "template", "net"),
    ("qubes-prefs",),
    ("qubes-prefs", "default_template"),
    ("qubes-prefs", "nonsense"),
    ("qvm-features", "work"),
    *(("qvm-features", "work", name) for name in ("a", "empty", "nope")),
    ("qvm-features", "--unset", "work", "nope"),
    ("qvm-features", "nope"),
    ("qvm-service", "work"),
    *(("qvm-service", "work", name) for name in ("cups", "crond", "nope")),
    ("qvm-service", "work", "cups", "maybe"),
    ("qvm-tags", "work"),
    ("qvm-tags", "work", "list", "one"),
    ("qvm-tags", "work", "list", "nope"),
    ("qvm-tags", "work", "del", "nope"),
    ("qvm-tags", "work", "add", "a b"),
    ("qvm-volume", "info", "work:private"),
    ("qvm-volume", "info", "work:root"),
    ("qvm-volume", "info", "alone:root"),
    ("qvm-volume", "info", "work:kernel"),
    ("qvm-volume", "info", "work:private", "size"),
    ("qvm-volume", "info", "work:private", "revisions"),
    ("qvm-check", "work"),
    ("qvm-check", "work", "nope"),
    ("qvm-check", "--running", "work"),
    ("qvm-check", "--running", "net"),
    ("qvm-check", "--running", "net", "work"),
    ("qvm-check", "--template", TEMPLATE),
    ("qvm-start", "work"),
    ("qvm-start", "--skip-if-running", "work"),
    ("qvm-start", "nope"),
    ("qvm-shutdown", "net"),
    ("qvm-kill", "net"),
    ("qvm-remove", "-f", "work"),
    ("qvm-remove", "net"),
    ("qvm-create", "--label", "mauve", "x"),
    ("qvm-clone", "work", "net"),
)


def spoken(done: Done) -> tuple[int, list[list[str]], str]:
    """Return status, the output's words by line, and the error message.

    The width of columns, the usage and the spinner may differ.
    """
    lines = [line.split() for line in done.stdout.splitlines()]
    errors = [line for line in done.stderr.splitlines() if not line.startswith("please wait")]
    message = errors[-1] if errors and errors[0].startswith("usage:") else "\n".join(errors)
    return done.returncode, lines, message


@pytest.mark.parametrize("words", SAME, ids=" ".join)
def test_the_lab_s_tools_are_like_upstream_s(both: LabDom0, words: tuple[str, ...]) -> None:
    assert spoken(both.ours(*words, data="n\n")) == spoken(both.upstream(*words, data="n\n"))


@pytest.mark.parametrize("names", [["work"], []])
def test_lists_of_volumes_are_alike(both: LabDom0, names: list[str]) -> None:
    """But for the order of the lines of a volume that several qubes have."""
    _, ours, _ = spoken(both.ours("qvm-volume", "list", *names))
    _, theirs, _ = spoken(both.upstream("qvm-volume", "list", *names))
    assert sorted(ours) == sorted(theirs)
    assert [line[0] for line in ours] == [line[0] for line in theirs]


def test_firewall_rules_are_alike(both: LabDom0) -> None:
    """The library writes the parts of a rule in an order of its own."""

    def rules(done: Done) -> list[list[str]]:
        return [sorted(line) for line in spoken(done)[1]]

    ours = rules(both.ours("qvm-firewall", "--raw", "work"))
    assert ours == rules(both.upstream("qvm-firewall", "--raw", "work"))
    assert len(ours) == 4


def test_where_the_words_differ_the_status_does_not(both: LabDom0) -> None:
    for words in (
        ("qvm-create", "--label", "red", "work"),
        ("qvm-create", "--label", "red", "-t", "nope", "x"),
        ("qvm-create", "--label", "red", "--class", "Nope", "x"),
        ("qvm-create", "--label", "red", "a b"),
        ("qvm-remove", "-f", "dom0"),
        ("qvm-remove", "-f", "net"),
        ("qvm-remove", "-f", TEMPLATE),
        ("qvm-prefs", "work", "name", "x"),
        ("qvm-prefs", "work", "klass", "x"),
        ("qvm-prefs", "work", "backup_timestamp"),
        ("qvm-features", "work", "c", "two\nlines"),
        ("qvm-volume", "info", "work:nope"),
        ("qvm-volume", "info", "work:private", "nope"),
        ("qvm-volume", "resize", "work:private", "1MiB"),
        ("qvm-volume", "set", "work:private", "revisions_to_keep", "2"),
        ("qvm-run", "--no-autostart", "-p", "net", "true"),
    ):
        ours, theirs = both.ours(*words), both.upstream(*words)
        assert ours.returncode == theirs.returncode != 0, f"{words}: {ours}\n{theirs}"
        assert (ours.stdout, theirs.stdout) == ("", "")


LIBRARY = """
import io, json
import qubesadmin, qubesadmin.firewall
app = qubesadmin.Qubes()
work = app.domains["work"]
print(json.dumps({
    "names": [vm.name for vm in app.domains],
    "classes": {vm.name: vm.klass for vm in app.domains},
    "labels": {label: [app.labels[label].index, app.labels[label].color] for label in app.labels},
    "default_template": str(app.default_template),
    "properties": sorted(work.property_list()),
    "netvm": work.netvm.name,
    "memory": work.memory,
    "default": [work.property_is_default(name) for name in ("memory", "vcpus")],
    "connected": [vm.name for vm in app.domains["net"].connected_vms],
    "derived": sorted(vm.name for vm in app.default_template.derived_vms),
    "features": dict(work.features.items()),
    "inherited": work.features.check_with_template("os", None),
    "tags": sorted(work.tags),
    "copy": [sorted(app.domains["copy"].tags), dict(app.domains["copy"].features.items())],
    "rules": [rule.rule for rule in app.domains["copy"].firewall.rules],
    "notes": app.domains["copy"].get_notes(),
    "size": app.domains["copy"].volumes["private"].size,
    "pools": sorted(str(pool) for pool in app.pools),
    "state": work.get_power_state(),
    "devices": [list(work.devices[kind].get_assigned_devices()) for kind in ("block", "pci")],
}))
"""


def test_the_client_library(both: LabDom0) -> None:
    found = json.loads(both.python(LIBRARY))
    assert found == found | {
        "names": ["alone", "copy", TEMPLATE, "dom0", "net", "work"],
        "classes": {
            "alone": "StandaloneVM",
            "copy": "AppVM",
            TEMPLATE: "TemplateVM",
            "dom0": "AdminVM",
            "net": "AppVM",
            "work": "AppVM",
        },
        "default_template": TEMPLATE,
        "netvm": "net",
        "memory": 555,
        "default": [False, True],
        "derived": ["copy", "net", "work"],
        "features": {"a": "b c", "empty": "", "service.cups": "1", "service.crond": ""},
        "inherited": "Linux",
        "tags": ["created-by-dom0", "one", "two"],
        "copy": [["created-by-dom0", "one", "two"], found["features"]],
        "rules": [
            "action=drop dsthost=example.com comment=a b",
            "action=accept proto=tcp dst4=10.0.0.0/8 dstports=80-90",
            "action=accept specialtarget=dns",
            "action=accept proto=icmp icmptype=8",
        ],
        "notes": "first\nsecond",
        "size": 3 * 2**30,
        "pools": ["linux-kernel", "varlibqubes"],
        "state": "Running",
        "devices": [[], []],
    }
    assert sorted(found["connected"]) == ["copy", "work"]
    assert found["labels"]["red"] == [1, "0xcc0000"]


def test_data_goes_in_by_the_library(both: LabDom0, tmp_path: Path) -> None:
    data = os.urandom(2**20 + 4096)
    path = tmp_path / "data"
    path.write_bytes(data)
    assert both.upstream("qvm-volume", "import", "net:private", str(path)).returncode == 0
    image = both.lab.state / "qubes/appvms/net/private.img"
    assert image.read_bytes() == data
    path.write_bytes(data[:100])
    done = both.upstream("qvm-volume", "import", "--no-resize", "net:private", str(path))
    assert done.returncode == 1
    assert image.read_bytes() == data
    assert "qvm-volume info" not in done.stderr
    assert both.upstream("qvm-volume", "info", "net:private", "size").stdout == f"{len(data)}\n"


def test_upstream_s_qvm_run(both: LabDom0) -> None:
    for name in ("qubes.VMShell", "qubes.VMExec"):
        program = Path(__file__).parents[2] / "lab/qube/rpc" / name
        both.lab.service("work", name, f'exec {program} "$@"')
    for tool in (both.upstream, both.ours):
        done = tool("qvm-run", "--pass-io", "work", "cat; echo problem >&2; exit 3", data="in")
        assert (done.returncode, done.stdout, done.stderr) == (3, "in", "problem\n")
        done = tool("qvm-run", "-p", "-u", "mallory", "work", "--", "printf", "%s.", "a b", "$c")
        assert (done.returncode, done.stdout) == (0, "a b.$c.")
        done = tool("qvm-run", "-p", "--service", "work", "qubes.VMShell", data="exit 4")
        assert done.returncode == 4


def test_events_reach_the_library(both: LabDom0) -> None:
    program = """
import asyncio
import qubesadmin, qubesadmin.events
app = qubesadmin.Qubes()
events = qubesadmin.events.EventsDispatcher(app)
seen = asyncio.Queue()
def handler(subject, event, **kwargs):
    seen.put_nowait((str(subject), event, str(kwargs.get("newvalue"))))
for name in ("connection-established", "property-set:vcpus", "domain-feature-set:seen"):
    events.add_handler(name, handler)
async def main():
    listening = asyncio.ensure_future(events.listen_for_events(reconnect=False))
    print(await seen.get())
    app.domains["net"].vcpus = 1
    app.domains["net"].features["seen"] = "yes"
    print(await seen.get())
    print((await seen.get())[:2])
    listening.cancel()
asyncio.run(main())
"""
    assert re.sub(r"<.*?>", "", both.python(program)).splitlines() == [
        "('None', 'connection-established', 'None')",
        "('net', 'property-set:vcpus', '1')",
        "('net', 'domain-feature-set:seen')",
    ]
