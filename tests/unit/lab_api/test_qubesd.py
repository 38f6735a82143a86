# SPDX-License-Identifier: GPL-3.0-or-later
"""The Admin API over its socket: the client library, hostile clients, and crashes."""

from __future__ import annotations

import json
import signal
import socket
import threading

import pytest
import qubesadmin
from qubesadmin import DEFAULT, exc
from qubesadmin.vm import QubesVM

from testing.lab.harness import TEMPLATE, Lab


def test_a_new_lab(app: qubesadmin.Qubes) -> None:
    assert {vm.name: (vm.klass, vm.get_power_state()) for vm in app.domains} == {
        "dom0": ("AdminVM", "Running"),
        TEMPLATE: ("TemplateVM", "Halted"),
    }
    assert app.default_template.name == TEMPLATE
    assert app.domains[TEMPLATE].features["os"] == "Linux"
    assert "nope" not in app.domains
    with pytest.raises(KeyError):
        app.domains["nope"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory", 500), ("autostart", True), ("default_user", "root"), ("backup_timestamp", 12345)],
)
def test_properties_are_kept_and_reset(lab: Lab, work: QubesVM, name: str, value: object) -> None:
    assert work.property_is_default(name)
    before = getattr(work, name, None)
    setattr(work, name, value)
    lab.stop()
    lab.start()
    assert getattr(work, name) == value
    assert not work.property_is_default(name)
    setattr(work, name, DEFAULT)
    assert getattr(work, name, None) == before


def test_property_values_have_types(app: qubesadmin.Qubes, work: QubesVM) -> None:
    assert work.template == app.domains[TEMPLATE]
    assert work.label == app.labels["red"]
    assert work.label.index == 1
    assert work.netvm is None
    assert work.memory == 400
    assert work.debug is False
    assert not hasattr(work, "backup_timestamp")
    assert not hasattr(app.domains[TEMPLATE], "template")
    app.domains[TEMPLATE].memory = 700
    assert work.memory == 700
    assert work.property_get_default("memory") == 700


def test_netvm(app: qubesadmin.Qubes, work: QubesVM) -> None:
    net = app.add_new_vm("AppVM", "net", "orange")
    with pytest.raises(exc.QubesValueError, match="does not provide network"):
        work.netvm = net
    net.provides_network = True
    work.netvm = net
    assert work.netvm == net
    assert list(net.connected_vms) == [work]
    work.provides_network = True
    with pytest.raises(exc.QubesValueError, match="Loops"):
        net.netvm = work
    with pytest.raises(exc.QubesValueError, match="still used"):
        net.provides_network = False
    work.netvm = None
    assert not work.property_is_default("netvm")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("memory", "much", exc.QubesValueError),
        ("memory", 0, exc.QubesPropertyValueError),
        ("autostart", "maybe", exc.QubesValueError),
        ("label", "mauve", exc.QubesLabelNotFoundError),
        ("template", "no-such-qube", exc.QubesPropertyValueError),
        ("template", "dom0", exc.QubesPropertyValueError),
        ("template", "", exc.QubesPropertyValueError),
        ("netvm", "no such", exc.QubesValueError),
        ("default_user", "a b", exc.QubesPropertyValueError),
        ("virt_mode", "fast", exc.QubesPropertyValueError),
        ("kernel", "5.0", exc.QubesPropertyValueError),
        ("default_dispvm", TEMPLATE, exc.QubesPropertyValueError),
        ("updateable", "True", exc.QubesPropertyValueError),
        ("kernelopts", "é", exc.QubesValueError),
        ("name", "other", exc.QubesPropertyAccessError),
        ("qid", "1", exc.QubesPropertyAccessError),
        ("nonsense", "1", exc.QubesNoSuchPropertyError),
    ],
)
def test_bad_values_change_nothing(
    same_app: qubesadmin.Qubes, name: str, value: object, error: type[Exception]
) -> None:
    work = same_app.domains["work"]
    with pytest.raises(error):
        setattr(work, name, value)
    assert work.template.name == TEMPLATE
    assert work.memory == 400


def test_features_tags_and_notes(work: QubesVM) -> None:
    work.features["a"] = True
    work.features["b"] = False
    work.features["service.x"] = "text %s with % signs"
    assert dict(work.features.items()) == {"a": "1", "b": "", "service.x": "text %s with % signs"}
    assert work.features.check_with_template("os") == "Linux"
    assert work.features.get("os") is None
    del work.features["a"]
    with pytest.raises(KeyError):
        work.features["a"]
    with pytest.raises(exc.ProtocolError):
        work.features["c"] = "two\nlines"
    work.tags.add("t")
    assert "t" in work.tags
    assert set(work.tags) == {"t", "created-by-dom0"}
    work.tags.discard("t")
    with pytest.raises(exc.QubesTagNotFoundError):
        work.tags.remove("t")
    work.set_notes("first\nsecond\x1b")
    assert work.get_notes() == "first\nsecond_"


def test_firewall(lab: Lab, work: QubesVM) -> None:
    assert work.firewall.rules == ["action=accept"]
    work.firewall.save_rules(
        ["action=accept dst4=10.0.0.1 proto=tcp dstports=80", "action=drop comment=the rest"]
    )
    assert work.firewall.rules == [
        "action=accept dst4=10.0.0.1/32 proto=tcp dstports=80-80",
        "action=drop comment=the rest",
    ]
    text = (lab.state / "qubes/appvms" / "work" / "firewall.xml").read_text()
    assert '<property name="dsthost">10.0.0.1/32</property>' in text
    for bad in ("accept", "action=allow", "action=accept dstports=80", "action=drop x=1"):
        with pytest.raises(exc.QubesDaemonAccessError, match="empty response"):
            work.firewall.save_rules([bad])
    work.firewall.save_rules(["action=drop expire=1"])
    assert work.firewall.rules == []


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("work", exc.QubesException),
        ("1st", exc.QubesValueError),
        ("none", exc.QubesValueError),
        ("x" * 32, exc.QubesValueError),
        ("a/b", exc.QubesValueError),
        ("a-dm", exc.QubesValueError),
        ("é", exc.ProtocolError),
    ],
)
def test_names_that_a_qube_cannot_have(
    same_app: qubesadmin.Qubes, name: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        same_app.add_new_vm("AppVM", name, "red")
    assert same_app.domains.keys() == [TEMPLATE, "dom0", "work"]


def test_creation_checks_its_options(app: qubesadmin.Qubes) -> None:
    for cls, label, template, error in (
        ("AppVM", "mauve", TEMPLATE, exc.ProtocolError),
        ("AppVM", "red", "nope", exc.QubesVMNotFoundError),
        ("AppVM", "red", "dom0", exc.QubesPropertyValueError),
        ("TemplateVM", "red", TEMPLATE, exc.ProtocolError),
        ("DispVM", "red", None, exc.QubesNotImplementedError),
        ("NoVM", "red", None, exc.ProtocolError),
    ):
        with pytest.raises(error):
            app.add_new_vm(cls, "new", label, template)
    assert "new" not in app.domains


def listen(lab: Lab, dest: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(lab.socket("dom0", "qubesd.sock")))
    client.sendall(f"admin.Events+ dom0 name {dest}\0".encode())
    client.shutdown(socket.SHUT_WR)
    return client


def test_events(lab: Lab, app: qubesadmin.Qubes, work: QubesVM) -> None:
    with listen(lab, "dom0") as every, listen(lab, TEMPLATE) as other:
        stream, quiet = every.makefile("rb"), other.makefile("rb")
        established = b"1\0\0connection-established\0\0"
        assert stream.read(len(established)) == established
        assert quiet.read(len(established)) == established
        work.memory = 444
        expected = b"1\0work\0property-set:memory\0name\0memory\0newvalue\x00444\0\0"
        assert stream.read(len(expected)) == expected
        work.start()
        work.shutdown(wait=True)
        app.domains[TEMPLATE].tags.add("t")
        data = b""
        while b"domain-tag-add:t" not in data:
            data += stream.read1(1000)
        assert b"1\0work\0domain-start\0start_guid\0True\0\0" in data
        assert b"1\0work\0domain-shutdown\0\0" in data
        expected = f"1\0{TEMPLATE}\0domain-tag-add:t\0tag\0t\0\0".encode()
        assert quiet.read(len(expected)) == expected


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", b""),
        (b"\0", b""),
        (b"\xff\xfe\xfd", b""),
        (b"admin.vm.List\0", b""),
        (b"admin.vm.List+ dom0 keyword anything\0", b""),
        (b"admin.vm.Li\xffst+ dom0 name dom0\0", b""),
        (b"x" * 70000, b""),
        (b"admin.vm.List+ dom0 name dom0\0" + b"x" * 66000, b""),
        (b"admin.nonsense+ dom0 name dom0\0", b"2\0ProtocolError\0\0no such method"),
        (b"admin.vm.List+x dom0 name dom0\0", b"2\0ProtocolError\0\0unexpected argument"),
        (b"admin.vm.List+ dom0 name dom0\0x", b"2\0ProtocolError\0\0unexpected payload"),
        (b"admin.vm.tag.Set+ dom0 name dom0\0", b"2\0ProtocolError\0\0expected an argument"),
        (b"admin.label.List+ dom0 name debian-13-minimal\0", b"2\0ProtocolError\0\0expected dest"),
        (b"admin.vm.Start+ dom0 name nope\0", b"2\0QubesVMNotFoundError\0\0"),
        (b"admin.vm.Start+ dom0 name ../etc\0", b"2\0QubesValueError\0\0"),
        (b"admin.vm.Start+ nope name dom0\0", b"2\0QubesVMNotFoundError\0\0"),
        (b"admin.vm.Start+ dom0 name uuid:zz\0", b"2\0QubesVMInvalidUUIDError\0\0"),
        (b"admin.vm.List+ dom0 name uuid:" + b"0-" * 18 + b"\0", b"2\0QubesVMInvalidUUID"),
        (b"admin.vm.Create.AppVM+ dom0 name dom0\0name", b""),
        (b"admin.vm.Create.AppVM+ dom0 name dom0\0name=a name=b", b"2\0ProtocolError\0\0Options"),
        (b"admin.vm.Create.AppVM+ dom0 name dom0\0name=a", b"2\0ProtocolError\0\0Creation"),
        (b"internal.GetSystemInfo+ dom0 name dom0\0", b"2\0ProtocolError\0\0no such method"),
        (b"admin.backup.Execute+../../x dom0 name dom0\0", b"2\0ProtocolError\0\0Backup"),
        (b"admin.vm.volume.CloneTo+root dom0 name debian-13-minimal\0\xff", b"2\0ProtocolError"),
        (
            b"admin.vm.volume.CloneTo+root dom0 name debian-13-minimal\0x",
            b"2\0QubesVolumeCopyTokenNotFoundError\0\0Token",
        ),
        (b"admin.vm.Create.AppVM+ dom0 name dom0\0", b""),
        (b"admin.vm.property.Set+mac dom0 name debian-13-minimal\0x", b""),
        (b"admin.property.Set+default_netvm dom0 name dom0\0work", b"2\0QubesPropertyValueError"),
        (
            b"admin.vm.volume.List+ dom0 name debian-13-minimal\0",
            b"0\0root\nprivate\nvolatile\nkernel\n",
        ),
        (b"admin.vm.tag.Set+a/b dom0 name debian-13-minimal\0", b"2\0QubesInvalidTagError\0\0"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_hostile_requests(
    same_lab: Lab, same_app: qubesadmin.Qubes, data: bytes, answer: bytes
) -> None:
    got = same_lab.raw(data)
    assert got[: len(answer)] == answer
    assert (got == b"") == (answer == b"")
    assert same_app.domains.keys() == [TEMPLATE, "dom0", "work"]


def test_the_system_info_that_policy_gets(lab: Lab, app: qubesadmin.Qubes, work: QubesVM) -> None:
    def info(name: str) -> dict[str, object]:
        request = b"internal.GetSystemInfo+ dom0 name dom0\0"
        answer = lab.raw(request, "qubesd.internal.sock")
        assert answer.startswith(b"0\0")
        return dict(json.loads(answer[2:])["domains"][name])

    dvm = app.add_new_vm("AppVM", "dvm", "green", TEMPLATE)
    dvm.template_for_dispvms = True
    app.default_dispvm = dvm
    assert info("work")["default_dispvm"] == "dvm"
    work.default_dispvm = None
    assert info("work")["default_dispvm"] is None, "none isn't the system's default"
    assert info("work") == {
        "internal": None,
        "tags": ["created-by-dom0"],
        "type": "AppVM",
        "template_for_dispvms": False,
        "default_dispvm": None,
        "icon": "appvm-red",
        "label": "0xcc0000",
        "guivm": "dom0",
        "relayvm": None,
        "transport_rpc": None,
        "power_state": "Halted",
        "uuid": work.uuid,
    }
    assert info("dvm")["template_for_dispvms"] is True
    assert info("dom0")["guivm"] is None


def test_a_client_that_sends_nothing_holds_nobody_up(lab: Lab, app: qubesadmin.Qubes) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(lab.socket("dom0", "qubesd.sock")))
        silent.sendall(b"admin.vm.List+ dom0 ")
        assert TEMPLATE in app.domains


def test_uuid_and_keyword_destinations(lab: Lab, work: QubesVM) -> None:
    answer = lab.raw(f"admin.vm.List+ dom0 name uuid:{work.uuid}\0".encode())
    assert answer.startswith(b"0\0work class=AppVM state=Halted uuid=")
    assert lab.raw(b"admin.vm.List+ dom0 keyword adminvm\0").count(b"\n") == 3


def test_two_clients_at_once(lab: Lab, work: QubesVM) -> None:
    def write(client: str) -> None:
        for number in range(60):
            work.features[f"{client}-{number}"] = "1"
            with pytest.raises(exc.QubesTagNotFoundError):
                work.tags.remove("not-there")

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{name}-{number}" for name in ("a", "b") for number in range(60)}
    assert set(work.features) == expected
    lab.stop()
    lab.start()
    assert set(work.features) == expected


def test_a_crash_loses_nothing_that_was_acknowledged(lab: Lab, work: QubesVM) -> None:
    acknowledged = []
    enough = threading.Event()

    def write() -> None:
        try:
            for number in range(100_000):
                work.features[f"f{number}"] = "x" * 100
                acknowledged.append(f"f{number}")
                if number == 50:
                    enough.set()
        except exc.QubesException:
            return  # the daemon is gone

    writer = threading.Thread(target=write)
    writer.start()
    enough.wait()
    lab.stop(signal.SIGKILL)
    writer.join()
    lab.start()
    kept = set(work.features)
    assert kept >= set(acknowledged)
    assert len(kept) - len(acknowledged) in (0, 1)


def test_half_a_state_file_beside_the_real_one_is_ignored(lab: Lab, work: QubesVM) -> None:
    lab.stop()
    state = lab.state / "domains.json"
    state.with_name("domains.json.new").write_text(state.read_text()[:100])
    lab.start()
    assert work.memory == 400
    work.memory = 500
    assert json.loads(state.read_text())["version"] == 1


def test_a_damaged_state_file_is_refused(lab: Lab) -> None:
    lab.stop()
    state = lab.state / "domains.json"
    good = state.read_text()
    for bad in ("", "{}", good[:-10], good.replace('"version": 1', '"version": 2')):
        state.write_text(bad)
        with pytest.raises(AssertionError, match="can't use"):
            lab.start()
    state.write_text(good)
    lab.start()


def test_a_second_daemon_is_refused(lab: Lab, app: qubesadmin.Qubes) -> None:
    first = lab.process
    socket_path = lab.socket("dom0", "qubesd.sock")
    moved = socket_path.rename(socket_path.with_name("first.sock"))
    with pytest.raises(AssertionError, match="another daemon"):
        lab.start()
    moved.rename(socket_path)
    lab.process = first
    assert TEMPLATE in app.domains
