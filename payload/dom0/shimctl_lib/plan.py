# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps from what is in place to what should be, in an order that can be cut anywhere.

At every instant /usr/bin/scrypt works: it is the real scrypt, or the shim with the real one behind.
The state file comes first and goes last, so that the next reconcile completes what was cut.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dom0_common.paths import SHIM, Paths

from shimctl_lib import guard, inspection, state
from shimctl_lib.errors import GUIDES_BACKUPS, REINSTALL, ShimctlError
from shimctl_lib.system import files, packages, probe

CONFIG_TEXT = """\
# What /usr/bin/scrypt does with Qubes backups (qubes-dedup-backup).
#   authenticated: a passphrase `dedup:...` makes a container that deduplicates and can't be altered
#                  unseen; with any other passphrase the backup is really encrypted
#   off:           every backup is really encrypted; containers can still be restored
mode = {}
"""
INSTALLATION = ("phase", "method", "shim_sha256", "real_sha256", "refused", "folders")


@dataclass(frozen=True)
class Step:
    """A change.

    Attributes:
        text: what it is, for the user.
        make: makes it.
        paths: the files that it changes.
        after: how it changes Installation.summary().
    """

    text: str
    make: Callable[[], None]
    paths: tuple[Path, ...]
    after: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        steps: the changes, in order.
        refused: why the real scrypt was refused, None when it wasn't.
        left: what only the user can mend.
    """

    steps: list[Step]
    refused: str | None = None
    left: tuple[str, ...] = ()


class Planner:
    """The planner for one installation."""

    def __init__(self, at: Paths, found: inspection.Installation) -> None:
        self.at, self.found = at, found
        self.steps: list[Step] = []

    def add(self, text: str, make: Callable[[], None], *paths: Path, **after: str) -> None:
        """Add a step."""
        self.steps.append(Step(text, make, paths, after))

    def check_places(self, method: str) -> None:
        """Refuse to touch what is neither scrypt nor ours.

        Raises:
            ShimctlError: there is such a thing in one of the places that would change.
        """
        found = self.found
        places = [found.scrypt, found.real] if method == "replace" else [found.scrypt, found.local]
        for place in places:
            if place.kind in ("symbolic link", "hard link"):
                a_link = (
                    "a symbolic link"
                    if place.kind == "symbolic link"
                    else "one of several hard links"
                )
                raise ShimctlError(
                    f"{place.path} is {a_link}, and was left alone: put a file of its own there"
                )
            if place.kind == "unknown" or (place.kind == "broken" and place is not found.real):
                raise ShimctlError(
                    f"{place.path} is neither scrypt nor the shim, and was left alone: {REINSTALL}"
                )
        if found.local.kind == "guide" and method == "path":
            raise ShimctlError(f"{found.local.path} is the forum guide's script: remove it first")

    def source(self) -> inspection.Entry:
        """Return the real scrypt that counts: the one that the package manager placed last.

        Raises:
            ShimctlError: there is none.
        """
        found = self.found
        order = (found.real, found.scrypt) if found.diverted else (found.scrypt, found.real)
        for place in (*order, found.old):
            if place.kind == "real":
                return place
        at = self.at
        raise ShimctlError(
            f"the real scrypt is not at {at.scrypt}, {at.real}, {at.old}: {REINSTALL}"
        )

    def refusal(self, source: inspection.Entry) -> str | None:
        """Return why the real scrypt can't be relied on, None if it proved that it can."""
        recorded = self.found.state or {}
        if recorded.get("real_sha256") == source.sha256 and not recorded.get("refused"):
            return None
        try:
            probe.probe(source.path)
        except probe.RefusedError as error:
            return str(error)
        return None

    def record(self, text: str, entries: dict[str, Any], **after: str) -> None:
        """Add the step that changes the state file, if it changes."""
        old = self.found.state
        new = {**(old or {}), **entries}
        new = {key: value for key, value in new.items() if value is not None}
        if old is None or any(old.get(key) != new.get(key) for key in INSTALLATION):
            new["package"] = packages.owner(self.at)
            self.add(text, partial(state.save, self.at, new), self.at.state, **after)

    def restore_scrypt(self, note: str = "") -> None:
        """Plan to put the package's file back as the real scrypt; the kept one leaves its place."""
        found, at = self.found, self.at
        if found.real.kind == "real" and (found.scrypt.kind != "real" or found.diverted):
            text = f"put the real scrypt back at {at.scrypt}{note}"
            put_back = partial(files.move, at.real, at.scrypt, found.scrypt.still)
            self.add(text, put_back, at.scrypt, at.real, scrypt="real", real="missing")
        elif found.scrypt.kind in inspection.OURS and found.old.kind != "real" and self.orphaned():
            text = f"remove the shim {at.scrypt}, as its package is gone"
            gone = partial(files.delete, at.scrypt, found.scrypt.still)
            self.add(text, gone, at.scrypt, scrypt="missing")
        elif found.scrypt.kind != "real":
            source = self.source()
            text = f"put the real scrypt, now {source.path}, back at {at.scrypt}{note}"
            self.add(text, partial(self.copy_to_scrypt, source), at.scrypt, scrypt="real")
        elif found.real.kind == "real" and found.state is not None and found.method == "replace":
            gone = partial(files.delete, at.real, found.real.still)
            self.add(f"remove {at.real}", gone, at.real, real="missing")
        if found.diverted:
            text = f"end dpkg's diversion of {at.scrypt}"
            self.add(text, lambda: packages.divert(at, add=False), diverted="no")

    def orphaned(self) -> bool:
        """Return whether the package was removed since; it can have taken the real scrypt along."""
        recorded = (self.found.state or {}).get("package")
        return bool(recorded) and packages.owner(self.at) is None

    def copy_to_scrypt(self, source: inspection.Entry) -> None:
        """Put a copy of a real scrypt from elsewhere in the place of the package's file."""
        files.copy(source.path, self.at.scrypt, self.found.scrypt.still)

    def remove_local(self) -> None:
        """Remove the shim of method `path`."""
        if self.found.local.kind in inspection.OURS:
            local, still = self.at.local, self.found.local.still
            gone = partial(files.delete, local, still)
            self.add(f"remove the shim {local}", gone, local, local="missing")

    def guide_note(self) -> str:
        """Return how to restore what the forum guide's script wrote, if it is here."""
        if self.found.scrypt.kind != "guide":
            return ""
        return f"; {GUIDES_BACKUPS}"

    def place_shim(self, source: inspection.Entry, method: str) -> None:
        """Put the shim in front of the real scrypt."""
        found, at, shim = self.found, self.at, SHIM.read_bytes()
        if method == "path":
            self.restore_scrypt(self.guide_note())
            if found.local.kind != "shim":
                text = f"put the shim at {at.local} (now: {found.local.kind})"
                write = partial(files.write_like, at.local, shim, at.scrypt, found.local.still)
                self.add(text, write, at.local, local="shim")
            return
        self.remove_local()
        if source.path != at.real and not found.real.alike(source):
            text = f"keep the real scrypt, now {source.path}, as {at.real}"
            keep = partial(files.copy, source.path, at.real, found.real.still)
            self.add(text, keep, at.real, real="real")
        if not found.diverted and packages.dpkg_owner(at):
            text = f"let dpkg put the package's {at.scrypt} at {at.real} from now on"
            self.add(text, lambda: packages.divert(at, add=True), diverted="yes")
        if found.scrypt.kind != "shim":
            text = f"put the shim at {at.scrypt} (now: {found.scrypt.kind}{self.guide_note()})"
            write = partial(files.write_like, at.scrypt, shim, at.real, found.scrypt.still)
            self.add(text, write, at.scrypt, scrypt="shim")

    def place_guard(self) -> None:
        """Lay the guard's files down, and start the watch.

        They have no paths here: one that can't be changed must not keep the shim from its place.
        """
        at, found = self.at, self.found
        for file in found.guard:
            if file.now in ("missing", "wrong"):
                text = f"lay down {file.path} (now: {file.now})"
                self.add(text, partial(guard.lay_down, file), guard="complete")
        if guard.stale_units(at, found.guard):
            self.add("have systemd watch scrypt", lambda: guard.watch(at), guard="complete")

    def folders_made(self) -> list[Path]:
        """Return the folders of the guard that an installation made."""
        recorded = (self.found.state or {}).get("folders") or ()
        folders = {file.path.parent for file in self.found.guard}
        return sorted(f for f in folders if str(f.relative_to(self.at.root)) in recorded)

    def folders(self) -> list[str] | None:
        """Return folders_made() below the root, with those to be made now; None for none."""
        folders = {file.path.parent for file in self.found.guard}
        made = {*self.folders_made(), *(folder for folder in folders if not folder.exists())}
        return sorted(str(folder.relative_to(self.at.root)) for folder in made) or None

    def install(self, mode: str | None, method: str | None) -> Plan:
        """Plan an installation, or its repair; without mode an existing config stays.

        Raises:
            ShimctlError: it can't be done.
        """
        at, found = self.at, self.found
        method = method or found.method
        problem = found.config_problem(at.config)
        if problem and mode is None:
            raise ShimctlError(problem)
        if found.state is None and (
            others := found.in_the_way(at, method, "the same command again")
        ):
            raise ShimctlError("not installed, as nobody would run it: " + "; ".join(others))
        if found.state is None and (why := self.refusal(self.checked_source(method))):
            raise ShimctlError(f"not installed, as this scrypt is not what Qubes expects: {why}")
        if found.config is None or (mode and mode != found.mode):
            mode = mode or "authenticated"
            config = CONFIG_TEXT.format(mode).encode()
            text = f"set mode = {mode} in {at.config}" + (
                f"; until now: {problem}" if problem else ""
            )
            write = partial(files.write, at.config, config, found.config_is_still)
            self.add(text, write, at.config, mode=mode)
        return replace(self.repair(method), left=tuple(found.in_the_way(at, method)))

    def checked_source(self, method: str) -> inspection.Entry:
        """Return the real scrypt that counts, if its places can be changed."""
        self.check_places(method)
        return self.source()

    def repair(self, method: str) -> Plan:
        """Plan to put the shim in front of the real scrypt that is there now."""
        source = self.checked_source(method)
        if self.found.state is not None and (why := self.refusal(source)):
            return self.stand_back(source, method, why)
        entries = {
            "phase": "installed",
            "method": method,
            "shim_sha256": hashlib.sha256(SHIM.read_bytes()).hexdigest(),
            "real_sha256": source.sha256,
            "refused": None,
            "folders": self.folders(),
        }
        after = {"installed": "yes", "method": method, "recorded": source.sha256[:16]}
        self.record(f"record the installation in {self.at.state}", entries, **after)
        self.place_shim(source, method)
        self.place_guard()
        return Plan(self.steps)

    def stand_back(self, source: inspection.Entry, method: str, why: str) -> Plan:
        """Plan the fail-safe state: the real scrypt that was refused stays in front."""
        found, at = self.found, self.at
        entries: dict[str, Any] = {
            "method": method,
            "refused": {"sha256": source.sha256, "reason": why},
        }
        entries["folders"] = self.folders()
        self.record(f"record in {at.state} that {source.path} was refused", entries, method=method)
        self.remove_local()
        if found.scrypt.kind != "real" or (source is found.real and not found.scrypt.alike(source)):
            text = f"put the real scrypt, now {source.path}, at {at.scrypt} instead of the shim"
            self.add(text, partial(self.copy_to_scrypt, source), at.scrypt, scrypt="real")
        self.place_guard()
        return Plan(self.steps, why)

    def remove(self) -> Plan:
        """Plan the return to what the package shipped; ledgers and an edited config stay.

        Raises:
            ShimctlError: it can't be done.
        """
        found, at = self.found, self.at
        if found.state is not None:
            entries = {"phase": "removing"}
            self.record(f"record the removal in {at.state}", entries, installed="partly")
        guards = [file for file in found.guard if file.now in ("right", "wrong")]
        if guards:  # first, or it would notice what comes now
            self.add(
                "have systemd stop watching scrypt", lambda: guard.stop_watching(at), guard="absent"
            )
        self.remove_local()
        left = self.restore_if_ours()
        for file in guards:
            gone = partial(files.delete, file.path, file.still)
            self.add(f"remove {file.path}", gone, file.path)
        for folder in self.folders_made():
            if folder.is_dir():
                text = f"remove {folder}, unless something else is in it"
                self.add(text, partial(files.delete_folder, folder))
        if guards:
            self.add("let systemd forget the units", lambda: guard.forget(at))
        if found.mode and found.config == CONFIG_TEXT.format(found.mode).encode():
            gone = partial(files.delete, at.config, found.config_is_still)
            self.add(f"remove {at.config}", gone, at.config, mode="no config")
        if found.state is not None:
            after = {"installed": "no", "method": "replace", "recorded": "nothing"}
            gone = partial(files.delete, at.state)
            self.add(f"remove {at.state}{left}", gone, at.state, **after)
        return Plan(self.steps)

    def restore_if_ours(self) -> str:
        """Restore the package's file if we replaced it; return a remark if it isn't ours.

        Raises:
            ShimctlError: there is no real scrypt to restore, and yet its package is installed.
        """
        found, at = self.found, self.at
        if found.scrypt.kind in ("symbolic link", "hard link", "unknown", "broken"):
            return f"; {at.scrypt} is '{found.scrypt.kind}' and was left alone, as was {at.real}"
        ours = found.state is not None or found.scrypt.kind in inspection.OURS
        if ours and (found.real.kind == "real" or found.scrypt.kind != "missing"):
            self.restore_scrypt(" (only the shim restores containers)")
        return ""

    def reconcile(self) -> Plan:
        """Plan by the state file: repair, complete a removal, or nothing."""
        if self.found.state is None:
            return Plan([])
        if self.found.state.get("phase") == "removing":
            return self.remove()
        found, at = self.found, self.at
        left = found.in_the_way(at, found.method)
        if problem := found.config_problem(at.config):
            left.append(problem)
        return replace(self.repair(found.method), left=tuple(left))
