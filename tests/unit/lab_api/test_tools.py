# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's qvm-* commands, and backups through the Admin API."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

import pytest
import qubesadmin
from qubesadmin import exc

from testing.lab.harness import TEMPLATE, Lab
from testing.paths import LAB

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(lab: Lab) -> Run:
    """Run a command of dom0; returns exit code, stdout and stderr."""

    def command(*words: str, data: str = "") -> tuple[int, str, str]:
        done = subprocess.run(
            lab.dom0_command(*words), check=False, input=data, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return command


def test_the_life_of_a_qube(run: Run) -> None:
    assert run("qvm-create", "--label", "red", "--property", "memory=500", "work") == (0, "", "")
    code, out, _ = run("qvm-ls")
    assert code == 0
    assert out.splitlines()[0].split() == ["NAME", "STATE", "CLASS", "LABEL", "TEMPLATE", "NETVM"]
    assert out.splitlines()[-1].split() == ["work", "Halted", "AppVM", "red", TEMPLATE, "-"]
    assert run("qvm-start", "work")[0] == 0
    assert run("qvm-start", "work")[0] == 1
    assert run("qvm-start", "--skip-if-running", "work")[0] == 0
    assert run("qvm-check", "--running", "work") == (0, "", "qvm-check: work: running\n")
    assert (
        run("qvm-check", "work", "dom0")[2] == "qvm-check: dom0: exists\nqvm-check: work: exists\n"
    )
    assert run("qvm-ls", "--raw-data", "--fields", "MEMORY", "work") == (0, "500\n", "")
    assert run("qvm-ls", "--raw-data", "--fields", "NAME,STATE", "--running")[1].splitlines() == [
        "dom0|Running",
        "work|Running",
    ]
    assert run("qvm-clone", "work", "copy")[0] == 0
    assert run("qvm-shutdown", "--wait", "work")[0] == 0
    assert run("qvm-shutdown", "--wait", "work")[0] == 0
    assert run("qvm-check", "--running", "work") == (1, "", "qvm-check: None of qubes: running\n")
    assert run("qvm-kill", "work") == (0, "", ""), "it is off already"
    assert run("qvm-remove", "work", data="n\n")[0] == 1
    assert run("qvm-remove", "--force", "work", "copy") == (0, "", "")
    assert run("qvm-check", "work")[0] == 1
    assert run("qvm-ls", "--raw-list")[1].split() == [TEMPLATE, "dom0"]
    assert run("qvm-ls", "--raw-list", "--all", "--exclude", TEMPLATE) == (0, "dom0\n", "")


def test_settings(run: Run) -> None:
    assert run("qvm-prefs", TEMPLATE, "memory", "600")[0] == 0
    assert run("qvm-prefs", TEMPLATE, "memory") == (0, "600\n", "")
    assert "memory" in run("qvm-prefs", "--hide-default", TEMPLATE)[1]
    assert run("qvm-prefs", "--default", TEMPLATE, "memory")[0] == 0
    assert run("qvm-prefs", TEMPLATE, "memory") == (0, "400\n", "")
    assert run("qvm-prefs", TEMPLATE, "name") == (0, f"{TEMPLATE}\n", "")
    assert run("qvm-prefs", TEMPLATE, "nonsense")[0] == 2
    code, _, err = run("qvm-prefs", TEMPLATE, "memory", "x")
    assert (code, err) == (1, "qvm-prefs: error: Failed to parse property value as int\n")
    assert run("qvm-prefs", "nope")[0] == 2
    assert run("qubes-prefs", "default_template") == (0, f"{TEMPLATE}\n", "")
    assert run("qvm-features", TEMPLATE, "f", "v")[0] == 0
    assert run("qvm-features", TEMPLATE, "f") == (0, "v\n", "")
    assert run("qvm-features", "--unset", TEMPLATE, "f")[0] == 0
    assert run("qvm-features", TEMPLATE, "f") == (1, "", "")
    assert run("qvm-service", "--enable", TEMPLATE, "s")[0] == 0
    assert run("qvm-service", TEMPLATE) == (0, "s  on\n", "")
    assert run("qvm-service", TEMPLATE, "s", "off")[0] == 0
    assert run("qvm-service", TEMPLATE, "s") == (0, "off\n", "")
    assert run("qvm-service", TEMPLATE, "s", "maybe")[0] == 1
    assert run("qvm-tags", TEMPLATE, "add", "t")[0] == 0
    assert run("qvm-tags", TEMPLATE) == (0, "created-by-dom0\nt\n", "")
    assert run("qvm-tags", TEMPLATE, "del", "t")[0] == 0
    assert run("qvm-tags", TEMPLATE, "list", "t") == (1, "", "")
    assert run("qvm-firewall", TEMPLATE, "add", "drop", "proto=icmp")[0] == 0
    assert run("qvm-firewall", "--raw", TEMPLATE) == (
        0,
        "action=accept\naction=drop proto=icmp\n",
        "",
    )
    assert run("qvm-volume", "resize", f"{TEMPLATE}:private", "3GiB")[0] == 0
    assert run("qvm-volume", "info", f"{TEMPLATE}:private", "size") == (0, f"{3 * 2**30}\n", "")
    assert run("qvm-volume", "resize", f"{TEMPLATE}:private", "1K")[0] == 1
    assert run("qvm-volume", "info", f"{TEMPLATE}:private", "nonsense")[0] == 1
    info = run("qvm-volume", "info", f"{TEMPLATE}:private")[1].splitlines()
    assert info[-3].split() == ["ephemeral", "False"]
    assert info[-2].split() == ["is_outdated", "False"]
    assert info[-1] == "List of available revisions (for revert): none"
    listed = run("qvm-volume", "list", TEMPLATE)[1].splitlines()
    assert listed[0].split() == ["POOL:VOLUME", "VMNAME", "VOLUME_NAME", "REVERT_POSSIBLE"]
    place = f"varlibqubes:vm-templates/{TEMPLATE}"
    assert listed[2].split() == [f"{place}/private", TEMPLATE, "private", "No"]


def test_qvm_run(lab: Lab, run: Run) -> None:
    assert run("qvm-create", "--label", "red", "work")[0] == 0
    for name in ("qubes.VMShell", "qubes.VMExec"):
        lab.service("work", name, f'exec {LAB}/qube/rpc/{name} "$@"')
    assert run("qvm-run", "--pass-io", "--no-autostart", "work", "true")[0] == 1
    assert run("qvm-run", "--pass-io", "work", "cat; exit 3", data="in") == (3, "in", "")
    assert run("qvm-run", "-p", "-u", "mallory", "work", "echo $LAB_USER") == (0, "mallory\n", "")
    assert run("qvm-run", "-p", "work", "printf", "%s.", "a b", "$c") == (0, "a b.$c.", "")
    assert run("qvm-run", "-p", "work", "--", "printf", "%s.", "-n") == (0, "-n.", "")
    service = ("qvm-run", "--no-gui", "--pass-io", "--service", "work", "qubes.VMShell")
    assert run(*service, data="echo out; echo err >&2; exit 4") == (4, "out\n", "err\n")
    filtered = ("qvm-run", "-p", "--filter-escape-chars", "--no-colour-output", "work")
    assert run(*filtered, r"printf '\033[1m'") == (0, "_[1m", "")
    local = ("qvm-run", "-p", "--localcmd", "tr a-z A-Z >&2; echo x", "work")
    assert run(*local, "echo hi; exec 1>&-; cat >/dev/null; exit 6") == (6, "", "HI\n")
    assert run("qvm-run", "work", "exit 7") == (
        7,
        "",
        "Running 'exit 7' on work\nwork: command failed with code: 7\n",
    )
    assert run("qvm-run", "nope", "true")[0] == 2
    assert run("qvm-run", "work")[0] == 2


PROGRAM = """
import os, signal, sys, time
name = sys.argv[-1]
if sys.argv[1] == "--info":
    print("summary of", name)
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
print("noise", flush=True)
print("progress 12.50", flush=True)
print("progress nonsense", flush=True)
if name == "fails":
    sys.exit("first line\\nthe 100% disk is full")
open(os.path.join(os.path.dirname(__file__), "started-" + name), "w").close()
while name == "waits":
    time.sleep(0.01)
"""


@pytest.fixture
def backups(lab: Lab) -> Lab:
    """A lab whose backup program does nothing, and has three profiles."""
    (lab.state / "backup_run.py").write_text(PROGRAM)
    for name in ("works", "fails", "waits"):
        (lab.dom0 / f"etc/qubes/backup/{name}.conf").touch()
    return lab


def test_backups_run_and_report(backups: Lab, app: qubesadmin.Qubes) -> None:
    assert app.qubesd_call("dom0", "admin.backup.Info", "works") == b"summary of works\n"
    assert app.qubesd_call("dom0", "admin.backup.Execute", "works") == b""
    assert (backups.state / "started-works").exists()
    with pytest.raises(exc.QubesException, match=r"^the 100% disk is full$"):
        app.qubesd_call("dom0", "admin.backup.Execute", "fails")
    for method in ("Execute", "Info"):
        with pytest.raises(exc.QubesException, match="does not exist: nope"):
            app.qubesd_call("dom0", f"admin.backup.{method}", "nope")
    with pytest.raises(exc.QubesException, match="not running"):
        app.qubesd_call("dom0", "admin.backup.Cancel", "works")


def test_a_running_backup_runs_once_and_can_be_cancelled(
    backups: Lab, app: qubesadmin.Qubes
) -> None:
    errors: list[Exception] = []

    def execute() -> None:
        try:
            app.qubesd_call("dom0", "admin.backup.Execute", "waits")
        except exc.QubesException as error:
            errors.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    backups.until((backups.state / "started-waits").exists)
    with pytest.raises(exc.BackupAlreadyRunningError):
        app.qubesd_call("dom0", "admin.backup.Execute", "waits")
    app.qubesd_call("dom0", "admin.backup.Execute", "works")
    app.qubesd_call("dom0", "admin.backup.Cancel", "waits")
    thread.join()
    assert [type(error) for error in errors] == [exc.BackupCancelledError]
