# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard's files in /etc: their content, their state, and whether each trigger will fire."""

import configparser
import contextlib
from dataclasses import dataclass
from pathlib import Path

from dom0_common.paths import GUARD, Paths
from dom0_common.text import clean

from shimctl_lib.errors import ShimctlError
from shimctl_lib.system import files, packages, programs

PATH_UNIT = "qubes-dedup-backup-guard.path"
SERVICE = "qubes-dedup-backup-guard.service"
BOOT = "qubes-dedup-backup-guard-boot.service"
WANTS = "multi-user.target.wants"
# Keeps both units enabled through `systemctl preset-all` (qubes-dist-upgrade-r4.3.sh, stage 3).
PRESET = "50-qubes-dedup-backup.preset"
# Where dnf's plugins lie (Fedora, Debian). Their folders in /etc outlive them, as our hooks are in
# them: after a release upgrade dnf 4's may be there without dnf 4.
DNF4_PLUGIN = ("usr/lib*/python3*/*-packages/dnf-plugins/post-transaction-actions.py",)
DNF5_PLUGIN = ("usr/lib*/libdnf5/plugins/actions.so", "usr/lib/*/libdnf5/plugins/actions.so")


@dataclass(frozen=True)
class GuardFile:
    """A file of the guard.

    Attributes:
        path: where it belongs.
        content: its content, or the target of a link.
        now: right; missing; wrong; masked (the admin disabled the unit, which is respected).
        seen: what is there now: content, or the target of a link; None for nothing.
    """

    path: Path
    content: bytes | str
    now: str
    seen: bytes | str | None

    def still(self, path: Path) -> bool:
        """Return whether the file at path, here or moved, is the inspected one."""
        return _content(path) == self.seen


def _content(path: Path) -> bytes | str | None:
    """Return a file's content, or a link's target; None if there is neither."""
    if path.is_symlink():
        return str(path.readlink())
    return files.read(path)


def _guard_file(path: Path, content: bytes | str) -> GuardFile:
    seen = _content(path)
    now = {None: "missing", content: "right", "/dev/null": "masked"}.get(seen, "wrong")
    return GuardFile(path, content, now, seen)


def guard_files(at: Paths) -> list[GuardFile]:
    """Return the guard's files for the installed package managers and systemd."""
    wanted: list[tuple[Path, bytes | str]] = []
    if at.units.is_dir():
        for unit in (SERVICE, PATH_UNIT, BOOT):
            wanted.append((at.units / unit, (GUARD / unit).read_bytes()))
        for unit in (PATH_UNIT, BOOT):
            wanted.append((at.units / WANTS / unit, f"/etc/systemd/system/{unit}"))
        presets = at.units.with_name("system-preset")  # systemd.preset(5)
        wanted.append((presets / PRESET, (GUARD / PRESET).read_bytes()))
    if at.dnf4.is_dir():
        name = "dedup-backup.action"
        wanted.append((at.dnf4 / name, (GUARD / name).read_bytes()))
    if at.dnf5.is_dir():
        name = "dedup-backup.actions"
        wanted.append((at.dnf5 / name, (GUARD / name).read_bytes()))
    masked = {path.name for path, content in wanted if _guard_file(path, content).now == "masked"}
    return [
        _guard_file(path, content)
        for path, content in wanted
        if path.parent.name != WANTS or path.name not in masked
    ]


def summary(found: list[GuardFile]) -> str:
    """Return `complete`, `absent`, or `incomplete`."""
    now = {file.now for file in found} - {"masked"}
    if now <= {"right"}:
        return "complete" if now else "absent"
    return "absent" if now == {"missing"} else "incomplete"


def lay_down(file: GuardFile) -> None:
    """Put a file in its place."""
    if isinstance(file.content, str):
        files.link(file.content, file.path, file.still)
    else:
        files.write(file.path, file.content, file.still)


def watching(at: Paths) -> bool:
    """Return whether systemd watches; true, too, without systemd."""
    if not at.systemd or (at.units / PATH_UNIT).is_symlink():
        return True
    done = programs.run(["systemctl", "is-active", "--quiet", PATH_UNIT])
    return done is not None and done[0] == 0


def _systemctl(*arguments: str) -> None:
    done = programs.run(["systemctl", *arguments], seconds=20)
    if done is None or done[0] != 0:
        said = clean(done[2]) if done else "no answer"
        raise ShimctlError(f"systemctl {' '.join(arguments)}: {said}")


def stale_units(at: Paths, found: list[GuardFile]) -> bool:
    """Return whether systemd must reload the units, or start to watch."""
    changing = any(at.units in p.path.parents and p.now in ("missing", "wrong") for p in found)
    return at.systemd and (changing or not watching(at))


def watch(at: Paths) -> None:
    """Make systemd reload the units, and watch."""
    if at.systemd:
        _systemctl("daemon-reload")
        _systemctl("start", PATH_UNIT)


def stop_watching(at: Paths) -> None:
    """Stop systemd from watching."""
    if at.systemd and watching(at):
        with contextlib.suppress(ShimctlError):
            _systemctl("stop", PATH_UNIT)


def forget(at: Paths) -> None:
    """Make systemd drop units that are gone."""
    if at.systemd:
        _systemctl("daemon-reload")


def _units_health(at: Paths, found: list[GuardFile], *units: str) -> str:
    """Return `ready`, or `absent: why`, or `broken: why`."""
    if not at.units.is_dir():
        return "absent: there is no systemd here"
    for file in found:
        if file.path.name in units and file.now != "right":
            return f"broken: {file.path} is {file.now}"
    if not at.systemd:
        return "ready, once systemd runs"
    if PATH_UNIT in units and not watching(at):
        return f"broken: {PATH_UNIT} is not active"
    return "ready"


@dataclass(frozen=True)
class _Plugin:
    """A dnf plugin that calls hooks.

    Attributes:
        package: the package that has it.
        code: patterns of the paths where its code can be.
        config: its configuration file.
        hooks: the folder with the hooks.
    """

    package: str
    code: tuple[str, ...]
    config: Path
    hooks: Path


def _plugin_health(at: Paths, found: list[GuardFile], plugin: _Plugin) -> str:
    """Return the health of the hook of a dnf plugin, in the same form."""
    code = any(any(at.root.glob(pattern)) for pattern in plugin.code)
    if not code or not plugin.hooks.is_dir():
        return f"absent: {plugin.package} is not installed"
    settings = configparser.ConfigParser(strict=False, interpolation=None)
    with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
        settings.read(plugin.config)
    if settings.get("main", "enabled", fallback="1").lower() in ("0", "no", "false", "off"):
        return f"absent: the plugin is not enabled in {plugin.config}"
    wrong = [file for file in found if file.path.parent == plugin.hooks and file.now != "right"]
    return f"broken: {wrong[0].path} is {wrong[0].now}" if wrong else "ready"


def _dnf4_health(at: Paths, found: list[GuardFile]) -> str:
    """Return the health of dnf 4's hook; nobody calls it where `dnf` is dnf 5."""
    dnf = at.root / "usr/bin/dnf"
    if dnf.is_symlink() and dnf.readlink().name == "dnf5":
        return "absent: dnf is dnf 5 here"
    package = "python3-dnf-plugin-post-transaction-actions"
    config = at.dnf4.parent / "post-transaction-actions.conf"
    return _plugin_health(at, found, _Plugin(package, DNF4_PLUGIN, config, at.dnf4))


def health(at: Paths, found: list[GuardFile]) -> dict[str, str]:
    """Return for each trigger `ready…`, `absent: why` or `broken: why`."""
    config = at.dnf5.parent / "actions.conf"
    dnf5 = _Plugin("libdnf5-plugin-actions", DNF5_PLUGIN, config, at.dnf5)
    return {
        "rpm": "ready" if packages.rpm_installed(at) else f"absent: no RPM {packages.OURS}",
        "dnf4": _dnf4_health(at, found),
        "dnf5": _plugin_health(at, found, dnf5),
        "path": _units_health(at, found, SERVICE, PATH_UNIT, PRESET),
        "boot": _units_health(at, found, BOOT, PRESET),
    }
