# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository after some runs, or after years of them, with the same number of chunks in both.

Its oldest run has most of the chunks, as if it were of a large machine. Those after it are smaller,
and a little changes from one to the next. So what differs between two such repositories is the
number of runs, and not the size of the engine's index.
"""

from dataclasses import dataclass

from testing.store.driver import Store
from testing.store.years import borg_repository, restic_repository
from testing.store.years.model import Model, Plan

_FILL = {"restic": restic_repository.fill, "borg": borg_repository.fill}
_SMALLEST = 60  # bytes of a piece in the large run


@dataclass
class Made:
    """A repository that was made.

    Attributes:
        store: it.
        runs: names, the oldest first.
        streams: of the first, the middle and the last run after the large one, by their names.
    """

    store: Store
    runs: list[str]
    streams: dict[str, bytes]


def make(store: Store, plan: Plan, chunks: int) -> Made:
    """Fill an empty repository.

    Args:
        store: it.
        plan: its runs, with the large one, which has as many qubes.
        chunks: that it shall have, about.
    """
    fill = _FILL[store.engine]
    rest = plan.runs - 1
    large = chunks - plan.pieces - (rest - 1) * plan.changed
    members = 1 + large * _SMALLEST // (plan.qubes * 70_000)
    first = Model(Plan(1, plan.qubes, members, large), days=rest + 1)
    runs = fill(store, first)
    after = Plan(rest, plan.qubes, plan.members, plan.pieces, plan.changed)
    model = Model(after, order=2, keep=(0, rest // 2, rest - 1))
    runs += fill(store, model)
    # the counter of runs, which is in this qube, was not counted up: a list does that
    assert [row["run"] for row in store.runs()] == runs
    return Made(store, runs, model.streams)
