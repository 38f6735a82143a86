# SPDX-License-Identifier: GPL-3.0-or-later
"""set-password and init: from a configuration to a repository."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from testing.store import archives
from testing.store.driver import ENCRYPTED, PASSWORD, Store, refusal

LINE = PASSWORD.encode() + b"\n"


@pytest.fixture
def bare_store(tmp_path: Path) -> Store:
    """A configuration, without a password and a repository."""
    store = Store(tmp_path, "borg")
    store.configure()
    return store


def test_a_password_is_stored_once(bare_store: Store) -> None:
    first = bare_store.run("set-password", "--json", data=LINE + b"what comes then is not read")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == {"changed": True, "password_file": str(bare_store.password)}
    assert bare_store.password.read_bytes() == LINE
    assert bare_store.password.stat().st_mode & 0o7777 == 0o600
    again = bare_store.run("set-password", "--json", data=b"another invented password\n")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["changed"] is False
    assert b"nothing changed" in bare_store.run("set-password", data=LINE).stdout
    assert bare_store.password.read_bytes() == LINE
    assert {path.name for path in bare_store.config.parent.iterdir()} == {
        "default.toml",
        "default.password",
    }


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"a\n",
        b"x" * 15 + b"\n",
        b"x" * 513 + b"\n",
        b"x" * 100_000,
        b"cut, so its end is missing",
        " ümlauts are not ASCII ".encode() + b"\n",
        b"a tab\tin between them\n",
        b"a carriage return at its end\r\n",
        b" a space at its beginning\n",
        b"a space at its end \n",
        b"a zero\0 in between them\n",
    ],
)
def test_what_is_no_password(bare_store: Store, line: bytes) -> None:
    message = refusal(bare_store, "set-password", data=line)
    assert "the password must" in message
    assert "ümlaut" not in message
    assert [path.name for path in bare_store.config.parent.iterdir()] == ["default.toml"]


@pytest.mark.parametrize("length", [16, 512])
def test_lengths_of_a_password(bare_store: Store, length: int) -> None:
    bare_store.set_password("x" * length)
    assert bare_store.run("init").returncode == 0
    assert bare_store.runs() == []


def test_password_through_a_link_is_not_written(bare_store: Store) -> None:
    elsewhere = bare_store.folder / "elsewhere"
    bare_store.password.symlink_to(elsewhere)
    result = bare_store.run("set-password", "--json", data=LINE)
    assert json.loads(result.stdout)["changed"] is False
    assert not elsewhere.exists()
    assert "is not a regular file" in refusal(bare_store, "init")


def test_password_file_that_cannot_be_written(bare_store: Store) -> None:
    bare_store.configure(password_file=str(bare_store.folder / "absent" / "p"))
    assert "can't be made: No such file" in refusal(bare_store, "set-password", data=LINE)


def test_set_password_that_is_ended_while_it_reads(bare_store: Store) -> None:
    with bare_store.start("set-password", stdin=subprocess.PIPE) as setter:
        assert setter.stdin is not None
        setter.stdin.write(LINE[:-1])
        setter.stdin.flush()
        setter.send_signal(signal.SIGKILL)
        setter.wait()
    assert [path.name for path in bare_store.config.parent.iterdir()] == ["default.toml"]


def test_two_at_once_keep_one_password(bare_store: Store) -> None:
    setters = [bare_store.start("set-password", "--json", stdin=subprocess.PIPE) for _ in range(4)]
    changed = []
    for number, setter in enumerate(setters):
        out, errors = setter.communicate(f"invented password {number}\n".encode())
        assert setter.returncode == 0, errors
        changed.append(json.loads(out)["changed"])
    assert sorted(changed) == [False, False, False, True]
    assert bare_store.password.read_text() == f"invented password {changed.index(True)}\n"


def test_password_from_a_terminal_is_not_shown(bare_store: Store) -> None:
    main, side = os.openpty()
    setter = bare_store.start("set-password", stdin=side)
    os.close(side)
    shown = b""
    # without a controlling terminal the prompt is on stderr; the echo is off when it is there
    assert setter.stderr is not None
    while b": " not in shown:
        shown += os.read(setter.stderr.fileno(), 100)
    os.write(main, LINE)
    assert setter.wait() == 0
    os.set_blocking(main, False)
    with contextlib.suppress(OSError):
        shown += os.read(main, 1000)
    os.close(main)
    assert PASSWORD.encode() not in shown
    assert bare_store.password.read_bytes() == LINE


def test_init_makes_the_repository_once(bare_store: Store) -> None:
    assert "dom0 hands a new one over with" in refusal(bare_store, "init")
    assert not bare_store.repository.exists()
    bare_store.set_password()
    reports = []
    for words in (["--check"], [], [], ["--check"]):
        result = bare_store.run("init", "--json", *words)
        assert result.returncode == 0, result.stderr
        reports.append(json.loads(result.stdout))
        assert bare_store.repository.exists() == (reports[0:1] != reports)
    assert reports[0] == {
        "changed": True,
        "has_password": True,
        "engine": "borg",
        "location": str(bare_store.repository),
        "password_file": str(bare_store.password),
    }
    assert [report["changed"] for report in reports] == [True, True, False, False]
    assert b"repokey" in (bare_store.native("info", "--json") or b"")
    assert b"is already there" in bare_store.run("init").stdout


def test_check_without_a_password(bare_store: Store) -> None:
    report = json.loads(bare_store.run("init", "--check", "--json").stdout)
    assert (report["changed"], report["has_password"]) == (True, False)
    assert [path.name for path in bare_store.config.parent.iterdir()] == ["default.toml"]


@pytest.mark.parametrize("words", [[], ["--check"]])
@ENCRYPTED
def test_a_lost_password_gets_no_successor(store: Store, words: list[str]) -> None:
    """So dom0, which asks with --check first, hands none over."""
    store.password.unlink()
    assert "brought back with `dedup-store set-password`" in refusal(store, "init", *words)
    assert not store.password.exists()
    store.set_password()
    assert store.runs() == []


def test_init_uses_a_password_that_is_there(bare_store: Store) -> None:
    bare_store.password.write_text("chosen by the user\n")
    bare_store.password.chmod(0o400)
    assert bare_store.run("init").returncode == 0
    assert bare_store.password.read_text() == "chosen by the user\n"
    assert bare_store.runs() == []


@ENCRYPTED
def test_init_with_a_wrong_password(store: Store) -> None:
    store.password.chmod(0o600)
    store.password.write_text("wrong\n")
    result = store.run("init")
    assert result.returncode == 1
    assert b"passphrase" in result.stderr.lower() or b"password" in result.stderr.lower()
    assert store.password.read_text() == "wrong\n"


def test_init_on_the_other_engines_repository(store: Store) -> None:
    for other in {"restic", "borg", "directory"} - {store.engine}:
        store.configure(engine=other)
        if other != "directory" and not store.password.exists():
            store.set_password()
        message = refusal(store, "init")
        assert (
            f"is of engine '{store.engine}', but its configuration says engine = '{other}'"
            in message
        )
        assert "but its configuration says" in refusal(store, "put")


def test_init_on_foreign_data(bare_store: Store) -> None:
    bare_store.repository.mkdir()
    (bare_store.repository / "photo.jpg").write_text("x")
    assert "holds no engine's data" in refusal(bare_store, "init")
    assert not bare_store.password.exists()


def test_init_in_an_empty_folder_below_new_ones(bare_store: Store) -> None:
    bare_store.configure(location=str(bare_store.folder / "a" / "b" / "c"))
    bare_store.make()
    assert (bare_store.folder / "a" / "b" / "c" / "config").exists()


@pytest.mark.sampled(2)
@ENCRYPTED
def test_what_to_keep_brings_a_repository_back(store: Store, tmp_path: Path) -> None:
    """On another machine, which has the repository only, and has lost borg's key in it."""
    run = store.put(archives.join(archives.members(archives.small_qubes())))
    result = store.run("export-keys", "--json")
    assert result.returncode == 0, result.stderr
    kept = json.loads(result.stdout)
    assert (kept["engine"], kept["location"]) == (store.engine, str(store.repository))
    text = store.run("export-keys").stdout.decode()
    assert f"\npassword: {kept['password']}\n" in text

    other = Store(tmp_path / "other", kept["engine"])
    other.folder.mkdir()
    shutil.copytree(store.repository, other.repository)
    other.configure()
    other.set_password(kept["password"])
    if store.engine == "borg":
        assert kept["borg_key"] in text
        config = other.repository / "config"
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if line[:3] != "key" and line[0] != "\t"))
        assert other.run("list").returncode == 1
        other.native("key", "import", "::", "-", data=kept["borg_key"].encode())
    else:
        assert kept["borg_key"] is None
    assert other.runs() == [run]


@ENCRYPTED
def test_names_of_secrets_without_them(store: Store) -> None:
    result = store.run("export-keys", "--names", "--json")
    assert json.loads(result.stdout) == {
        "repository": "default",
        "engine": store.engine,
        "location": str(store.repository),
        "secrets": ["password", "borg key"] if store.engine == "borg" else ["password"],
    }
    assert store.password.read_bytes().strip() not in result.stdout
    store.password.unlink()
    report = json.loads(store.run("export-keys", "--names", "--json").stdout)
    assert report["secrets"] == []
    assert store.run("export-keys", "--names").stdout == b"none yet\n"
    assert "does not exist" in refusal(store, "export-keys")


def test_export_without_a_repository(bare_store: Store) -> None:
    bare_store.set_password()
    assert "there is no repository" in refusal(bare_store, "export-keys")
