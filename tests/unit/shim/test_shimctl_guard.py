# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl reconcile as the guard calls it: what it repairs, refuses, records and tells."""

import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.shim.driver import PAYLOAD, real_scrypt, wait_for
from testing.shim.shimctl import FAST_CLOCK, System, with_systemd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shimctl changes things as root only")
SHIM = (PAYLOAD / "scrypt").read_bytes()
PROMPT = (b"Please enter passphrase", b"Please enter passphrasf")
# Programs that are scrypt to look at, and what is found out about each.
VARIANTS = {
    "first prompt": (PROMPT, "instead of 'Please enter passphrase:'"),
    "second prompt": (
        (b"Please confirm passphrase", b"Please repeat! passphrase"),
        "instead of 'Please confirm passphrase:'",
    ),
    "no dec": ((b"\0dec\0", b"\0dex\0"), "dec by file: fails"),
    "no passphrase from a file": ((b"\0file:\0", b"\0pipe:\0"), "enc by file: fails"),
}


@pytest.fixture
def journal(system: System) -> Iterator[socket.socket]:
    """The socket where journald would read."""
    (system.root / "dev").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(system.root / "dev/log"))
        log.setblocking(False)
        yield log


def lines(journal: socket.socket) -> list[str]:
    """Return what has been written to the journal."""
    found = []
    while True:
        try:
            found.append(journal.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.mark.sampled(4)
@pytest.mark.parametrize("trigger", ["rpm", "dnf4", "dnf5", "path", "boot", "backup"])
def test_any_trigger_puts_the_shim_around_the_new_binary(
    system: System, journal: socket.socket, trigger: str
) -> None:
    system.json("install")
    lines(journal)
    system.package(changed=True)
    new = system.scrypt.read_bytes()
    done = system.trigger(trigger)
    assert (system.scrypt.read_bytes(), system.real.read_bytes()) == (SHIM, new)
    assert "put the shim at" in done.stdout
    told = lines(journal)
    assert all(line.startswith("<13>shimctl[") for line in told)
    assert any(f"put the shim at {system.scrypt} (now: real)" in line for line in told)
    run = system.state()["triggers"][trigger]
    assert "put the shim at" in run["result"]
    assert system.state()["last"]["trigger"] == trigger
    before = system.scrypt.stat()
    assert system.trigger(trigger).stdout == ""
    assert lines(journal) == []
    assert system.state()["triggers"][trigger]["result"] == "nothing to do"
    assert system.scrypt.stat() == before
    status = system.json("status")
    assert status["healthy"]
    assert status["last"]["result"] == "nothing to do"
    assert "put the shim at" in status["last_change"]["result"]


def test_trigger_does_nothing_where_nothing_is_installed(system: System) -> None:
    before = system.listing()
    assert system.trigger("path").stdout == ""
    assert system.listing() == before


def test_what_only_the_user_can_mend_is_told_once_and_at_each_boot(
    system: System, journal: socket.socket
) -> None:
    system.json("install")
    system.config.write_text("mode = plain\n")
    system.package(changed=True)
    lines(journal)
    assert "in clear" in system.trigger("path").stderr
    assert system.scrypt.read_bytes() == SHIM
    told = lines(journal)
    assert any("put the shim at" in line for line in told)
    [warning] = [line for line in told if line.startswith("<12>")]
    assert "needs you" in warning
    assert "`mode = plain`" in warning
    system.trigger("rpm")
    assert lines(journal) == []
    system.trigger("boot")
    assert len(lines(journal)) == 1
    assert system.config.read_text() == "mode = plain\n"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", VARIANTS)
def test_binary_that_breaks_the_protocol_stays_in_front(
    system: System, journal: socket.socket, name: str
) -> None:
    other, reason = VARIANTS[name]
    system.json("install")
    lines(journal)
    system.package(other=other)
    new = system.scrypt.read_bytes()
    done = system.trigger("dnf5")
    assert system.scrypt.read_bytes() == new
    assert reason in done.stderr
    told = lines(journal)
    assert any(line.startswith("<12>") and reason in line for line in told)
    [problem] = system.json("status", status=3)["problems"]
    assert reason in problem
    assert "really encrypted" in problem
    assert "shimctl reconcile" in problem
    assert reason in system.json("reconcile", status=1)["error"]
    system.trigger("path" if name == "no dec" else "rpm")
    assert not any(line.startswith("<12>") for line in lines(journal))  # told once
    system.trigger("boot")
    assert any(line.startswith("<12>") for line in lines(journal))
    system.package(changed=True)
    system.trigger("rpm")
    assert system.scrypt.read_bytes() == SHIM
    assert system.json("status")["healthy"]
    assert "refused" not in system.state()


def test_other_container_format_is_refused(system: System) -> None:
    content = real_scrypt().read_bytes()
    texts = content.count(b"scrypt")
    assert content.count(b"scry") > texts, "this machine's compiler hides the magic elsewhere"
    new = content.replace(b"scrypt", b"\0KEEP\0").replace(b"scry", b"Scry")
    new = new.replace(b"\0KEEP\0", b"scrypt")
    system.json("install")
    system.scrypt.unlink()
    system.scrypt.write_bytes(new)
    system.scrypt.chmod(0o755)
    assert "not scrypt's format" in system.trigger("rpm").stderr
    assert system.scrypt.read_bytes() == new


def test_installation_is_refused_around_a_binary_that_breaks_the_protocol(system: System) -> None:
    system.package(other=PROMPT)
    before = system.listing()
    assert "not what Qubes expects" in system.json("install", status=1)["error"]
    assert system.listing() == before


def test_removed_package_leaves_a_working_shim(system: System) -> None:
    system.json("install")
    system.scrypt.unlink()  # rpm removes what has the name, whatever it is
    system.trigger("path")
    assert system.works()
    assert system.scrypt.read_bytes() == SHIM


def test_guards_files_are_laid_down_repaired_and_removed(system: System) -> None:
    with_systemd(system)
    before = system.listing()
    system.json("install")
    units = sorted(path.name for path in (PAYLOAD / "guard").glob("qubes-*"))
    assert len(units) == 3
    for unit in units:
        assert (system.units / unit).read_bytes() == (PAYLOAD / "guard" / unit).read_bytes()
        assert (system.units / unit).stat().st_mode & 0o7777 == 0o644
    wants = system.units / "multi-user.target.wants"
    assert {path.name: str(path.readlink()) for path in wants.iterdir()} == {
        unit: f"/etc/systemd/system/{unit}" for unit in units if "guard.service" not in unit
    }
    action = system.root / "etc/dnf/plugins/post-transaction-actions.d/dedup-backup.action"
    actions = system.root / "etc/dnf/libdnf5-plugins/actions.d/dedup-backup.actions"
    assert action.exists()
    assert actions.exists()
    health = {name: t["health"] for name, t in system.json("status")["triggers"].items()}
    assert health["rpm"] == "absent: no RPM qubes-dedup-backup"
    assert [health[name][:5] for name in ("dnf4", "dnf5", "path", "boot")] == ["ready"] * 4
    action.unlink()
    (system.units / units[0]).write_text("[Unit]\n")
    assert len(system.json("status", status=3)["problems"]) >= 2
    system.trigger("dnf5")
    assert system.json("status")["healthy"]
    system.json("remove")
    assert system.listing() == before


def test_masked_unit_is_the_admins_word(system: System) -> None:
    with_systemd(system)
    masked = system.units / "qubes-dedup-backup-guard.path"
    masked.symlink_to("/dev/null")
    system.json("install")
    assert str(masked.readlink()) == "/dev/null"
    [problem] = system.json("status", status=3)["problems"]
    assert "masked: systemctl unmask" in problem
    assert not system.json("reconcile")["changed"]
    system.json("remove")
    assert masked.is_symlink()


def test_plugin_that_is_not_enabled_is_told(system: System) -> None:
    with_systemd(system)
    config = system.root / "etc/dnf/plugins/post-transaction-actions.conf"
    config.write_text("[main]\nenabled = 0\n")
    system.json("install")
    status = system.json("status")
    assert "not enabled" in status["triggers"]["dnf4"]["health"]


def test_units_and_hooks_call_what_is_installed() -> None:
    program = "/usr/lib/qubes-dedup-backup/shimctl reconcile --trigger "
    called = set()
    for path in (PAYLOAD / "guard").iterdir():
        for line in path.read_text().splitlines():
            if "shimctl reconcile" in line:
                assert program in line
                called.add(line.partition(program)[2])
    assert called == {"dnf4", "dnf5", "path", "boot"}


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    # systemd-analyze wants the program to be there.
    for unit in (PAYLOAD / "guard").glob("qubes-*"):
        text = unit.read_text().replace("/usr/lib/qubes-dedup-backup/shimctl", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_trigger_that_comes_while_another_runs_waits_for_it(system: System) -> None:
    system.json("install")
    # The first one looks, finds all well, and is held up while it notes that.
    first = subprocess.Popen(
        [
            *("strace", "-qq", "-o", "/dev/null", "-e", "trace=fsync"),
            *("-e", "inject=fsync:delay_enter=3000000:when=1"),
            *(str(PAYLOAD / "shimctl"), "reconcile", "--trigger", "rpm"),
            *("--root", str(system.root)),
        ],
        stdout=subprocess.PIPE,
    )
    noting = system.root / "var/lib/qubes-dedup-backup/.state.json.shimctl"
    wait_for(noting.exists, "the first one to note its look")
    system.package(changed=True)
    new = system.scrypt.read_bytes()
    assert "put the shim" in system.trigger("dnf4").stdout
    first.communicate()
    assert first.returncode == 0
    assert (system.scrypt.read_bytes(), system.real.read_bytes()) == (SHIM, new)
    assert "put the shim" in system.state()["triggers"]["dnf4"]["result"]
    assert system.state()["triggers"]["rpm"]["result"] == "nothing to do"


def test_trigger_that_waited_too_long_tells_and_the_next_one_does_it(
    system: System, journal: socket.socket
) -> None:
    system.json("install")
    system.package(changed=True)
    lines(journal)
    with (system.root / "run/qubes-dedup-backup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = system.run("reconcile", "--trigger", "rpm", prefix=FAST_CLOCK)
        assert (done.returncode, "another shimctl" in done.stderr) == (0, True)
        assert system.scrypt.read_bytes() != SHIM
    [line] = lines(journal)
    assert line.startswith("<12>shimctl[")
    assert "another shimctl" in line
    system.json("install", "--mode", "off")
    assert system.scrypt.read_bytes() == SHIM


def test_path_unit_looks_again_until_the_update_is_complete(system: System) -> None:
    system.json("install")
    system.package(other=PROMPT)
    argv = [str(PAYLOAD / "shimctl"), "reconcile", "--trigger", "path"]
    process = subprocess.Popen([*argv, "--root", str(system.root)], stderr=subprocess.PIPE)
    wait_for(lambda: "refused" in system.state(), "the first look")
    system.package(changed=True)
    assert process.communicate()[1] == b""
    assert process.returncode == 0
    assert system.scrypt.read_bytes() == SHIM


def test_state_that_is_not_understood_is_made_anew(system: System) -> None:
    system.json("install")
    before = system.state()
    (system.root / "var/lib/qubes-dedup-backup/state.json").write_text("{")
    assert system.json("status", status=3)["installed"] == "yes"
    system.trigger("boot")
    after = system.state()
    assert {key: after[key] for key in before} == before


def test_trigger_succeeds_whatever_happens(system: System) -> None:
    system.json("install")
    system.scrypt.unlink()
    system.scrypt.mkdir()
    assert "neither scrypt nor the shim" in system.trigger("rpm").stderr
    assert "failed: " in system.state()["triggers"]["rpm"]["result"]
    with Path("/dev/full").open("w") as full:
        argv = [str(PAYLOAD / "shimctl"), "reconcile", "--trigger", "boot"]
        done = subprocess.run(
            [*argv, "--root", str(system.root)], stdout=full, stderr=full, check=False
        )
    assert done.returncode == 0


def test_trigger_that_cannot_even_start_leaves_a_warning(
    system: System, journal: socket.socket
) -> None:
    system.json("install")
    lines(journal)
    lock = system.root / "run/qubes-dedup-backup.lock"
    lock.unlink()
    lock.mkdir()
    system.trigger("path")
    [line] = lines(journal)
    assert line.startswith("<12>shimctl[")
    assert "qubes-dedup-backup.lock" in line


@pytest.fixture
def desktop(system: System) -> Iterator["subprocess.Popen[str]"]:
    """A session bus of a user who is logged in, and one who sees what is called there."""
    folder = system.root / "run/user/0"
    folder.mkdir(parents=True)
    address = f"unix:path={folder}/bus"
    bus = subprocess.Popen(["dbus-daemon", "--session", "--nofork", f"--address={address}"])
    wait_for((folder / "bus").exists, "the session bus")
    monitor = subprocess.Popen(
        ["dbus-monitor", "--address", address], stdout=subprocess.PIPE, text=True
    )
    assert monitor.stdout is not None
    monitor.stdout.readline()  # it monitors
    yield monitor
    for process in (monitor, bus):
        process.terminate()
        process.communicate()


def seen(desktop: "subprocess.Popen[str]", until: str) -> str:
    """Return what happened on the desktop until something is said."""
    assert desktop.stdout is not None
    text = ""
    while until not in text:
        line = desktop.stdout.readline()
        assert line, text
        text += line
    return text


def test_user_at_the_desktop_is_told(system: System, desktop: "subprocess.Popen[str]") -> None:
    system.json("install")
    system.package(changed=True)
    system.trigger("rpm")
    told = seen(desktop, "The scrypt shim is back")
    assert "member=Notify" in told
    assert "uint32 0" in told
    system.package(other=(PROMPT[0], b"<b>$(id)\"'\\  passphrase"))
    system.trigger("rpm")
    told = seen(desktop, "byte 2")  # urgent
    assert "&lt;b&gt;$(id)" in told
    assert "See: sudo shimctl status" in told
    system.json("remove")
    assert "member=Notify" in seen(desktop, "The scrypt shim was removed")


def test_nobody_is_disturbed_by_a_bus_that_is_not_the_users(system: System) -> None:
    folder = system.root / "run/user/1"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(folder / "bus"))  # root's, in the folder of another
        bus.listen()
        bus.setblocking(False)
        system.json("install")
        system.package(changed=True)
        system.trigger("rpm")
        with pytest.raises(BlockingIOError):
            bus.accept()
    assert system.scrypt.read_bytes() == SHIM
