# SPDX-License-Identifier: GPL-3.0-or-later
"""The retention policy: which confirmed runs stay, and by which rule. Only dom0's records count."""

import re
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dedup_backup.calls.backup_qube import PARTIAL, RUN
from dedup_backup.records import moment

# qubes/backup.py Backup.__init__ of qubes-core-admin: "%Y%m%dT%H%M%S" in local time, and the pid
_BACKUP_ID = re.compile(r"([0-9]{8}T[0-9]{6})-[0-9]+")
NEWEST = "newest"
UNSURE = "[date unsure]"

# the period that a run belongs to, by its number (0 is the newest) and date
RULES: dict[str, Callable[[int, datetime], Hashable]] = {
    "last": lambda number, _: number,
    "hourly": lambda _, made: (made.date(), made.hour),
    "daily": lambda _, made: made.date(),
    "weekly": lambda _, made: made.isocalendar()[:2],
    "monthly": lambda _, made: (made.year, made.month),
    "yearly": lambda _, made: made.year,
}


@dataclass(frozen=True)
class Candidate:
    """A confirmed run.

    Attributes:
        run: its name.
        order: its number by dom0's counter; 0 when it is of an older version, which had none, None
            when it could not be counted.
        made: when its backup began, UTC, by dom0's clock of then; None when that isn't known.
    """

    run: str
    order: int | None
    made: datetime | None


@dataclass(frozen=True)
class Row:
    """A run that the policy decides on.

    Attributes:
        run: its name.
        made: when its backup began.
        sure: whether that date can be right.
        rules: by which rules it is kept; none when it goes.
    """

    run: str
    made: datetime | None
    sure: bool
    rules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """The runs to keep and to remove, newest first.

    Attributes:
        keep: the runs that a rule keeps.
        forget: those that go.
        left: the runs that the policy doesn't look at, each with the reason.
    """

    keep: list[Row]
    forget: list[Row]
    left: dict[str, str]


def candidate(run: str, record: Mapping[str, Any]) -> Candidate:
    """Return what a policy needs of a run's record (confirmed.py)."""
    began = record.get("began")
    made = _made(run) if began is None else moment.utc(began)
    return Candidate(run, record.get("order", 0), made)


def plan(
    confirmed: Iterable[Candidate],
    stored: Mapping[str, str],
    policy: Mapping[str, int],
    now: datetime,
) -> Plan:
    """Decide which runs stay.

    Each rule by itself keeps the newest run of each of the last N periods that have one, and the
    oldest run of all while fewer than N are found; a run goes when no rule keeps it. restic does
    the same (restic-forget(1) of 0.17; internal/restic/snapshot_policy.go ApplyPolicy; 0.14 lacks
    the oldest), and borg 1.2 with one rule (borg-prune(1); borg/helpers/misc.py prune_split). With
    several rules, borg's don't count what another rule keeps; restic's way is taken.

    The newest run always stays. A run counts only when it is confirmed, and in the store, as one
    that is lost must not take the place of one that isn't; and when the store doesn't call it
    partial. Whatever the store hides or invents, it can't cause the removal of a confirmed run that
    would otherwise stay.

    dom0's counter says which of two runs is newer, never a clock. Dates, in UTC, only say which
    runs share a period. They are those of dom0's clock when the backup began, and that clock may
    have been wrong. So the longest row of dates that don't go backwards, and aren't in the future,
    is trusted: all others are unsure. A run with an unsure date stays as long as a rule
    still looks for periods when it comes to it, and doesn't count. So it takes no other run's
    place; and it goes when there are N newer periods, as a run with a right date does. When the
    clock is behind now, all dates are unsure: only `last`, which needs no date, removes runs.

    Runs of an older version have no number. They come before all others, by their dates; one whose
    date is in the future has no place, and is left. So is a run that could not be counted.

    Args:
        confirmed: the runs that dom0 confirmed, in the order of that.
        stored: what the store says of each of its runs, by name.
        policy: how many to keep, for each of RULES that is wanted; 1 or more.
        now: the time.
    """
    left, found = {}, []
    for one in confirmed:
        if reason := _left(one, stored, now):
            left[one.run] = f"confirmed, but {reason}"
        else:
            found.append(one)
    left |= dict.fromkeys(stored.keys() - left.keys() - {one.run for one in found}, "not confirmed")
    # of two with one place, the order of their confirmation
    found.sort(
        key=lambda one: (one.order or 0, 0 if one.order or not one.made else one.made.timestamp())
    )
    sure = _sure([one.made for one in found], now)
    rows = [Row(one.run, one.made, fits) for one, fits in zip(found, sure, strict=True)]
    rows.reverse()
    for rule, count in policy.items():
        _apply(rule, count, rows)
    if rows and not rows[0].rules:
        rows[0].rules.append(NEWEST)
    return Plan(
        keep=[row for row in rows if row.rules],
        forget=[row for row in rows if not row.rules],
        left=dict(sorted(left.items(), reverse=True)),
    )


def as_json(done: Plan) -> dict[str, Any]:
    """Return a plan for a JSON report: the kept runs with their rules, and the others."""
    return {
        "keep": [
            {"run": row.run, "made": _label(row), "sure": row.sure, "rules": row.rules}
            for row in done.keep
        ],
        "left": [{"run": run, "reason": reason} for run, reason in done.left.items()],
    }


def as_text(done: Plan, word: str) -> list[str]:
    """Return a plan's lines; word is the verb for a run that is removed."""
    return [
        *(f"keep {row.run}, of {_label(row)}: {', '.join(row.rules)}" for row in done.keep),
        *(f"left alone {run}: {reason}" for run, reason in done.left.items()),
        *(f"{word} {row.run}, of {_label(row)}" for row in done.forget),
        f"{len(done.keep)} kept, {len(done.left)} left alone, {word} {len(done.forget)}",
    ]


def _left(one: Candidate, stored: Mapping[str, str], now: datetime) -> str:
    """Return why a policy doesn't cover a confirmed run; empty when it does."""
    if one.run not in stored:
        return "the store has lost it"
    if stored[one.run] == PARTIAL:
        return "the store calls it partial"
    if one.order is None:
        return "dom0 could not note its place among the others"
    if not one.order and one.made is None:
        return "its backup's id has no date"
    if not one.order and one.made and one.made > now:
        return f"dated in the future by dom0: {moment.label(one.made)}"
    return ""


def _sure(dates: list[datetime | None], now: datetime) -> list[bool]:
    """Return which dates belong to the longest row of dates that doesn't go backwards."""
    ends: list[datetime] = []  # for each length of a row, the lowest last date of one
    places: list[int] = []  # where that date is
    before: list[int | None] = []  # the place of each date's predecessor
    for place, date in enumerate(dates):
        before.append(None)
        if date is None or date > now:
            continue
        length = bisect_right(ends, date)
        before[place] = places[length - 1] if length else None
        ends[length : length + 1] = [date]
        places[length : length + 1] = [place]
    sure = [False] * len(dates)
    at = places[-1] if places else None
    while at is not None:
        sure[at] = True
        at = before[at]
    return sure


def _apply(rule: str, count: int, rows: list[Row]) -> None:
    seen: set[Hashable] = set()
    for number, row in enumerate(rows):
        if len(seen) == count:
            return
        if rule != "last" and (row.made is None or not row.sure):
            row.rules.append(rule + UNSURE)
            continue
        period = RULES[rule](number, row.made or datetime.max)
        if period not in seen:
            seen.add(period)
            row.rules.append(rule)
        elif number == len(rows) - 1:
            row.rules.append(f"{rule}[oldest]")


def _label(row: Row) -> str:
    return moment.label(row.made) if row.made else "an unknown date"


def _made(run: str) -> datetime | None:
    """Return the date in the backup's id: dom0's local time, with the offset of its zone."""
    name = RUN.fullmatch(run)
    found = _BACKUP_ID.fullmatch(name[1]) if name else None
    try:
        return datetime.fromisoformat(found[1]).astimezone(UTC) if found else None
    except (ValueError, OverflowError):
        return None
