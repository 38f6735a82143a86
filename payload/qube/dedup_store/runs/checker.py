# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of a repository: what is damaged, and which runs and qubes that affects."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from backup_format.members import HEADER, HMAC, XML_VOLUME

from dedup_store.archive import recipe
from dedup_store.archive.joiner import Joiner, MemberSelection
from dedup_store.archive.manifest import Manifest, Member
from dedup_store.engines.base import Engine
from dedup_store.errors import DamagedError, DiskError, StoreError, clean
from dedup_store.runs.catalog import read_manifest
from dedup_store.system import progress

_LOST = "unknown"  # status of a run without a manifest
_MAX_REASON, _MAX_CAUSE = 400, 240  # characters


def check_repository(repository: Engine, *, read_data: bool) -> str:
    """Run the engine's own check; return its findings, nothing when all is well."""
    try:
        repository.check(read_data=read_data)
    except DamagedError as error:
        return clean(str(error), _MAX_REASON)
    return ""


class _MembersOf(MemberSelection):
    """The members whose payload is in some payload objects."""

    def __init__(self, found: Manifest, objects: Iterable[int]) -> None:
        self._selected = set(objects)
        super().__init__(found, ())

    def wants(self, member: Member | None) -> bool:
        """Return whether a member is selected."""
        return member is not None and member.object in self._selected


class RunChecker:
    """A checker of runs in sequence, which goes on after damage.

    Args:
        repository: where they are.
        reads: whether to read payload, too.
        is_damaged: whether some of it is known to be damaged.
    """

    def __init__(self, repository: Engine, *, reads: bool, is_damaged: bool) -> None:
        self._repository = repository
        self._reads = reads
        self._is_damaged = is_damaged
        # payload objects that were read, by what they are to the engine and to the manifest
        self._tried: dict[tuple[object, ...], str] = {}

    def check(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Check a run.

        Args:
            summary: as `list` has it.

        Returns:
            What is reported of it.

        Raises:
            StoreError: the engine failed for a reason other than damage.
        """
        run = summary["run"]
        try:
            with self._damage_only():
                found, packed = read_manifest(self._repository, run)
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
        """Report runs without a manifest, in a repository that is damaged."""
        reason = (
            "it has no manifest, so its qubes are unknown:"
            " that is lost, or a backup that failed left this"
        )
        runs: list[str] = []
        with contextlib.suppress(DamagedError), self._damage_only():
            runs = sorted(self._repository.leftovers())
        return [_damaged_row(run, _LOST, [], [], reason) for run in runs]

    @contextlib.contextmanager
    def _damage_only(self) -> Iterator[None]:
        """Report an engine's failure as damage, unless the repository is out of reach."""
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
        lost = self._repository.lost_objects(found.run, found.objects)
        return dict.fromkeys(sorted(lost), "it is missing or has another length")

    def _read(self, found: Manifest, packed: bytes, objects: list[int]) -> dict[int, str]:
        """Join members as for a restore, and compare them; return the objects with problems."""
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
        content = self._repository.payload_id(found.run) or found.run
        return (content, number, *hashes)

    def _join(self, found: Manifest, packed: bytes, objects: list[int]) -> str:
        """Join what is in these objects, and discard it.

        Returns:
            What is wrong, empty when nothing is.
        """
        if not objects:
            return ""
        selection = _MembersOf(found, objects)
        nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with self._damage_only():
                payload = self._repository.payload(found.run, found.objects, selection.objects)
                try:
                    joiner = Joiner(found, payload, nothing, selection)
                    with progress.shown(lambda: joiner.written):
                        joiner.run(packed)
                    # engines report only at their end whether all went well
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
    """Find payload objects whose length differs between recipe and manifest.

    Raises:
        DamagedError: the recipe is malformed, or for another stream.
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
    """Return whether a member is a qube's, by its path: a folder's, or (dom0) a file's."""
    beginning = path if path.endswith("/") else f"{path}."
    return lambda member: (member.name or "").startswith(beginning)


def _is_needed(member: Member) -> bool:
    name = member.name or ""
    return name in (HEADER, HMAC) or name.startswith(f"{XML_VOLUME}.")


def _without_manifest(summary: dict[str, Any], cause: str) -> dict[str, Any]:
    """Report a run of which at most the summary is left."""
    qubes = [qube["name"] or qube["path"] for qube in summary["qubes"]]
    reason = "nothing of it can be restored without its manifest"
    if not qubes:
        reason += ", and its qubes are unknown"
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
