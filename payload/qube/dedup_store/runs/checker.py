# SPDX-License-Identifier: GPL-3.0-or-later
"""The command check: whether what was stored is still there, and what is hit if it isn't."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from backup_format.members import HEADER, HMAC, XML_VOLUME

from dedup_store import config, engine, get, progress, recipe, tell
from dedup_store.commands import open_repository
from dedup_store.errors import DamagedError, DiskError, NoRunError, StoreError, clean
from dedup_store.manifest import Manifest, Member
from dedup_store.stored import StoredObject

_LOST = "unknown"  # status of a run without a manifest
_MAX_REASON, _MAX_CAUSE = 400, 240  # characters
_SERVED = (
    "ok as far as the storage qube tells, which checked its files itself: with --read-data, all"
    " data are compared in this qube"
)


def check(arguments: argparse.Namespace, settings: config.Config) -> int:
    """Check the repository, and all runs or those that are named."""
    repository = open_repository(settings)
    runs, trouble = _choose(repository, arguments.runs)
    found = _check_repository(repository, read_data=arguments.read_data)
    if trouble and not found:
        raise trouble
    if trouble:
        tell.say(f"the runs can't be told: {trouble}")
    elif found:
        tell.say("the repository is damaged: these runs are read, to see which of them are hit")
    reads = arguments.read_data or bool(found)
    checker = _Checker(repository, reads=reads, is_damaged=bool(found))
    rows = [checker.check(run) for run in runs]
    if found and not trouble and not arguments.runs:
        rows += checker.lost()
    is_served = settings.storage is not None and settings.engine == "borg"
    message = found or (_SERVED if is_served and not arguments.read_data else "ok")
    _report(arguments, {"ok": not found, "message": message}, rows)
    is_well = not found and all(row["ok"] for row in rows)
    return 0 if is_well else DamagedError.exit_code


def _choose(
    repository: engine.Engine, wanted: list[str]
) -> tuple[list[dict[str, Any]], StoreError | None]:
    """Find the runs to check; all, when none is named.

    Returns:
        Their summaries, and why they can't be told: that is damage, if the engine's check says so.

    Raises:
        NoRunError: one that is named isn't there.
    """
    try:
        runs = get.list_runs(repository)
    except StoreError as error:
        return [], error
    known = {run["run"]: run for run in runs}
    for run in wanted:
        if run not in known:
            raise NoRunError(f"there is no run '{clean(run, 120)}': see `dedup-store list`")
    return [known[run] for run in dict.fromkeys(wanted)] if wanted else runs, None


def _check_repository(repository: engine.Engine, *, read_data: bool) -> str:
    """Run the engine's own check; give what it found, nothing when all is well."""
    try:
        repository.check(read_data=read_data)
    except DamagedError as error:
        return clean(str(error), _MAX_REASON)
    return ""


class _Objects(get.Choice):
    """Chooses the members whose payload is in some payload objects."""

    def __init__(self, found: Manifest, objects: Iterable[int]) -> None:
        """Choose."""
        self._chosen = set(objects)
        super().__init__(found, ())

    def wants(self, member: Member | None) -> bool:
        """Tell whether a member is wanted."""
        return member is not None and member.object in self._chosen


class _Checker:
    """Checks runs, one after the other, and goes on after damage."""

    def __init__(self, repository: engine.Engine, *, reads: bool, is_damaged: bool) -> None:
        """Prepare.

        Args:
            repository: where they are.
            reads: whether to read payload, too.
            is_damaged: whether some of it is known to be damaged.
        """
        self._repository = repository
        self._reads = reads
        self._is_damaged = is_damaged
        self._stored: dict[int, StoredObject] = {}  # of the run at hand
        # payload objects that were read, by what they are to the engine and to the manifest
        self._tried: dict[tuple[object, ...], str] = {}

    def check(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Check a run.

        Args:
            summary: as `list` has it.

        Returns:
            What is reported of it.

        Raises:
            StoreError: the engine failed, and not because of damage.
        """
        run = summary["run"]
        try:
            with self._damage_only():
                found, packed = get.read_manifest(self._repository, run)
                problems = _contradictions(found, packed)
        except DamagedError as error:
            return _without_manifest(summary, clean(str(error), _MAX_CAUSE))
        try:
            with self._damage_only():
                problems |= self._sizes(found)
        except DamagedError as error:
            problems = dict.fromkeys(range(len(found.objects)), str(error))
        if self._reads:
            rest = [number for number in range(len(found.objects)) if number not in problems]
            problems |= self._read(found, packed, rest)
        return _row(found, problems)

    def lost(self) -> list[dict[str, Any]]:
        """Tell of runs that have no manifest, in a repository that is damaged."""
        reason = (
            "it has no manifest, so its qubes can't be told:"
            " that is lost, or a backup that failed left this"
        )
        runs: list[str] = []
        with contextlib.suppress(DamagedError), self._damage_only():
            runs = sorted(self._repository.leftovers())
        return [_damaged_row(run, _LOST, [], [], reason) for run in runs]

    @contextlib.contextmanager
    def _damage_only(self) -> Iterator[None]:
        """Make an engine's failure damage, unless it is because the repository is out of reach."""
        try:
            yield
        except DamagedError:
            raise
        except StoreError as error:
            is_out_of_reach = isinstance(error, DiskError) and not error.is_damage
            if is_out_of_reach or not self._repository.exists():
                raise
            raise DamagedError(str(error)) from None

    def _sizes(self, found: Manifest) -> dict[int, str]:
        """Compare the payload objects in the repository with the manifest, without reading them."""
        if not found.objects:
            return {}
        self._stored = self._repository.stored_objects(found.run)
        problems = {}
        for number, length in enumerate(found.objects):
            stored = self._stored.get(number)
            if stored is None or stored.length != length:
                problems[number] = "it is missing or has another length"
        return problems

    def _read(self, found: Manifest, packed: bytes, objects: list[int]) -> dict[int, str]:
        """Join members as for a restore, and compare them; give the objects with problems."""
        keys = {number: self._key(found, number) for number in objects}
        unknown = [number for number in objects if keys[number] not in self._tried]
        # all at once is quicker; one at a time doesn't wait twice for what restic tries for long
        if not self._is_damaged and not self._join(found, packed, unknown):
            self._tried |= dict.fromkeys((keys[number] for number in unknown), "")
            unknown = []
        for number in unknown:
            self._tried[keys[number]] = self._join(found, packed, [number])
        tried = {number: self._tried[key] for number, key in keys.items()}
        return {number: problem for number, problem in tried.items() if problem}

    def _key(self, found: Manifest, number: int) -> tuple[object, ...]:
        hashes = [item.payload_sha256 for item in found.members if item.object == number]
        content = self._stored[number].content
        return (content, *hashes) if content else (found.run, number)

    def _join(self, found: Manifest, packed: bytes, objects: list[int]) -> str:
        """Join what is in these objects, into nothing.

        Returns:
            What is wrong, empty when nothing is.
        """
        if not objects:
            return ""
        choice = _Objects(found, objects)
        nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with self._damage_only():
                payload = self._repository.payload(found.run, choice.objects)
                try:
                    joiner = get.Joiner(found, payload, nothing, choice)
                    with progress.shown(lambda: joiner.written):
                        joiner.run(packed)
                    # only at their end engines tell whether all went well
                    if payload.readinto(memoryview(bytearray(1))):
                        raise DamagedError("there is more payload than the recipe uses")
                finally:
                    payload.close()
        except DamagedError as error:
            return str(error)
        finally:
            os.close(nothing)
        return ""


def _contradictions(found: Manifest, packed: bytes) -> dict[int, str]:
    """Find payload objects of which recipe and manifest say different lengths.

    Raises:
        DamagedError: the recipe is none, or for another stream.
    """
    lengths = dict.fromkeys(range(len(found.objects)), 0)
    members, member, total = iter(found.members), None, 0
    for kind, count, _ in recipe.operations(packed):
        total += count
        if kind == recipe.MEMBER:
            member = next(members, None)
        elif kind == recipe.COPY:
            if member is None or member.object not in lengths:
                raise DamagedError(f"the recipe of {found.run} contradicts its manifest")
            lengths[member.object] += count
    if total != found.stream_length or next(members, None) is not None:
        raise DamagedError(f"the recipe of {found.run} is not for all of its stream")
    return {
        number: "recipe and manifest contradict each other"
        for number, length in enumerate(found.objects)
        if lengths[number] != length
    }


def _row(found: Manifest, problems: dict[int, str]) -> dict[str, Any]:
    """Report a run whose manifest is sound.

    Args:
        found: the run.
        problems: what is wrong with a payload object, by its number.
    """
    qubes = {qube["name"] or qube["path"]: _is_of(qube["path"]) for qube in found.qubes}
    if not problems:
        return _damaged_row(found.run, found.status, [], list(qubes), "") | {"ok": True}
    hit = [member for member in found.members if member.object in problems]
    damaged = [label for label, is_of in qubes.items() if any(map(is_of, hit))]
    restorable = [label for label in qubes if label not in damaged]
    first = min(problems)
    cause = clean(problems[first], _MAX_CAUSE)
    reason = f"payload object {first} of {len(found.objects)}: {cause}"
    if len(problems) > 1:
        reason = f"{len(problems)} payload objects are damaged, the first is {reason}"
    if any(_is_needed(member) for member in hit):
        restorable = []
        reason = f"qubes.xml is hit, which every restore needs; {reason}"
    return _damaged_row(found.run, found.status, damaged, restorable, reason)


def _is_of(path: str) -> Callable[[Member], bool]:
    """Tell a qube's members from others, by its path: a folder's, or (dom0) a file's."""
    beginning = path if path.endswith("/") else f"{path}."
    return lambda member: (member.name or "").startswith(beginning)


def _is_needed(member: Member) -> bool:
    name = member.name or ""
    return name in (HEADER, HMAC) or name.startswith(f"{XML_VOLUME}.")


def _without_manifest(summary: dict[str, Any], cause: str) -> dict[str, Any]:
    """Report a run of which nothing is left but, maybe, its summary."""
    qubes = [qube["name"] or qube["path"] for qube in summary["qubes"]]
    reason = "nothing of it can be restored without its manifest"
    if not qubes:
        reason += ", and its qubes can't be told"
    return _damaged_row(summary["run"], summary["status"], qubes, [], f"{reason}: {cause}")


def _damaged_row(
    run: str, status: str, damaged: list[str], restorable: list[str], reason: str
) -> dict[str, Any]:
    return {
        "run": run,
        "status": status,
        "ok": False,
        "damaged": damaged,
        "restorable": restorable,
        "reason": clean(reason, _MAX_REASON),
    }


def _report(
    arguments: argparse.Namespace, whole: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    if arguments.lines:
        tell.as_lines([{"repository": whole}, *rows])
        return
    if arguments.json:
        tell.as_json({"repository": whole, "runs": rows})
        return
    state = "" if whole["ok"] else "damaged: "
    lines = [f"repository: {state}{whole['message']}"]
    lines += [f"{row['run']} ({row['status']}): {_text(row)}" for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _text(row: dict[str, Any]) -> str:
    if row["ok"]:
        return "ok"
    parts = [f"damaged: {_names(row['damaged']) or 'unknown'}"]
    if row["damaged"] or row["restorable"]:
        parts = [f"damaged: {_names(row['damaged']) or 'no qube'}"]
        parts.append(f"can still be restored: {_names(row['restorable']) or 'no qube'}")
    return "; ".join([*parts, row["reason"]])


def _names(qubes: list[str]) -> str:
    return ", ".join(clean(qube, 80) for qube in qubes)
