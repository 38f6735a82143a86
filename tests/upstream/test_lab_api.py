# SPDX-License-Identifier: GPL-3.0-or-later
"""The same requests to upstream's qubesd and to the lab's: the same answers, the same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from testing.lab.harness import Lab
from testing.upstream.dom0 import Dom0, Qube
from testing.upstream.lab_client import LabDom0, lab_dom0
from testing.upstream.sources import Sources

T = "@template"
NOT_THERE = "11111111-2222-3333-4444-555555555555"
GONE = f"uuid:{NOT_THERE}"
# Destination, method, argument, payload: calls that are refused, or answered alike. Not among them:
# making a volume smaller, which the lab refuses, and upstream's file pool does.
CALLS: tuple[tuple[str, str, str, bytes], ...] = (
    ("dom0", "admin.nonsense", "", b""),
    ("nope", "admin.vm.Start", "", b""),
    ("../etc", "admin.vm.Start", "", b""),
    ("-x", "admin.vm.Start", "", b""),
    ("uuid:zz", "admin.vm.Start", "", b""),
    (GONE, "admin.vm.Start", "", b""),
    ("dom0", "admin.vm.List", "x", b""),
    ("dom0", "admin.vm.List", "", b"x"),
    ("nope", "admin.vm.List", "", b""),
    ("work", "admin.label.List", "", b""),
    ("dom0", "admin.label.Get", "mauve", b""),
    ("dom0", "admin.label.Get", "re/d", b""),
    ("dom0", "admin.label.Get", "red", b""),
    ("dom0", "admin.label.Index", "red", b""),
    ("work", "admin.vm.property.Get", "", b""),
    ("work", "admin.vm.property.Get", "nonsense", b""),
    ("work", "admin.vm.property.Get", "label", b""),
    ("work", "admin.vm.property.Get", "netvm", b""),
    ("work", "admin.vm.property.Get", "template", b""),
    ("work", "admin.vm.property.Get", "autostart", b""),
    ("work", "admin.vm.property.Get", "klass", b""),
    ("dom0", "admin.property.Get", "nonsense", b""),
    ("dom0", "admin.property.Get", "clockvm", b""),
    ("work", "admin.property.Get", "clockvm", b""),
    ("work", "admin.vm.property.GetDefault", "autostart", b""),
    ("work", "admin.vm.property.GetDefault", "template", b""),
    ("work", "admin.vm.property.GetDefault", "nonsense", b""),
    ("work", "admin.vm.property.Help", "nonsense", b""),
    ("work", "admin.vm.property.Reset", "nonsense", b""),
    ("work", "admin.vm.property.Reset", "template", b""),
    *(
        ("work", "admin.vm.property.Set", name, value)
        for name, value in (
            ("nonsense", b"1"),
            ("memory", b"much"),
            ("memory", b"0"),
            ("memory", b"-1"),
            ("memory", b"\xff"),
            ("vcpus", b"0"),
            ("autostart", b"maybe"),
            ("autostart", b"True"),
            ("label", b"mauve"),
            ("label", b"re/d"),
            ("template", b"nope"),
            ("template", b"dom0"),
            ("template", b"work"),
            ("template", b""),
            ("template", b"a b"),
            ("netvm", b"nope"),
            ("netvm", b"other"),
            ("netvm", b"work"),
            ("netvm", b"no such"),
            ("default_user", b"a b"),
            ("default_user", b"root"),
            ("virt_mode", b"fast"),
            ("kernel", b"5.0"),
            ("kernel", b"../x"),
            ("kernelopts", b"\xc3\xa9"),
            ("kernelopts", b"x" * 600),
            ("default_dispvm", b"other"),
            ("updateable", b"True"),
            ("klass", b"x"),
            ("name", b"x"),
            ("name", b"other"),
            ("qid", b"7"),
            ("uuid", NOT_THERE.encode()),
            ("backup_timestamp", b"x"),
            ("mac", b"x"),
            ("keyboard_layout", b"a b"),
            ("qrexec_timeout", b"0"),
            ("provides_network", b"x"),
        )
    ),
    ("dom0", "admin.property.Set", "nonsense", b"x"),
    ("dom0", "admin.property.Set", "default_netvm", b"nope"),
    ("dom0", "admin.property.Set", "default_netvm", b"work"),
    ("dom0", "admin.property.Set", "default_template", b"work"),
    ("dom0", "admin.property.Set", "default_kernel", b"5.0"),
    ("dom0", "admin.property.Set", "clockvm", b"nope"),
    ("work", "admin.vm.feature.Get", "nope", b""),
    ("work", "admin.vm.feature.Get", "", b""),
    ("work", "admin.vm.feature.CheckWithTemplate", "nope", b""),
    ("work", "admin.vm.feature.CheckWithNetvm", "nope", b""),
    ("work", "admin.vm.feature.CheckWithAdminVM", "nope", b""),
    ("work", "admin.vm.feature.CheckWithTemplateAndAdminVM", "nope", b""),
    ("work", "admin.vm.feature.Remove", "nope", b""),
    ("work", "admin.vm.feature.Set", "f", b"two\nlines"),
    ("work", "admin.vm.feature.Set", "f", b"\xff"),
    ("work", "admin.vm.feature.Set", "f", b"v"),
    ("work", "admin.vm.feature.Get", "f", b""),
    ("work", "admin.vm.tag.Get", "nope", b""),
    ("work", "admin.vm.tag.Get", "a/b", b""),
    ("work", "admin.vm.tag.Set", "a/b", b""),
    ("work", "admin.vm.tag.Set", "", b""),
    ("work", "admin.vm.tag.Set", "t", b""),
    ("work", "admin.vm.tag.Get", "t", b""),
    ("work", "admin.vm.tag.Remove", "nope", b""),
    ("work", "admin.vm.tag.Remove", "a/b", b""),
    ("work", "admin.vm.firewall.Get", "", b""),
    *(
        ("work", "admin.vm.firewall.Set", "", rule)
        for rule in (
            b"",
            b"x",
            b"action=maybe",
            b"proto=tcp",
            b"action=accept action=drop",
            b"action=accept nonsense=1",
            b"action=accept dstports=80",
            b"action=accept proto=icmp dstports=80",
            b"action=accept proto=tcp dstports=80-70",
            b"action=accept proto=tcp dstports=70000",
            b"action=accept proto=tcp icmptype=8",
            b"action=accept dst4=10.0.0.0/33",
            b"action=accept dst4=10.0.0",
            b"action=accept dst4=10.1.2.3/x",
            b"action=accept dsthost=a b",
            b"action=accept dsthost=A",
            b"action=accept dst4=1.2.3.4 dst6=::1",
            b"action=accept specialtarget=x",
            b"action=accept expire=x",
            b"action=accept comment=a$b",
            b"action=accept\xff",
            b"action=accept dst6=2001:db8::/32 proto=udp dstports=53\naction=drop comment=a b",
        )
    ),
    ("work", "admin.vm.firewall.Get", "", b""),
    ("dom0", "admin.vm.firewall.Get", "", b""),
    ("work", "admin.vm.volume.Info", "nope", b""),
    ("work", "admin.vm.volume.Info", "", b""),
    ("work", "admin.vm.volume.List", "", b""),
    ("work", "admin.vm.volume.ListSnapshots", "private", b""),
    ("work", "admin.vm.volume.ListSnapshots", "nope", b""),
    ("work", "admin.vm.volume.Resize", "private", b"x"),
    ("work", "admin.vm.volume.Resize", "private", b"-1"),
    ("work", "admin.vm.volume.Resize", "nope", b"1000000"),
    ("work", "admin.vm.volume.Revert", "nope", b"x"),
    ("work", "admin.vm.volume.Set.rw", "private", b"maybe"),
    ("work", "admin.vm.volume.Set.revisions_to_keep", "private", b"x"),
    ("work", "admin.vm.volume.Set.revisions_to_keep", "private", b"-2"),
    ("work", "admin.vm.volume.CloneTo", "private", b"x"),
    ("work", "admin.vm.volume.CloneTo", "private", b"\xff"),
    ("dom0", "admin.vm.volume.List", "", b""),
    ("dom0", "admin.pool.Info", "nope", b""),
    ("dom0", "admin.pool.UsageDetails", "nope", b""),
    ("work", "admin.vm.Shutdown", "nonsense", b""),
    ("work", "admin.vm.Kill", "", b""),
    ("dom0", "admin.vm.Remove", "", b""),
    (T, "admin.vm.Remove", "", b""),
    *(
        ("dom0", f"admin.vm.Create.{klass}", argument, payload)
        for klass, argument, payload in (
            ("AppVM", T, b""),
            ("AppVM", T, b"name"),
            ("AppVM", T, b"name=new"),
            ("AppVM", T, b"label=red"),
            ("AppVM", T, b"name=new name=new label=red"),
            ("AppVM", T, b"name=new label=red x=y"),
            ("AppVM", T, b"name=work label=red"),
            ("AppVM", T, b"name=new label=mauve"),
            ("AppVM", T, b"name=new label=re/d"),
            ("AppVM", T, b"name=-new label=red"),
            ("AppVM", T, b"name=1 label=red"),
            ("AppVM", T, b"name=a/b label=red"),
            ("AppVM", T, b"name=dom0 label=red"),
            ("AppVM", T, b"name=none label=red"),
            ("AppVM", T, b"name=default label=red"),
            ("AppVM", T, b"name=x-dm label=red"),
            ("AppVM", T, b"name=" + b"x" * 40 + b" label=red"),
            ("AppVM", T, b"name=n\xc3\xa9 label=red"),
            ("AppVM", T, b"name=new label=red pool=x"),
            ("AppVM", "nope", b"name=new label=red"),
            ("AppVM", "work", b"name=new label=red"),
            ("AppVM", "a/b", b"name=new label=red"),
            ("StandaloneVM", T, b"name=new label=red"),
            ("Nonsense", "", b"name=new label=red"),
        )
    ),
    ("work", "admin.vm.Create.AppVM", T, b"name=new label=red"),
    ("dom0", "admin.vm.CreateInPool.AppVM", T, b"name=new label=red pool=nope"),
    ("dom0", "admin.vm.CreateInPool.AppVM", T, b"name=new label=red pool:nope=varlibqubes"),
    ("dom0", "admin.backup.Execute", "nope", b""),
    ("dom0", "admin.backup.Execute", "../x", b""),
    ("dom0", "admin.backup.Info", "nope", b""),
    ("dom0", "admin.backup.Cancel", "nope", b""),
    ("work", "admin.backup.Execute", "nope", b""),
)


def raw(lab: Lab, dest: str, method: str, argument: str, payload: bytes) -> bytes:
    """Call the lab's qubesd as Dom0.api calls upstream's."""
    return lab.raw(f"{method}+{argument} dom0 name {dest}\0".encode() + payload)


@pytest.fixture(scope="module")
def both(make_dom0: Callable[[], Dom0], sources: Sources) -> Iterator[tuple[Dom0, LabDom0]]:
    """Upstream's qubesd and the lab's, each with qubes `work` and `other`."""
    theirs = make_dom0()
    theirs.make([Qube("work"), Qube("other")])
    theirs.start()
    with lab_dom0(make_dom0(), sources) as ours:
        for name in ("work", "other"):
            answer = raw(
                ours.lab, "dom0", "admin.vm.Create.AppVM", "", f"name={name} label=red".encode()
            )
            assert answer == b"0\0"
        yield theirs, ours


def gist(answer: bytes, template: str) -> str:
    """Return what must be the same: a success's content, or an error's class, or no answer."""
    if answer.startswith(b"2\0"):
        return answer.split(b"\0")[1].decode()
    return answer.decode().replace(template, T)


@pytest.mark.parametrize(
    "call", CALLS, ids=lambda call: f"{call[1]}+{call[2]} {call[0]} {call[3]!r:.60}"
)
def test_answers(both: tuple[Dom0, LabDom0], call: tuple[str, str, str, bytes]) -> None:
    theirs, ours = both
    template = "debian-13-minimal"

    def ask(name: str) -> tuple[str, str, str, bytes]:
        dest, method, argument, payload = call
        return dest.replace(T, name), method, argument.replace(T, name), payload

    expected = gist(theirs.api(*ask("tmpl")), "tmpl")
    assert gist(raw(ours.lab, *ask(template)), template) == expected
