# SPDX-License-Identifier: GPL-3.0-or-later
"""The completeness of a list of members, and its comparison with the ledger.

What a complete backup has: qubes-core-admin qubes/backup.py (Backup.backup_do for the order,
_split_and_send for the chunks). The official restore checks none of this.
"""

from collections.abc import Callable, Collection

from backup_format.container import NONE
from backup_format.members import HEADER, HMAC, XML, ChunkSequence, is_member_name, split_chunk
from backup_format.qubesxml import Qube
from dom0_common.text import clean

from dedup_backup.records.ledger import Row

_FIRST = (HEADER, HMAC, XML)
Problem = Callable[[str], None]


def wrong_container(name: str, kind: str, right: Collection[str]) -> str:
    """Return why a member in this kind of container proves nothing; empty when it can.

    Args:
        name: the member.
        kind: the kind of its container, by container_verifier.py or the store.
        right: the kinds that it may be in.
    """
    if kind in right:
        return ""
    if kind == NONE:
        return f"{name} is in no container, so an alteration would not show"
    return f"{name} is in a container of a kind that it can't be in here: '{clean(kind, 20)}'"


class Completeness:
    """A check that a list of members is that of a complete backup.

    Args:
        problem: takes each thing that is wrong.
        containers: the kinds that the members may be in.
    """

    def __init__(self, problem: Problem, containers: Collection[str]) -> None:
        self._problem = problem
        self._containers = containers
        self._count = 0
        self._kind = ""
        self._chunks = ChunkSequence(problem)

    def add(self, name: str, container: str, length: int) -> None:
        """Take the next member: its name, its container, bytes of its payload."""
        if self._count < len(_FIRST) and name != _FIRST[self._count]:
            self._problem(f"{name} stands where {_FIRST[self._count]} must be")
        elif self._count >= len(_FIRST) and name in _FIRST:
            self._problem(f"{name} is there twice, or not in its place")
        self._count += 1
        if name == HMAC:
            self._kind = container
        if name == HEADER:
            return
        if wrong := wrong_container(name, container, self._containers):
            self._problem(wrong)
        elif container != self._kind:
            self._problem(f"{name} is in another kind of container than {HMAC}")
        if not is_member_name(name):
            self._problem(f"{name} is not what a backup contains")
        elif chunk := split_chunk(name):
            self._chunks.add(*chunk, length)

    def judge(self, qubes: list[Qube] | None) -> None:
        """Report what is missing.

        Args:
            qubes: what qubes.xml promises; None when it can't be read.
        """
        for name in _FIRST[self._count :]:
            self._problem(f"{name} is missing")
        self._chunks.finish()
        if qubes is not None:
            self._find(qubes)

    def _find(self, qubes: list[Qube]) -> None:
        """Compare with what qubes.xml promises."""
        volumes = dict.fromkeys(self._chunks.volumes)
        folders = {volume.rpartition("/")[0] + "/" for volume in volumes}
        for qube in qubes:
            wanted = [qube.path + name for name in qube.volumes]
            if not qube.path.endswith("/"):  # dom0's home
                wanted = [qube.path]
            elif qube.path not in folders:
                self._problem(f"{qube.path}: all of {qube.name or 'a qube'} is missing")
                continue
            for name in wanted:
                if name not in volumes:
                    self._problem(f"{name}.000.enc is missing ({qube.name})")
        known = {qube.path for qube in qubes} | {"qubes.xml"}
        for name in volumes:
            if name not in known and name.rpartition("/")[0] + "/" not in known:
                self._problem(f"{name}.000.enc belongs to no qube that qubes.xml includes")


class Comparison:
    """A comparison of members, in their order, with what they must be.

    Args:
        rows: what they must be.
        who: who says so, for messages.
        problem: takes each difference.
    """

    def __init__(self, rows: list[Row], who: str, problem: Problem) -> None:
        self._rows = rows
        self._where = {row.name: index for index, row in enumerate(rows)}
        self._seen = [False] * len(rows)
        self._next = 0
        self._jumps: list[tuple[int, int]] = []  # from, to: out of order, or a gap
        self._who = who
        self._problem = problem

    def add(self, found: Row) -> None:
        """Take the next member."""
        index = self._where.get(found.name)
        if index is None:
            self._problem(f"{found.name} is not in {self._who}")
            return
        if self._seen[index]:
            self._problem(f"{found.name} is there twice")
            return
        if index != self._next:
            self._jumps.append((self._next, index))
        self._seen[index] = True
        self._next = index + 1
        wanted = self._rows[index]
        for one, other in (
            (found.length, wanted.length),
            (found.sha256, wanted.sha256),
            (found.trailer, wanted.trailer),
        ):
            if one != other and one is not None and other is not None:
                self._problem(f"{found.name} is not what {self._who} says")
                return

    def finish(self) -> None:
        """Report the members that didn't come."""
        for row, seen in zip(self._rows, self._seen, strict=True):
            if not seen:
                self._problem(f"{row.name} is missing ({self._who} has it)")
        for start, end in self._jumps:
            if end < start or any(self._seen[start:end]):
                self._problem(f"{self._rows[end].name} is not in its place")
