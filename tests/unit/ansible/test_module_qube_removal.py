# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `qube` with state absent, against a real lab qubesd."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.ansible.modules import Dom0

TEMPLATE = "debian-13-minimal"


@pytest.fixture
def dom0_with_data(dom0: Dom0) -> Dom0:
    """A dom0 with a halted qube `old` that holds data."""
    dom0("qube", name="old", template=TEMPLATE)
    data(dom0).write_bytes(bytes(range(256)) * 4096)
    return dom0


def data(dom0: Dom0) -> Path:
    return dom0.state / "qubes/appvms/old/private.img"


def test_what_is_said_once_removes_nothing(dom0_with_data: Dom0) -> None:
    dom0, before = dom0_with_data, dom0_with_data.qubes()
    for check in (True, False):
        message = dom0.refused("qube", check=check, name="old", state="absent")
        assert message == (
            "old (AppVM) exists, and removing it destroys what it holds, for good (volume private: "
            "1.0 MiB of 2.0 GiB in use): if nothing of it is needed, say `confirm_removal: old`"
        )
    message = dom0.refused("qube", name="old", state="absent", confirm_removal=TEMPLATE)
    assert f"confirm_removal names '{TEMPLATE}', another qube. old (AppVM) exists" in message
    assert dom0.qubes() == before
    assert data(dom0).exists()


def test_confirmation_without_absent_removes_nothing(dom0_with_data: Dom0) -> None:
    before = dom0_with_data.qubes()
    assert not dom0_with_data("qube", name="old", confirm_removal="old")["changed"]
    assert dom0_with_data.qubes() == before


def test_removed_once(dom0_with_data: Dom0) -> None:
    dom0, before = dom0_with_data, dom0_with_data.qubes()
    wanted = {"name": "old", "state": "absent", "confirm_removal": "old"}
    announced = dom0("qube", check=True, **wanted)
    assert (announced["changed"], announced["power_state"]) == (True, "halted")
    assert dom0.qubes() == before
    removed = dom0("qube", **wanted)
    assert (removed["changed"], removed["created"], removed["power_state"]) == (
        True,
        False,
        "absent",
    )
    assert removed["diff"] == announced["diff"]
    assert removed["diff"] == {
        "before": {
            "state": "halted",
            "klass": "AppVM",
            "volumes": {"private": "1.0 MiB of 2.0 GiB in use"},
        },
        "after": {"state": "absent"},
    }
    assert sorted(dom0.qubes()) == [TEMPLATE, "dom0"]
    assert not data(dom0).exists()
    for check in (True, False):
        again = dom0("qube", check=check, **wanted)
        assert (again["changed"], again["power_state"]) == (False, "absent")
        assert again["diff"] == {"before": {}, "after": {}}


def test_none_needs_no_confirmation(dom0: Dom0) -> None:
    assert not dom0("qube", name="never", state="absent")["changed"]


def test_a_running_one_is_left_running(dom0_with_data: Dom0) -> None:
    dom0 = dom0_with_data
    dom0("qube", name="old", state="running")
    for check in (True, False):
        message = dom0.refused(
            "qube", check=check, name="old", state="absent", confirm_removal="old"
        )
        assert "old is running and is not removed" in message
        assert "qvm-shutdown --wait old" in message
    assert dom0("qube", name="old")["power_state"] == "running"


def test_one_that_others_name_is_left(dom0: Dom0) -> None:
    dom0("qube", name="copy", clone_of=TEMPLATE)
    dom0("qube", name="net", template=TEMPLATE, properties={"provides_network": True})
    dom0("qube", name="work", template="copy", netvm="net")
    for name, use in (("copy", "the template of work"), ("net", "the netvm of work")):
        for check in (True, False):
            message = dom0.refused(
                "qube", check=check, name=name, state="absent", confirm_removal=name
            )
            assert f"{name} can't be removed, it is {use}: give" in message
    assert {"copy", "net", "work"} <= set(dom0.qubes())


def test_what_qubesd_refuses_is_told(dom0: Dom0) -> None:
    message = dom0.refused("qube", name=TEMPLATE, state="absent", confirm_removal=TEMPLATE)
    assert f"{TEMPLATE} can't be removed, qubesd says: " in message
    assert "journalctl -u qubesd" in message
    assert TEMPLATE in dom0.qubes()


def test_dom0_is_not_removed(dom0: Dom0) -> None:
    message = dom0.refused("qube", name="dom0", state="absent", confirm_removal="dom0")
    assert "dom0 can't be removed" in message


def test_a_half_made_clone_is_removed_and_made_anew(dom0: Dom0) -> None:
    dom0("qube", name="old", clone_of=TEMPLATE)
    # What runs that were killed while they cloned leave behind; `gone` was removed by hand.
    marks = {f"dedup-backup-cloning-{name}": True for name in ("old", "gone")}
    dom0("qube", name="dom0", features=marks)
    assert "half-made clone" in dom0.refused("qube", name="old", clone_of=TEMPLATE)
    assert "confirm_removal: old" in dom0.refused("qube", name="old", state="absent")
    for name in ("old", "gone"):
        wanted = {"name": name, "state": "absent", "confirm_removal": name}
        for check, changed in ((True, True), (False, True), (False, False)):
            assert dom0("qube", check=check, **wanted)["changed"] is changed
    assert not dom0.qube("dom0")["features"]
    assert dom0("qube", name="old", clone_of=TEMPLATE)["created"]
