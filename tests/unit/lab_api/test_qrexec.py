# SPDX-License-Identifier: GPL-3.0-or-later
"""qrexec calls: streams, exit codes, users, and clients that misbehave."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from qubesadmin import exc
from qubesadmin.vm import QubesVM

from testing.lab.harness import Lab
from testing.paths import LAB

DATA = bytes(range(256)) * 4096


@pytest.fixture
def lab(clean_lab: Lab) -> Lab:
    return clean_lab


def test_streams_are_passed_unchanged(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Cat", "cat; echo done >&2")
    out, err = running.run_service_for_stdio("test.Cat", input=DATA)
    assert out == DATA
    assert err == b"done\n"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 127", 127),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ],
)
def test_the_services_exit_code_is_the_calls(
    lab: Lab, running: QubesVM, script: str, code: int
) -> None:
    lab.service("work", "test.Exit", script)
    process = running.run_service("test.Exit")
    process.communicate(b"")
    assert process.returncode == code


def test_a_missing_service_is_127_and_one_that_cannot_run_125(lab: Lab, running: QubesVM) -> None:
    for service, code in (("test.Missing", 127), ("test.NotExecutable", 125)):
        lab.service("work", "test.NotExecutable", "").chmod(0o644)
        with pytest.raises(subprocess.CalledProcessError) as caught:
            running.run_service_for_stdio(service)
        assert caught.value.returncode == code


def test_the_more_special_service_wins_and_the_local_folder_before_it(
    lab: Lab, running: QubesVM
) -> None:
    def answer(service: str) -> bytes:
        return running.run_service_for_stdio(service)[0]

    lab.service("work", "test.A", 'echo "root general $1"')
    assert answer("test.A+x") == b"root general x\n"
    lab.service("work", "test.A", "echo local general", "usr/local/etc/qubes-rpc")
    assert answer("test.A+x") == b"local general\n"
    lab.service("work", "test.A+x", "echo root special")
    assert answer("test.A+x") == b"root special\n"
    assert answer("test.A") == b"local general\n"
    lab.service("work", "test.A+", "echo without argument")
    assert answer("test.A") == b"without argument\n"
    assert answer("test.A+y") == b"local general\n"


def test_what_a_service_is_told(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Env", 'echo "$# $*"; pwd; env')
    out = running.run_service_for_stdio("test.Env+a.b")[0].decode().splitlines()
    assert out[0] == "1 a.b"
    assert out[1].endswith("/home/user")
    assert {line for line in out if line.startswith("QREXEC_") and "PATH" not in line} == {
        "QREXEC_REMOTE_DOMAIN=dom0",
        "QREXEC_SERVICE_FULL_NAME=test.Env+a.b",
        "QREXEC_SERVICE_ARGUMENT=a.b",
        "QREXEC_REQUESTED_TARGET_TYPE=",
    }
    out = running.run_service_for_stdio("test.Env")[0].decode().splitlines()
    assert out[0] == "0 "
    assert "QREXEC_SERVICE_ARGUMENT=" in out


def test_users(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Who", "echo $LAB_USER")

    def who(user: str | None = None) -> bytes:
        return running.run_service_for_stdio("test.Who", user=user)[0].strip()

    assert who() == b"user"
    assert who(user="root") == b"root"
    running.default_user = "mallory"
    assert who() == b"mallory"
    del running.default_user
    lab.config("work", "test.Who", "# comment\nwait-for-session=true\nforce-user = 'root'\n")
    assert who() == b"root"
    assert who(user="user") == b"root"
    lab.config("work", "test.Who+", "force-user='user'\n")
    assert who() == b"user"
    assert running.run("echo $LAB_USER", user="root")[0] == b"root\n"


@pytest.mark.parametrize(
    "config",
    [
        "force-user=root\n",
        'force-user="root"\n',
        "force-user='nobody-here'\n",
        "force-user='root'\nforce-user='user'\n",
        "force-user\n",
        " force-user='root'\n",
        "[section]\n",
        "wait-for-session=maybe\n",
        "force-user='$(id)'\n",
    ],
)
def test_a_wrong_configuration_refuses_the_service(lab: Lab, running: QubesVM, config: str) -> None:
    lab.service("work", "test.Who", "echo $LAB_USER")
    lab.config("work", "test.Who", config)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        running.run_service_for_stdio("test.Who")
    assert caught.value.returncode == 125
    assert caught.value.output == b""


def test_commands(running: QubesVM) -> None:
    assert running.run("cat; echo end", input=b"in\n") == (b"in\nend\n", b"")
    words = ["printf", "%s|", "a b", "c-d", "+x", "é", "", "$HOME", "line\nline"]
    assert running.run_with_args(*words)[0] == "".join(f"{w}|" for w in words[2:]).encode()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        running.run("echo oops >&2; exit 3")
    assert (caught.value.returncode, caught.value.stderr) == (3, b"oops\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        running.run_service_for_stdio("qubes.VMExec+bad-encoding")
    assert caught.value.returncode == 1


def test_a_halted_qube_is_started_by_the_library_only(lab: Lab, halted: QubesVM) -> None:
    with pytest.raises(exc.QubesVMNotRunningError):
        halted.run_service("test.A", autostart=False)
    done = subprocess.run(
        lab.dom0_command("qrexec-client", "-d", "idle", "DEFAULT:QUBESRPC test.A dom0"),
        check=False,
        capture_output=True,
    )
    assert done.returncode == 125
    assert b"not running" in done.stderr
    assert halted.is_halted()
    assert halted.run_service_for_stdio("test.A")[0] == b"reached\n"


def test_dom0s_client(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Bytes", r"printf 'a\033[31m\351\n'; printf '\033\n' >&2; cat; exit 4")
    assert running.is_running()

    def client(
        *options: str, command: str = "DEFAULT:QUBESRPC test.Bytes dom0"
    ) -> tuple[object, ...]:
        done = subprocess.run(
            lab.dom0_command("qrexec-client", "-d", "work", *options, command),
            check=False,
            input=b"stdin",
            capture_output=True,
        )
        return done.returncode, done.stdout, done.stderr

    assert client() == (4, b"a\x1b[31m\xe9\nstdin", b"\x1b\n")
    assert client("-t", "-T") == (4, b"a_[31m_\nstdin", b"_\n")
    assert client("-E") == (0, b"a\x1b[31m\xe9\nstdin", b"\x1b\n")
    assert client("-p", "first ") == (4, b"a\x1b[31m\xe9\nfirst stdin", b"\x1b\n")
    assert client("-e") == (0, b"", b"")
    assert client(command="root:echo $LAB_USER; exit 6") == (6, b"root\n", b"")
    assert client(command="no-colon")[0] == 125
    assert client(command="DEFAULT:QUBESRPC test.Bytes")[0] == 125
    nowhere = lab.dom0_command("qrexec-client", "-d", "nowhere", "DEFAULT:QUBESRPC a dom0")
    assert subprocess.run(nowhere, check=False, capture_output=True).returncode == 125


def test_a_local_command_is_the_services_other_end(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Upper", "tr a-z A-Z")
    assert running.is_running()
    result = lab.state / "result"
    command = ["qrexec-client", "-d", "work", "-l", f"echo hello; exec 1>&-; cat >{result}"]
    subprocess.run(
        lab.dom0_command(*command, "DEFAULT:QUBESRPC test.Upper dom0"), check=True, timeout=60
    )
    assert result.read_text() == "HELLO\n"


def test_a_terminal_is_never_handed_to_a_qube(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Tty", 'for fd in 0 1 2; do test -t $fd && echo "tty $fd"; done; cat')
    assert running.is_running()
    ours, theirs = pty.openpty()
    command = lab.dom0_command("qrexec-client", "-d", "work", "DEFAULT:QUBESRPC test.Tty dom0")
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, b"typed\n\x04")
        seen = b""
        while True:
            try:
                block = os.read(ours, 1000)
            except OSError:
                break
            seen += block
        assert process.wait() == 0
    os.close(ours)
    assert seen.count(b"typed") == 2  # the terminal's echo, and cat's
    assert b"tty" not in seen.replace(b"typed", b"")


def test_files_are_copied_into_the_incoming_folder(
    lab: Lab, running: QubesVM, tmp_path: Path
) -> None:
    lab.service(
        "work",
        "qubes.Filecopy",
        f'PATH={LAB}/dom0/lib:$PATH exec {LAB}/qube/rpc/qubes.Filecopy "$@"',
    )
    file = tmp_path / "a file"
    file.write_bytes(DATA)
    agent = f"{LAB}/qube/lib/qfile-dom0-agent '{file}'"
    process = running.run_service("qubes.Filecopy", localcmd=agent)
    assert process.wait() == 0
    (copy,) = (lab.state / "roots").glob("*/home/user/QubesIncoming/dom0/a file")
    assert copy.read_bytes() == DATA


def test_a_service_outlives_a_client_that_was_killed(lab: Lab, running: QubesVM) -> None:
    """As in Qubes: it sees the end of its input, and ends as it likes."""
    result = lab.state / "result"
    lab.service("work", "test.Store", f"cat >{result}.part; mv {result}.part {result}")
    process = running.run_service("test.Store")
    assert process.stdin is not None
    process.stdin.write(b"half")
    process.stdin.flush()
    lab.until(lambda: Path(f"{result}.part").exists() and Path(f"{result}.part").stat().st_size)
    process.kill()
    process.wait()
    process.stdin.close()
    lab.until(result.exists)
    assert result.read_bytes() == b"half"


def test_a_service_that_ends_early_is_noticed_by_the_writer(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Early", "head -c 10 >/dev/null; exit 2")
    process = running.run_service("test.Early", stdin=subprocess.PIPE)
    assert process.stdin is not None
    with pytest.raises(BrokenPipeError):
        while True:
            process.stdin.write(DATA)
    assert process.wait() == 2


def test_much_stderr_reaches_the_caller(lab: Lab, running: QubesVM) -> None:
    lab.service("work", "test.Loud", "head -c 1000000 /dev/zero | tr '\\0' e >&2; echo done")
    out, err = running.run_service_for_stdio("test.Loud")
    assert (out, err) == (b"done\n", b"e" * 1_000_000)
