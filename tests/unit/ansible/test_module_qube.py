# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `qube`, against a real lab qubesd."""

from __future__ import annotations

from typing import Any

import pytest

from testing.ansible.modules import Dom0, Modules

TEMPLATE = "debian-13-minimal"
BACKUP: dict[str, Any] = {
    "name": "dedup-backup",
    "klass": "AppVM",
    "template": TEMPLATE,
    "label": "gray",
    "netvm": "none",
    "properties": {"include_in_backups": False, "memory": "500"},
    "features": {"custom": "text", "off": False},
    "services": {"cups": False, "shutdown-idle": True},
    "tags": ["backup"],
    "volume_sizes": {"private": "3GiB"},
}


@pytest.fixture(scope="module")
def provisioned(kept_dom0: Dom0) -> Dom0:
    """A dom0 with the qube dedup-backup and the template other."""
    kept_dom0("qube", **BACKUP)
    kept_dom0("qube", name="other", clone_of=TEMPLATE)
    return kept_dom0


def test_made_as_described(dom0: Dom0) -> None:
    result = dom0("qube", **BACKUP)
    assert (result["changed"], result["created"], result["power_state"]) == (True, True, "halted")
    qube = dom0.qube("dedup-backup")
    assert qube["klass"] == "AppVM"
    assert {
        "label": "gray",
        "template": TEMPLATE,
        "netvm": None,
        "include_in_backups": False,
        "memory": 500,
    }.items() <= qube["properties"].items()
    assert {
        "custom": "text",
        "off": "",
        "service.cups": "",
        "service.shutdown-idle": "1",
    }.items() <= qube["features"].items()
    assert "backup" in qube["tags"]
    assert qube["volumes"]["private"]["size"] == 3 * 2**30


def test_second_run_changes_nothing(dom0: Dom0) -> None:
    dom0("qube", **BACKUP)
    before = dom0.qubes()
    for check in (False, True):
        result = dom0("qube", check=check, **BACKUP)
        assert (result["changed"], result["created"]) == (False, False)
        assert result["diff"] == {"before": {}, "after": {}}
    assert dom0.qubes() == before


def test_check_mode_tells_and_changes_nothing(dom0: Dom0) -> None:
    before = dom0.qubes()
    announced = dom0("qube", check=True, **BACKUP)
    assert (announced["changed"], announced["power_state"]) == (True, "absent")
    assert dom0.qubes() == before
    assert announced["diff"] == dom0("qube", **BACKUP)["diff"]


def test_diff_has_only_what_moves(dom0: Dom0) -> None:
    dom0("qube", **BACKUP)
    changed = {
        **BACKUP,
        "label": "red",
        "properties": {"include_in_backups": False, "memory": 600},
        "features": {"custom": None, "off": False},
        "tags": ["backup", "more"],
        "volume_sizes": {"private": "4GiB"},
    }
    expected = {
        "before": {
            "properties": {"label": "gray", "memory": 500},
            "features": {"custom": "text"},
            "tags": {"more": False},
            "volume_sizes": {"private": 3 * 2**30},
        },
        "after": {
            "properties": {"label": "red", "memory": 600},
            "features": {"custom": None},
            "tags": {"more": True},
            "volume_sizes": {"private": 4 * 2**30},
        },
    }
    assert dom0("qube", check=True, **changed)["diff"] == expected
    assert dom0("qube", **changed)["diff"] == expected
    qube = dom0.qube("dedup-backup")
    assert "custom" not in qube["features"]
    assert {"backup", "more"} <= set(qube["tags"])


def test_a_value_that_is_the_default_is_set_all_the_same(dom0: Dom0) -> None:
    """No network today because there is no default netvm must not become network tomorrow."""
    dom0("qube", name="plain", template=TEMPLATE)
    assert "netvm" not in dom0.qube("plain")["properties"]
    assert dom0("qube", name="plain", netvm="none")["changed"]
    assert dom0.qube("plain")["properties"]["netvm"] is None
    assert dom0("qube", name="plain", netvm="*default*")["changed"]
    assert "netvm" not in dom0.qube("plain")["properties"]
    assert not dom0("qube", name="plain", netvm="*default*")["changed"]


def test_starts_and_stops(dom0: Dom0) -> None:
    dom0("qube", **BACKUP)
    announced = dom0("qube", check=True, name="dedup-backup", state="running")
    assert (announced["changed"], announced["power_state"]) == (True, "halted")
    started = dom0("qube", name="dedup-backup", state="running")
    assert (started["changed"], started["power_state"]) == (True, "running")
    assert started["diff"] == {"before": {"state": "halted"}, "after": {"state": "running"}}
    assert not dom0("qube", name="dedup-backup", state="running")["changed"]
    assert dom0("qube", **BACKUP)["power_state"] == "running"
    stopped = dom0("qube", name="dedup-backup", state="halted")
    assert (stopped["changed"], stopped["power_state"]) == (True, "halted")
    assert not dom0("qube", name="dedup-backup", state="halted")["changed"]


def test_clone_has_the_data_but_was_never_backed_up(dom0: Dom0) -> None:
    dom0("qube", name=TEMPLATE, properties={"backup_timestamp": 1700000000})
    image = dom0.state / "qubes/vm-templates" / TEMPLATE / "root.img"
    image.write_bytes(b"root of the source".ljust(4096, b"."))
    result = dom0("qube", name="copy", clone_of=TEMPLATE, label="blue")
    assert result["created"]
    clone = dom0.qube("copy")
    assert (clone["klass"], clone["properties"]["label"]) == ("TemplateVM", "blue")
    assert "backup_timestamp" not in clone["properties"]
    assert dom0.qube(TEMPLATE)["properties"]["backup_timestamp"] == 1700000000
    assert clone["features"] == dom0.qube(TEMPLATE)["features"]
    copied = dom0.state / "qubes/vm-templates/copy/root.img"
    assert copied.read_bytes() == image.read_bytes()
    assert not dom0("qube", name="copy", clone_of=TEMPLATE, label="blue")["changed"]
    assert not dom0.qube("dom0")["features"]


def test_existing_clone_does_not_need_its_source(dom0: Dom0) -> None:
    dom0("qube", name="copy", clone_of=TEMPLATE)
    assert not dom0("qube", name="copy", clone_of="gone", klass="TemplateVM")["changed"]


def test_half_made_clone_is_refused(dom0: Dom0) -> None:
    dom0("qube", name="copy", clone_of=TEMPLATE)
    # What a run that was killed while it cloned leaves behind.
    dom0("qube", name="dom0", features={"dedup-backup-cloning-copy": True})
    message = dom0.refused("qube", name="copy", clone_of=TEMPLATE)
    assert "half-made clone" in message
    assert "qvm-remove copy" in message
    # Another clone made meanwhile doesn't make it look complete.
    dom0("qube", name="other", clone_of=TEMPLATE)
    assert "half-made clone" in dom0.refused("qube", name="copy", clone_of=TEMPLATE)


def test_volumes_are_never_shrunk(dom0: Dom0) -> None:
    dom0("qube", **BACKUP)
    result = dom0("qube", name="dedup-backup", volume_sizes={"private": "1GiB"})
    assert not result["changed"]
    assert "never shrunk" in str(result["warnings"])
    assert dom0.qube("dedup-backup")["volumes"]["private"]["size"] == 3 * 2**30


@pytest.mark.parametrize("option", ["template", "netvm"])
def test_what_it_needs_may_only_be_missing_in_check_mode(dom0: Dom0, option: str) -> None:
    wanted = {**BACKUP, option: "later"}
    result = dom0("qube", check=True, **wanted)
    assert result["changed"]
    problem = f"later, the {option} of dedup-backup, does not exist"
    assert f"{problem} yet" in str(result["warnings"])
    assert f"{problem}: make it first" in dom0.refused("qube", **wanted)
    assert "dedup-backup" not in dom0.qubes()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"klass": "StandaloneVM"}, "is a AppVM, not a StandaloneVM"),
        ({"clone_of": TEMPLATE}, "is a AppVM, not a TemplateVM"),
        ({"template": "other"}, f"is based on {TEMPLATE}, not on other"),
        ({"label": "pink"}, "there is no label 'pink'"),
        ({"properties": {"colour": "red"}}, "no property 'colour'"),
        ({"properties": {"label": "red"}}, "give label by the option label"),
        ({"volume_sizes": {"cellar": "1GiB"}}, "no volume 'cellar'"),
        ({"volume_sizes": {"private": "1 GB"}}, "can't be a volume's size"),
        ({"tags": ["a b"]}, "can't be a tag"),
        ({"template": "no/name"}, "can't be a qube's name"),
        ({"netvm": "no name"}, "'no name' can't be a qube's name"),
        ({"features": {"a b": 1}}, "'a b' can't be a feature's or service's name"),
        ({"services": {"a\n": True}}, "'service.a\\n' can't be a feature's or service's name"),
        ({"features": {"a": "x\ny"}}, "value of feature a must be one line of printable ASCII"),
        ({"template": "other", "clone_of": TEMPLATE}, "mutually exclusive"),
    ],
)
def test_refused_without_any_change(
    provisioned: Dom0, wanted: dict[str, object], message: str, check: bool
) -> None:
    before = provisioned.qubes()
    assert message in provisioned.refused("qube", check=check, name="dedup-backup", **wanted)
    assert provisioned.qubes() == before


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            "a b",
            "1a",
            "-a",
            ".a",
            "a/b",
            "../a",
            "a\nb",
            "a\x1b[31m",
            "a;reboot",
            "\u00e4",
        ),
        *("$(id)", "@anyvm", "none", "default", "Domain-0", "a-dm", "a" * 32),
    ],
)
def test_names_that_no_qube_can_have(provisioned: Dom0, name: str) -> None:
    before = provisioned.qubes()
    message = provisioned.refused("qube", name=name)
    assert message.startswith(f"{name!r} can't be a qube's name")
    assert message.isprintable()
    assert provisioned.qubes() == before


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"properties": {"colour": "red"}}, "no property 'colour'"),
        ({"volume_sizes": {"cellar": "1GiB"}}, "no volume 'cellar'"),
        ({"klass": "TemplateVM", "properties": {"template_for_dispvms": True}}, "no property"),
        ({"label": "pink"}, "there is no label 'pink'"),
    ],
)
def test_a_new_one_is_not_made_when_it_can_not_be_as_described(
    provisioned: Dom0, wanted: dict[str, object], message: str, check: bool
) -> None:
    before = provisioned.qubes()
    assert message in provisioned.refused("qube", check=check, name="new", **wanted)
    assert provisioned.qubes() == before


def test_what_a_new_one_can_not_have_is_mended_by_another_run(dom0: Dom0) -> None:
    wanted: dict[str, Any] = {"name": "new", "netvm": "none", "properties": {"memory": -1}}
    message = dom0.refused("qube", **wanted)
    assert "can't set memory (properties) of new to -1" in message
    assert "new was made and is left as it is: correct this and run it again" in message
    assert dom0.qube("new")["properties"]["netvm"] is None
    wanted["properties"] = {"memory": 500}
    assert dom0("qube", **wanted)["diff"]["after"] == {"properties": {"memory": 500}}


@pytest.mark.parametrize("check", [False, True])
def test_clone_of_nothing_is_refused(dom0: Dom0, check: bool) -> None:
    message = dom0.refused("qube", check=check, name="copy", clone_of="gone")
    assert "gone, which does not exist" in message
    assert "qvm-template install gone" in message
    assert "copy" not in dom0.qubes()


def test_running_source_is_not_cloned(dom0: Dom0) -> None:
    dom0("qube", name=TEMPLATE, state="running")
    assert "is running" in dom0.refused("qube", name="copy", clone_of=TEMPLATE)
    assert "copy" not in dom0.qubes()


def test_what_qubesd_refuses_is_told(dom0: Dom0) -> None:
    dom0("qube", **BACKUP)
    message = dom0.refused("qube", name="dedup-backup", properties={"memory": -1})
    assert "can't set memory (properties) of dedup-backup to -1" in message


def test_without_qubesd(dom0: Dom0) -> None:
    dom0.env["TEST_QUBESD_SOCKET"] = str(dom0.state / "nothing.sock")
    for state in ("present", "absent"):
        message = dom0.refused("qube", name="a", state=state)
        assert message.startswith("a: qubesd can't do it: ")
        assert "look at `systemctl status qubesd`" in message


def test_outside_of_dom0(modules: Modules) -> None:
    assert "works in dom0 only" in modules.refused("qube", name="a")
