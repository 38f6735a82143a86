# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's qubesd: volumes, clones, and what starts and stops."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import qubesadmin
from qubesadmin import exc
from qubesadmin.vm import QubesVM

from testing.lab.harness import TEMPLATE, Lab


def test_volumes(lab: Lab, work: QubesVM) -> None:
    private, root = work.volumes["private"], work.volumes["root"]
    folder = lab.state / "qubes/appvms/work"
    assert list(work.volumes) == ["root", "private", "volatile", "kernel"]
    assert private.info()["path"] == str(folder / "private.img")
    assert private.save_on_stop
    assert not private.snap_on_start
    assert root.source == f"vm-templates/{TEMPLATE}/root"
    assert root.size == 2**20
    private.resize(3 * 2**30)
    assert private.size == 3 * 2**30 == (folder / "private.img").stat().st_size
    with pytest.raises(exc.StoragePoolException):
        private.resize(2**30, allow_shrink=True)
    with pytest.raises(exc.StoragePoolException):
        root.resize(2**40)
    for size in (b"0", b"-1", b"1e9", b"99999999999999999999", b""):
        with pytest.raises((exc.StoragePoolException, exc.ProtocolError)):
            work.qubesd_call("work", "admin.vm.volume.Resize", "private", size)
    private.revisions_to_keep = 1
    assert private.revisions_to_keep == 1
    assert private.revisions == []
    with pytest.raises(exc.PermissionDenied):
        work.qubesd_call("work", "admin.vm.volume.Info", "../private")


def test_import_replaces_a_volume_in_one_step(lab: Lab, work: QubesVM, tmp_path: Path) -> None:
    data = os.urandom(100_000) + bytes(200_000) + b"end"
    source = tmp_path / "data"
    source.write_bytes(data)
    image = lab.state / "qubes/appvms" / "work" / "private.img"
    private = work.volumes["private"]
    private.import_data_with_size(source.open("rb"), len(data))
    assert image.read_bytes() == data
    assert private.size == len(data)
    source.write_bytes(data[::-1])
    private.import_data(source.open("rb"))
    assert image.read_bytes() == data[::-1]
    for wrong, message in ((b"short", "not enough data"), (data + b"x", "too much data")):
        source.write_bytes(wrong)
        with pytest.raises(exc.QubesException, match=message):
            private.import_data(source.open("rb"))
        assert image.read_bytes() == data[::-1]
        assert sorted(path.name for path in image.parent.iterdir()) == [
            "private.img",
            "volatile.img",
        ]
    private.clear_data()
    assert image.read_bytes() == bytes(len(data))
    work.start()
    with pytest.raises(exc.QubesVMNotHaltedError):
        private.import_data(source.open("rb"))


def test_a_running_qubes_private_volume_is_read_as_it_was_at_the_start(
    lab: Lab, work: QubesVM
) -> None:
    image = lab.state / "qubes/appvms" / "work" / "private.img"
    os.truncate(image, 4096)
    work.start()
    image.write_bytes(b"changed while it runs")
    path = Path(work.volumes["private"].info()["path"])
    assert path.read_bytes() == bytes(4096)
    work.shutdown(wait=True)
    assert work.volumes["private"].info()["path"] == str(image)
    assert not path.exists()


def test_a_clone_has_everything_but_its_identity(
    lab: Lab, app: qubesadmin.Qubes, work: QubesVM
) -> None:
    (lab.state / "qubes/appvms" / "work" / "private.img").write_bytes(b"private data")
    work.memory, work.netvm, work.backup_timestamp = 600, None, 77
    work.features["f"], work.label = "v", "green"
    work.tags.add("t")
    work.set_notes("note")
    work.firewall.save_rules(["action=drop"])
    clone = app.clone_vm(work, "clone")
    assert (clone.memory, clone.label.name, clone.template.name) == (600, "green", TEMPLATE)
    assert clone.backup_timestamp == 77
    assert not clone.property_is_default("netvm")
    assert clone.features["f"] == "v"
    assert "t" in clone.tags
    assert clone.get_notes() == "note"
    assert clone.firewall.rules == ["action=drop"]
    assert (lab.state / "qubes/appvms/clone/private.img").read_bytes() == b"private data"
    assert clone.uuid != work.uuid
    assert clone.qid != work.qid
    template = app.clone_vm(TEMPLATE, "template-2")
    assert template.klass == "TemplateVM"
    assert (lab.state / "qubes/vm-templates/template-2/root.img").stat().st_size == 2**20


def test_a_clone_token_works_once(app: qubesadmin.Qubes, work: QubesVM) -> None:
    token = app.qubesd_call("work", "admin.vm.volume.CloneFrom", "private")
    app.qubesd_call(TEMPLATE, "admin.vm.volume.CloneTo", "private", token)
    with pytest.raises(exc.QubesException, match="Token to clone volume of qube was not found"):
        app.qubesd_call(TEMPLATE, "admin.vm.volume.CloneTo", "private", token)
    assert work.volumes["private"].size == app.domains[TEMPLATE].volumes["private"].size


def test_what_is_in_use_stays(lab: Lab, app: qubesadmin.Qubes, work: QubesVM) -> None:
    with pytest.raises(exc.QubesVMInUseError):
        del app.domains[TEMPLATE]
    with pytest.raises(exc.QubesVMInUseError):
        del app.domains["dom0"]
    work.start()
    with pytest.raises(exc.QubesVMNotHaltedError):
        del app.domains["work"]
    with pytest.raises(exc.QubesVMNotHaltedError):
        work.template = app.clone_vm(TEMPLATE, "template-2")
    work.shutdown(wait=True)
    del app.domains["work"]
    assert "work" not in app.domains
    assert not (lab.state / "qubes/appvms/work").exists()
    assert app.add_new_vm("AppVM", "work", "red").name == "work"


def test_starting_and_stopping(lab: Lab, app: qubesadmin.Qubes, work: QubesVM) -> None:
    work.start()
    assert work.get_power_state() == "Running"
    work.start()
    with pytest.raises(exc.QubesVMNotHaltedError):
        app.domains["dom0"].start()
    with pytest.raises(exc.QubesVMError):
        app.domains["dom0"].shutdown()
    work.shutdown()
    lab.until(work.is_halted)
    for stop in (work.shutdown, work.kill):
        with pytest.raises(exc.QubesVMNotStartedError):
            stop()
    (lab.state / "roots/work").mkdir(parents=True)
    (lab.state / "roots" / "work" / "refuses-to-start").touch()
    with pytest.raises(exc.QubesException, match="Start failed: it refuses to start"):
        work.start()
    assert work.is_halted()


def test_a_netvm_with_running_clients_is_stopped_by_force_only(
    app: qubesadmin.Qubes, work: QubesVM
) -> None:
    net = app.add_new_vm("AppVM", "net", "orange")
    net.provides_network = True
    work.netvm = net
    work.start()
    net.start()
    with pytest.raises(exc.QubesVMInUseError, match="work"):
        net.shutdown()
    net.shutdown(force=True, wait=True)
    assert net.is_halted()


def test_a_qube_that_died_is_halted_and_logged(lab: Lab, work: QubesVM) -> None:
    work.start()
    frozen = lab.state / "qubes/appvms" / "work" / "private.img.before"
    assert frozen.exists()
    os.kill(int((lab.state / "running/work").read_text()), signal.SIGKILL)
    lab.until(work.is_halted)
    lab.until(lambda: "work ended by itself" in lab.log())
    lab.until(lambda: not frozen.exists())
    work.start()
    assert work.is_running()


def test_a_daemon_that_comes_back_takes_over_what_runs(lab: Lab, work: QubesVM) -> None:
    work.start()
    lab.stop(signal.SIGKILL)
    lab.start()
    assert work.is_running()
    lab.service("work", "qubes.VMShell", "exec sh")
    assert work.run("echo alive")[0] == b"alive\n"
    work.shutdown(wait=True)
    assert not (lab.state / "qubes/appvms" / "work" / "private.img.before").exists()
