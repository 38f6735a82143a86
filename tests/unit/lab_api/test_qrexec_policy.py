# SPDX-License-Identifier: GPL-3.0-or-later
"""qrexec calls that policy decides about: between qubes, to dom0, to the Admin API."""

from __future__ import annotations

import subprocess

import pytest
import qubesadmin
from qubesadmin.vm import QubesVM

from testing.lab.harness import TEMPLATE, Lab

DATA = bytes(range(256)) * 4096


@pytest.fixture
def lab(clean_lab: Lab) -> Lab:
    return clean_lab


@pytest.fixture
def other(same_app: qubesadmin.Qubes) -> QubesVM:
    """A second qube, running, that calls."""
    if "other" not in same_app.domains:
        same_app.add_new_vm("AppVM", "other", "blue", TEMPLATE)
    qube: QubesVM = same_app.domains["other"]
    qube.start()
    return qube


def call(
    lab: Lab, *words: str, data: bytes = b"", qube: str = "other"
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        lab.from_qube(qube, *words), check=False, input=data, capture_output=True, timeout=60
    )


def test_nothing_is_allowed_without_a_policy(lab: Lab, running: QubesVM, other: QubesVM) -> None:
    assert (running.is_running(), other.is_running()) == (True, True)
    lab.service("work", "test.A", "echo reached")
    done = call(lab, "work", "test.A")
    assert (done.returncode, done.stdout, done.stderr) == (126, b"", b"Request refused\n")
    lab.policy("test.A * other work allow\n")
    assert call(lab, "work", "test.A").stdout == b"reached\n"
    lab.policy("nonsense\n", "99-broken.policy")
    assert call(lab, "work", "test.A").returncode == 126
    lab.until(lambda: "99-broken.policy:1: wrong number of fields" in lab.log())


def test_a_call_by_policy(lab: Lab, running: QubesVM, other: QubesVM) -> None:
    assert (running.is_running(), other.is_running()) == (True, True)
    lab.service(
        "work", "test.Cat", 'echo "$LAB_QUBE $LAB_USER $QREXEC_REMOTE_DOMAIN $1"; cat; exit 9'
    )
    lab.policy("test.Cat +arg other @default allow target=work user=root\n")
    done = call(lab, "", "test.Cat+arg", data=DATA)
    assert done.returncode == 9
    assert done.stdout == b"work root other arg\n" + DATA
    assert call(lab, "$default", "test.Cat+arg").returncode == 9
    assert call(lab, "@default", "test.Cat+other").returncode == 126
    assert call(lab, "", "test.Cat+arg", qube="work").returncode == 126


def test_a_halted_target_is_started_unless_policy_says_no(
    lab: Lab, halted: QubesVM, other: QubesVM
) -> None:
    assert other.is_running()
    lab.policy("test.A * other idle allow autostart=no\n")
    assert call(lab, "idle", "test.A").returncode == 126
    assert halted.is_halted()
    lab.policy("test.A * other idle allow\n")
    assert call(lab, "idle", "test.A").stdout == b"reached\n"
    assert halted.is_running()


def test_dom0_is_reached_by_policy_only(lab: Lab, other: QubesVM) -> None:
    assert other.is_running()
    lab.service("dom0", "test.Dom", 'echo "$LAB_QUBE $LAB_USER $1"; env | grep REQUESTED | sort')
    assert call(lab, "dom0", "test.Dom+a").returncode == 126
    lab.policy("test.Dom * other @adminvm allow\n")
    assert call(lab, "dom0", "test.Dom+a").stdout.decode().splitlines() == [
        "dom0 user a",
        "QREXEC_REQUESTED_TARGET=dom0",
        "QREXEC_REQUESTED_TARGET_TYPE=name",
    ]
    assert call(lab, "@adminvm", "test.Dom").stdout.decode().splitlines()[1:] == [
        "QREXEC_REQUESTED_TARGET_KEYWORD=adminvm",
        "QREXEC_REQUESTED_TARGET_TYPE=keyword",
    ]


def admin(lab: Lab, *words: str, data: bytes = b"") -> tuple[int, bytes]:
    done = subprocess.run(
        lab.from_qube("other", *words), input=data, capture_output=True, check=False
    )
    return done.returncode, done.stdout


def test_the_admin_api_is_reached_by_policy_only(
    lab: Lab, running: QubesVM, other: QubesVM
) -> None:
    assert other.is_running()
    assert admin(lab, "work", "admin.vm.CurrentState") == (126, b"")
    lab.policy(
        "admin.vm.CurrentState * other work allow target=dom0\n"
        "admin.vm.feature.Set * other work allow target=dom0\n"
        "admin.vm.List * other dom0 allow target=dom0\n"
        "admin.vm.NoSuch * other dom0 allow target=dom0\n"
        "other.NoSuch * other dom0 allow target=dom0\n"
    )
    code, answer = admin(lab, "work", "admin.vm.CurrentState")
    assert (code, answer[:2], answer.split()[-1]) == (0, b"0\0", b"power_state=Running")
    code, answer = admin(lab, "dom0", "admin.vm.List")
    assert b"work class=AppVM state=Running uuid=" in answer
    assert admin(lab, "work", "admin.vm.feature.Set+by", data=b"other") == (0, b"0\0")
    assert running.features["by"] == "other"
    assert admin(lab, "work", "admin.vm.feature.Get+by") == (126, b"")
    assert admin(lab, "dom0", "admin.vm.NoSuch")[1].startswith(b"2\0ProtocolError\0")
    assert admin(lab, "dom0", "other.NoSuch") == (127, b"")


def test_a_local_program_starts_when_the_call_is_allowed(
    lab: Lab, running: QubesVM, other: QubesVM
) -> None:
    assert (running.is_running(), other.is_running()) == (True, True)
    marker = lab.state / "started"
    lab.service("work", "test.Upper", "tr a-z A-Z; exit 3")
    script = f"touch {marker}; echo hello; exec 1>&-; cat >&$SAVED_FD_1; exit 5"
    done = call(lab, "work", "test.Upper", "/bin/sh", "-c", script)
    assert (done.returncode, marker.exists()) == (126, False)
    lab.policy("test.Upper * other work allow\n")
    done = call(lab, "work", "test.Upper", "/bin/sh", "-c", script)
    assert (done.returncode, done.stdout, marker.exists()) == (5, b"HELLO\n", True)


def test_bad_characters_of_a_call_become_underscores(lab: Lab, other: QubesVM) -> None:
    assert other.is_running()
    assert call(lab, "wo/rk", "test.$(id) x").returncode == 126
    lab.until(lambda: "test.__id__x+: other -> wo_rk: denied" in lab.log())
