# SPDX-License-Identifier: GPL-3.0-or-later
"""Which repositories can be reached, and with which programs."""

import os
from pathlib import Path

import jinja2
import pytest
import yaml

from testing.paths import PROJECT
from testing.server.storage_qube import QrexecStore, StorageQube

ROLE = PROJECT / "roles/storage_qube"
SERVICES = ("dedupbackup.Repository", "dedupbackup.Maintenance", "dedupbackup.MaintenanceOpen")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "argument",
    [
        *("", "borg", "borg+", "+main", "main", "restic+main", "borg+other", "borg+main+x"),
        *("borg+../main", "borg+./main", "borg+main/", "Borg+main", "borg+main\n", "--help"),
        *("borg+-x", "borg+" + "x" * 33, "borg+main.toml", "borg+.", "borg+*", "borg+$(id)"),
        *("borg+m\u00e4in", "borg+/etc/passwd"),
    ],
)
def test_arguments_that_are_none(qube: StorageQube, service: str, argument: str) -> None:
    qube.configure("main", "borg")
    result = qube.call(service, argument, caller="dom0")
    assert result.returncode == 2
    assert result.stdout == b""
    assert result.stderr.startswith(b"dedup-server: ")
    assert result.stderr.count(b"\n") == 1
    assert list(qube.data.iterdir()) == []


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine = ", "is not valid TOML"),
        ('engine = "borg"\nplaces = "/x"', "unknown key 'places'"),
        ("engine = 1", "'engine' must be a string"),
        ('engine = "tar"', "'engine' must be one of"),
        ('place = "/x"', "'engine' must be one of"),
        ('engine = "borg"\nplace = "x"', "'place' must be an absolute path"),
        ('engine = "borg"\nplace = "/x/../y"', "'..' in it"),
        ('engine = "borg"\nplace = "/x\\u001b"', "control character"),
        ('engine = "borg"\nplace = "rclone:far:x"', "borg can't use an rclone remote"),
        ('engine = "restic"\nplace = "rclone::local:/"', "'place' must be an absolute path"),
        ('engine = "restic"\nplace = "rclone:-x:/"', "'place' must be an absolute path"),
        ('engine = "borg"\nplace = "ssh://-oProxyCommand=x/y"', "'place' must be"),
        ('engine = "borg"\nplace = "ssh://host"', "'place' must be"),
        ('engine = "borg"\nssh_config = "x"', "'ssh_config' must be an absolute path"),
        ('engine = "borg"\nmaintenance_minutes = 0', "between 1 and 10080"),
        ('engine = "borg"\nmaintenance_minutes = true', "must be a whole number"),
        ('engine = "borg"\nkeep_removed_days = -1', "between 0 and 3650"),
        ('engine = "borg"\nreserve_mib = 65537', "between 0 and 65536"),
        ('engine = "borg"\nplace = "/nonexistent"', "/nonexistent does not exist"),
        ('engine = "restic"\nplace = "/nonexistent"', "/nonexistent does not exist"),
    ],
)
def test_configurations_that_are_wrong(qube: StorageQube, text: str, message: str) -> None:
    (qube.folder / "config" / "main.toml").write_text(text)
    result = qube.call("dedupbackup.Repository", "restic+main" if "restic" in text else "borg+main")
    assert result.returncode == 2
    assert message in result.stderr.decode()


def test_configuration_that_others_can_write(qube: StorageQube) -> None:
    qube.configure("main", "borg")
    (qube.folder / "config" / "main.toml").chmod(0o666)
    result = qube.call("dedupbackup.Repository", "borg+main")
    assert result.returncode == 2
    assert b"could be written by others" in result.stderr


@pytest.mark.parametrize("engine", ["borg", "restic"])
def test_repository_that_is_a_link(qube: StorageQube, engine: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    qube.configure("main", engine)
    (qube.data / "main").symlink_to(tmp_path / "elsewhere")
    result = qube.call("dedupbackup.Repository", f"{engine}+main")
    assert result.returncode == 2
    assert b"a link" in result.stderr


@pytest.mark.parametrize("version", ["1.2.4", "1.1.18", "0.29.0", "2.0.0b19"])
def test_borg_that_is_refused(qube: StorageQube, version: str) -> None:
    qube.configure("main", "borg")
    qube.use_version("borg", f"borg {version}")
    result = qube.call("dedupbackup.Repository", "borg+main")
    assert result.returncode == 1
    assert b"1.2.5 or newer is needed" in result.stderr
    assert b"CVE-2023-36811" in result.stderr


@pytest.mark.thorough
def test_borg_that_the_backup_qube_refuses(borg: QrexecStore, qube: StorageQube) -> None:
    """Whoever holds the repository could deceive it."""
    qube.use_version("borg", "borg 1.2.4")
    result = borg.run("list")
    assert result.returncode == 1
    assert b"borg 1.2.4 is too old for a repository in a storage qube" in result.stderr


@pytest.mark.parametrize("version", ["v1.60.1-DEV", "v1.74.4"])
def test_rclone_that_is_refused_for_remotes(qube: StorageQube, version: str) -> None:
    qube.configure("main", "restic", place="rclone:far:backups")
    qube.use_version("rclone", f"rclone {version}")
    result = qube.call("dedupbackup.Repository", "restic+main")
    assert result.returncode == 1
    assert b"1.75.0 or newer is needed" in result.stderr


@pytest.mark.parametrize(
    ("place", "target"),
    [("far:", "far:main"), ("far:/", "far:/main"), ("far:x/y", "far:x/y/main")],
)
def test_what_rclone_is_told(qube: StorageQube, place: str, target: str) -> None:
    qube.configure("main", "restic", place=f"rclone:{place}", rclone_config="/x/y.conf")
    qube.use_version("rclone", "rclone v1.75.0 $*")
    result = qube.call("dedupbackup.Repository", "restic+main", b"x")
    words = "serve restic --stdio --append-only --config /x/y.conf"
    assert result.stdout.decode() == f"rclone v1.75.0 {words} {target}\n"


def test_missing_programs(qube: StorageQube, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = qube.folder / "tools"
    tools.mkdir()
    (tools / "python3").symlink_to("/usr/bin/python3")
    monkeypatch.setitem(os.environ, "PATH", str(tools))
    for engine, program in (("borg", "borg"), ("restic", "rclone")):
        (qube.folder / "engines" / program).unlink()
        qube.configure(engine, engine)
        result = qube.call("dedupbackup.Repository", f"{engine}+{engine}")
        assert result.returncode == 1
        assert f"{program} is not installed here".encode() in result.stderr


@pytest.mark.parametrize(
    "location", ["qrexec:", "qrexec:sys-storage", "qrexec:-x/main", "qrexec:a/b/c"]
)
def test_locations_that_the_store_refuses(qube: StorageQube, tmp_path: Path, location: str) -> None:
    (tmp_path / "backup").mkdir()
    store = QrexecStore(tmp_path / "backup", "borg", qube, "main")
    store.configure(location=location)
    result = store.run("list")
    assert result.returncode == 2
    assert b"must be qrexec:QUBE/NAME" in result.stderr


def test_call_that_policy_refuses(qube: StorageQube, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    for engine in ("borg", "restic"):
        store = QrexecStore(tmp_path / "backup", engine, qube, "main")
        store.configure(location="qrexec:another/main")
        store.set_password()
        result = store.run("init")
        assert result.returncode == 1
        call = f"it calls dedupbackup.Repository+{engine}+main in another: does policy allow it"
        assert call in result.stderr.decode()


def test_what_the_playbook_and_the_formula_write_is_taken(qube: StorageQube) -> None:
    """Also a number that came as text; Salt trims no line ends."""
    spec = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())
    options = spec["argument_specs"]["main"]["options"]["storage_qube_repositories"]["options"]
    given = {"engine": "borg", "place": str(qube.data), "keep_removed_days": "3", "reserve_mib": 0}
    item = {key: given.get(key, "/x") for key in options}
    text = (ROLE / "templates/repository.toml.j2").read_text()
    for trim in (True, False):
        template = jinja2.Environment(trim_blocks=trim, autoescape=False).from_string(text)  # noqa: S701
        (qube.folder / "config/main.toml").write_text(template.render(item=item) + "\n")
        written = (qube.folder / "config/main.toml").read_text()
        assert all(f"{key} = " in written for key in options if key != "name")
        result = qube.run("changes", "main")
        assert result.returncode == 2  # nothing was made yet
        assert "there is no repository at" in result.stderr
