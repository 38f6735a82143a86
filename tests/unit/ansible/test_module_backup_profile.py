# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `backup_profile`, against a real lab qubesd and a folder of the test's own."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.ansible.modules import Dom0, Modules

NAME = "dedup-backup"
PASSPHRASE = re.compile(r"dedup:[A-Za-z0-9_-]{43}")


@pytest.fixture
def params(kept_dom0: Dom0, tmp_path: Path) -> dict[str, Any]:
    """Parameters of a profile in an empty folder; qubes dedup-backup, work and personal exist."""
    for qube in ("dedup-backup", "work", "personal"):
        if qube not in kept_dom0.qubes():
            kept_dom0("qube", name=qube)
    return {
        "name": NAME,
        "destination_vm": "dedup-backup",
        "destination_path": "dedup-store put --repository default",
        "folder": str(tmp_path),
        "owner": pwd.getpwuid(os.getuid()).pw_name,
        "group": grp.getgrgid(os.getgid()).gr_name,
    }


def path(params: dict[str, Any]) -> Path:
    return Path(params["folder"]) / f"{params['name']}.conf"


def content(params: dict[str, Any]) -> dict[str, Any]:
    return dict(yaml.safe_load(path(params).read_text()))


def test_written_as_qubesd_reads_it(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    result = kept_dom0("backup_profile", **params, include=["work", "@tag:x"], exclude=["personal"])
    assert (result["changed"], result["passphrase_generated"]) == (True, True)
    assert result["path"] == str(path(params))
    written = content(params)
    assert PASSPHRASE.fullmatch(written.pop("passphrase_text"))
    assert written == {
        "destination_vm": "dedup-backup",
        "destination_path": "dedup-store put --repository default",
        "include": ["work", "@tag:x"],
        "exclude": ["personal", "dedup-backup"],
        "compression": False,
    }
    assert path(params).stat().st_mode & 0o7777 == 0o660
    assert [entry.name for entry in path(params).parent.iterdir()] == [f"{NAME}.conf"]


def test_without_lists_all_marked_qubes_are_meant(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    kept_dom0("backup_profile", **params)
    written = content(params)
    assert written["include"] is None
    assert written["exclude"] == ["dedup-backup"]


@pytest.mark.parametrize("include", [None, ["@type:AppVM"], ["@tag:storage", "work"]])
def test_qubes_that_keep_backups_are_left_out(
    kept_dom0: Dom0, params: dict[str, Any], include: list[str] | None
) -> None:
    """The backup qube, the storage qube, and the backup qube of another profile."""
    others = {**params, "name": "other", "destination_vm": "work"}
    kept_dom0("backup_profile", **others)
    foreign = path(params).with_name("foreign.conf")
    foreign.write_text("destination_vm: sys-usb\ndestination_path: /media/disk\n")
    path(params).with_name("broken.conf").write_text("{")
    result = kept_dom0(
        "backup_profile",
        **{**params, "include": include, "never_include": ["personal"], "exclude": ["personal"]},
    )
    assert content(params)["exclude"] == ["personal", "dedup-backup", "work"]
    is_named = "where backups are kept" in str(result.get("warnings"))
    assert is_named == (include is not None and "work" in include)
    again = kept_dom0("backup_profile", **{**others, "exclude": []})
    assert content(others)["exclude"] == ["dedup-backup", "work"]
    assert kept_dom0("backup_profile", **others)["changed"] is False
    assert again["changed"]


@pytest.mark.parametrize(
    ("command", "keeps"),
    [
        ("dedup-store put", True),
        ("/usr/bin/dedup-store put", True),
        ("/usr/lib/qubes-dedup-backup/dedup-store put --profile x", True),
        ("dedup-store --repository x put", True),
        ("'dedup-store' put --repository=x", True),
        ("dedup-store list", False),
        ("/media/dedup-store", False),
        ("cat >'/media/put", False),
    ],
)
def test_destinations_that_keep_backups(
    kept_dom0: Dom0, params: dict[str, Any], command: str, keeps: bool
) -> None:
    """However another profile names the program."""
    other = {"destination_vm": "work", "destination_path": command}
    path(params).with_name("other.conf").write_text(yaml.safe_dump(other))
    kept_dom0("backup_profile", **params)
    assert content(params)["exclude"] == ["dedup-backup", *(["work"] if keeps else [])]


def test_naming_a_qube_that_keeps_backups(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    result = kept_dom0(
        "backup_profile", **params, include=["work", "personal"], never_include=["personal"]
    )
    told = str(result["warnings"])
    assert "profile dedup-backup names personal, where backups are kept: left out" in told
    assert content(params)["exclude"] == ["dedup-backup", "personal"]


def test_second_run_changes_nothing(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    kept_dom0("backup_profile", **params)
    before = (path(params).read_bytes(), path(params).stat().st_mtime_ns)
    for check in (False, True):
        result = kept_dom0("backup_profile", check=check, **params)
        assert (result["changed"], result["passphrase_generated"]) == (False, False)
        assert result["diff"] == {"before": {}, "after": {}}
    assert (path(params).read_bytes(), path(params).stat().st_mtime_ns) == before


def test_passphrase_is_kept_when_the_rest_changes(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    kept_dom0("backup_profile", **params)
    before = content(params)
    result = kept_dom0("backup_profile", **params, include=["work"])
    assert result["diff"] == {"before": {"include": None}, "after": {"include": ["work"]}}
    assert content(params) == {**before, "include": ["work"]}


def test_check_mode_tells_and_changes_nothing(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    result = kept_dom0("backup_profile", check=True, **params)
    assert (result["changed"], result["passphrase_generated"]) == (True, True)
    assert list(path(params).parent.iterdir()) == []


def test_passphrase_is_never_in_a_result(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    first = kept_dom0("backup_profile", **params)
    secret = content(params)["passphrase_text"].removeprefix("dedup:")
    second = kept_dom0("backup_profile", **params, include=["work"])
    path(params).chmod(0o600)
    third = kept_dom0("backup_profile", **params, include=["work"])
    assert third["changed"]
    assert secret == content(params)["passphrase_text"].removeprefix("dedup:")
    for result in (first, second, third):
        assert "dedup:" not in json.dumps(result)
        assert secret not in json.dumps(result)
    assert "(a new one)" in first["diff"]["after"].values()


def test_each_profile_has_a_passphrase_of_its_own(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    secrets = set()
    for name in ("one", "two"):
        kept_dom0("backup_profile", **{**params, "name": name})
        secrets.add(content({**params, "name": name})["passphrase_text"])
    assert len(secrets) == 2


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o640])
def test_rights_are_put_right(kept_dom0: Dom0, params: dict[str, Any], mode: int) -> None:
    kept_dom0("backup_profile", **params)
    before = content(params)
    path(params).chmod(mode)
    assert kept_dom0("backup_profile", check=True, **params)["changed"]
    assert path(params).stat().st_mode & 0o7777 == mode
    assert kept_dom0("backup_profile", **params)["changed"]
    assert path(params).stat().st_mode & 0o7777 == 0o660
    assert content(params) == before


def test_missing_qubes_are_a_warning(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    result = kept_dom0("backup_profile", **params, include=["work", "gone"], exclude=["lost"])
    assert result["missing"] == ["gone", "lost"]
    assert "gone, lost" in str(result["warnings"])
    assert content(params)["include"] == ["work", "gone"]


def test_missing_destination(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    params["destination_vm"] = "later"
    result = kept_dom0("backup_profile", check=True, **params)
    assert result["changed"]
    assert "later, the destination of profile" in str(result["warnings"])
    assert "does not exist: make it first" in kept_dom0.refused("backup_profile", **params)
    assert not path(params).exists()


@pytest.mark.parametrize(
    "found",
    [
        "passphrase_text: an ordinary one\n",
        "passphrase_text: 'dedup:short'\n",
        "passphrase_vm: vault\n",
        "passphrase_text: 12345\n",
    ],
)
def test_a_passphrase_that_is_not_ours_is_left_alone(
    kept_dom0: Dom0, params: dict[str, Any], found: str
) -> None:
    path(params).write_text(found)
    for state in ({}, {"state": "absent", "confirm_removal": NAME}):
        message = kept_dom0.refused("backup_profile", **params, **state)
        assert "a passphrase that does not ask for deduplication" in message
        assert path(params).read_text() == found


@pytest.mark.parametrize("found", [b"passphrase_text: 'dedup:half", b"\xff\xfe\x00", b"- a\n- b\n"])
def test_a_damaged_file_is_left_alone_and_not_quoted(
    kept_dom0: Dom0, params: dict[str, Any], found: bytes
) -> None:
    path(params).write_bytes(found)
    for state in ({}, {"state": "absent", "confirm_removal": NAME}):
        message = kept_dom0.refused("backup_profile", **params, **state)
        assert str(path(params)) in message
        assert "half" not in message
        assert path(params).read_bytes() == found


def test_other_keys_of_a_file_are_not_shown(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    path(params).write_text("old_secret: tell-nobody\ninclude: [2026-01-01, work]\n")
    result = kept_dom0("backup_profile", **params)
    assert "tell-nobody" not in json.dumps(result)
    before = {"old_secret": "(not shown)", "include": ["2026-01-01", "work"]}
    assert before.items() <= result["diff"]["before"].items()
    assert "old_secret" not in content(params)


def removal(params: dict[str, Any], confirmation: str | None = None) -> dict[str, Any]:
    """Return what removes the profile, without what only counts when it is to be there."""
    kept = {key: params[key] for key in ("name", "folder", "owner", "group")}
    return {**kept, "state": "absent", "confirm_removal": confirmation}


def test_removed_when_told_twice(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    kept_dom0("backup_profile", **params)
    before = path(params).read_bytes()
    secret = content(params)["passphrase_text"].removeprefix("dedup:")
    for check in (True, False):
        message = kept_dom0.refused("backup_profile", check=check, **removal(params))
        assert f"{path(params)} holds the only passphrase of the backups made with it" in message
        assert f"confirm_removal: {NAME}" in message
    message = kept_dom0.refused("backup_profile", **removal(params, "other"))
    assert message.startswith("confirm_removal names 'other'. ")
    wanted = removal(params, NAME)
    announced = kept_dom0("backup_profile", check=True, **wanted)
    assert path(params).read_bytes() == before
    removed = kept_dom0("backup_profile", **wanted)
    assert (announced["changed"], removed["changed"]) == (True, True)
    assert removed["diff"] == announced["diff"]
    assert "(this one is lost)" in removed["diff"]["before"].values()
    assert removed["diff"]["after"] == {"state": "absent"}
    assert secret not in json.dumps([announced, removed])
    assert list(path(params).parent.iterdir()) == []
    for check in (True, False):
        assert not kept_dom0("backup_profile", check=check, **wanted)["changed"]


def test_removal_needs_no_qubesd(modules: Modules, params: dict[str, Any]) -> None:
    path(params).write_text("destination_vm: dedup-backup\n")
    assert modules("backup_profile", **removal(params))["changed"]
    assert not path(params).exists()
    missing = modules("backup_profile", **{**removal(params), "folder": "/nonexistent"})
    assert not missing["changed"]


def test_without_qubesd(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    gone = Modules({**kept_dom0.env, "TEST_QUBESD_SOCKET": f"{params['folder']}/nothing.sock"})
    message = gone.refused("backup_profile", **params)
    assert "can't ask qubesd for the qubes" in message
    assert "systemctl status qubesd" in message
    assert not path(params).exists()


def test_a_destination_is_needed(kept_dom0: Dom0, params: dict[str, Any]) -> None:
    del params["destination_vm"]
    message = kept_dom0.refused("backup_profile", **params)
    assert "state is present but all of the following are missing: destination_vm" in message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "a/b"}, "can't be a profile's name"),
        ({"name": "-a"}, "can't be a profile's name"),
        ({"destination_vm": "no way"}, "can't be a qube's name"),
        ({"destination_path": "two\nlines"}, "must be one line"),
        ({"include": ["@anyvm"]}, "'@anyvm' in dedup-backup matches nothing"),
        ({"include": ["@type:Whatever"]}, "'@type:Whatever' in dedup-backup matches nothing"),
        ({"exclude": ["@tag:"]}, "'@tag:' in dedup-backup matches nothing"),
        ({"include": ["@tag:a b"]}, "'a b' can't be a tag"),
        ({"include": ["work "]}, "'work ' can't be a qube's name"),
        ({"exclude": ["a/b"]}, "'a/b' can't be a qube's name"),
        ({"include": ["a\nb"]}, "'a\\nb' can't be a qube's name"),
        ({"include": ["dedup-backup"]}, "can't be backed up into itself"),
        ({"destination_vm": None}, "'' can't be a qube's name"),
        ({"destination_path": None}, "must be one line"),
        ({"group": "no-such-group"}, "no such user or group"),
        ({"folder": "/nonexistent"}, "can't write /nonexistent"),
    ],
)
def test_refused(
    kept_dom0: Dom0, params: dict[str, Any], wrong: dict[str, object], message: str
) -> None:
    assert message in kept_dom0.refused("backup_profile", **{**params, **wrong})
    assert list(Path(params["folder"]).iterdir()) == []
