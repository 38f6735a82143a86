# SPDX-License-Identifier: GPL-3.0-or-later
"""Which confirmed runs a policy keeps, and by which rule: dom0's records alone decide."""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dedup_backup.store import RUN

# qubes/backup.py Backup.__init__ of qubes-core-admin: "%Y%m%dT%H%M%S" in local time, and the pid
_BACKUP_ID = re.compile(r"([0-9]{8}T[0-9]{6})-[0-9]+")
NEWEST = "newest"

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
class Row:
    """A run that the policy decides on.

    Attributes:
        run: its name.
        made: when its backup began, in dom0's local time of then.
        rules: by which rules it is kept; none when it goes.
    """

    run: str
    made: datetime
    rules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What stays and what goes, newest first.

    Attributes:
        keep: the runs that a rule keeps.
        forget: those that go.
        left: the runs that the policy doesn't look at, each with the reason.
    """

    keep: list[Row]
    forget: list[Row]
    left: dict[str, str]


def plan(
    confirmed: Collection[str], stored: Iterable[str], policy: Mapping[str, int], now: datetime
) -> Plan:
    """Decide which runs stay.

    Each rule by itself keeps the newest run of each of the last N periods that have one, and the
    oldest run of all while fewer than N are found; a run goes when no rule keeps it. So does restic
    (restic-forget(1) of 0.17; internal/restic/snapshot_policy.go ApplyPolicy; 0.14 lacks the
    oldest), and borg 1.2 with one rule (borg-prune(1); borg/helpers/misc.py prune_split). With
    several rules, borg's don't count what another rule keeps; restic's way is taken.

    The newest run always stays. A run counts only when it is confirmed, and in the store, as one
    that is lost must not take the place of one that isn't. Whatever the store hides or invents, it
    can't have a confirmed run removed that would stay else.

    Its date is that in the backup's id, which dom0 made; not the date in the run's name, which is
    the backup qube's, and not that of the confirmation, which may come months later. One that lies
    in the future was made when dom0's clock was wrong, or is wrong now: that run doesn't count, and
    doesn't go, until its date has come. (A clock that is behind makes all runs such ones, and none
    goes; a date too early is behind all others, and so takes no other's place.)

    Args:
        confirmed: the runs that dom0 confirmed, in the order of that.
        stored: the runs that the store tells of.
        policy: how many to keep, for each of RULES that is wanted; 1 or more.
        now: the time, local, without a zone.
    """
    there, left = set(stored), {}
    rows = []
    for run in confirmed:
        made = _made(run)
        if run not in there:
            left[run] = "confirmed, but the store has lost it"
        elif made is None:
            left[run] = "confirmed, but its backup's id has no date"
        elif made > now:
            left[run] = f"confirmed, but dated in the future by dom0: {made}"
        else:
            rows.append(Row(run, made))
    left |= dict.fromkeys(there - set(confirmed), "not confirmed")
    rows.sort(key=lambda row: row.made)  # of two with one date, the order of their confirmation
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
    """Give a plan's parts for a report: what it keeps, by which rules, and what it leaves."""
    return {
        "keep": [
            {"run": row.run, "made": row.made.isoformat(), "rules": row.rules} for row in done.keep
        ],
        "left": [{"run": run, "reason": reason} for run, reason in done.left.items()],
    }


def as_text(done: Plan, word: str) -> list[str]:
    """Give a plan's lines; word is what is said of a run that goes."""
    return [
        *(f"keep {row.run}, of {row.made}: {', '.join(row.rules)}" for row in done.keep),
        *(f"left alone {run}: {reason}" for run, reason in done.left.items()),
        *(f"{word} {row.run}, of {row.made}" for row in done.forget),
        f"{len(done.keep)} kept, {len(done.left)} left alone, {word} {len(done.forget)}",
    ]


def _apply(rule: str, count: int, rows: list[Row]) -> None:
    seen: set[Hashable] = set()
    for number, row in enumerate(rows):
        if len(seen) == count:
            return
        period = RULES[rule](number, row.made)
        if period not in seen:
            seen.add(period)
            row.rules.append(rule)
        elif number == len(rows) - 1:
            row.rules.append(f"{rule}[oldest]")


def _made(run: str) -> datetime | None:
    name = RUN.fullmatch(run)
    found = _BACKUP_ID.fullmatch(name[1]) if name else None
    try:
        return datetime.fromisoformat(found[1]) if found else None
    except ValueError:
        return None
