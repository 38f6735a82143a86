# SPDX-License-Identifier: GPL-3.0-or-later
"""Which runs a policy keeps: beside restic's and borg's own, and whatever a store says."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dedup_backup.records.moment import earliest
from dedup_backup.records.retention import (
    NEWEST,
    RULES,
    UNSURE,
    Candidate,
    Plan,
    Row,
    candidate,
    plan,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
START = datetime(2000, 12, 20, tzinfo=UTC)
PERIODS = (1, 60, 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600, 364 * 24 * 3600)  # seconds
relaxed = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def name(made: datetime, end: str = "0a1b") -> str:
    """Name a run whose backup dom0 made then; the backup qube's own date is a lie."""
    return f"19700101T000000Z-{made:%Y%m%dT%H%M%S}-4711-{end}"


# dates that are near to each other, at many scales
dates = st.lists(
    st.tuples(st.sampled_from(PERIODS), st.integers(0, 24)), min_size=1, max_size=20
).map(lambda steps: sorted({START + timedelta(seconds=unit * n) for unit, n in steps}))
policies = st.dictionaries(st.sampled_from(list(RULES)), st.integers(1, 6), min_size=1)


def candidates(made: list[datetime]) -> list[Candidate]:
    """Runs in dom0's order, with the dates that dom0's clock gave them."""
    return [Candidate(name(date, f"{n:04x}"), n + 1, date) for n, date in enumerate(made)]


def whole(runs: Iterable[str]) -> dict[str, str]:
    """What a store says that has these runs."""
    return dict.fromkeys(runs, "whole")


def decide(made: list[datetime], policy: dict[str, int], now: datetime = NOW) -> Plan:
    runs = candidates(made)
    return plan(runs, whole(one.run for one in runs), policy, now)


def key(row: Row) -> str:
    """Name a run by its date, without the zone."""
    assert row.made is not None
    return row.made.isoformat()[:19]


def decision(done: Plan) -> tuple[Any, Any]:
    return done.keep, done.forget


RESTIC_DATES = (
    "2024-12-29 23:59:59",  # Sunday of 2024's last ISO week
    "2024-12-30 00:00:00",  # Monday of 2025's first
    "2024-12-30 00:59:59",
    "2024-12-30 01:00:00",
    "2025-01-01 08:00:00",
    "2025-01-31 23:00:00",
    "2025-02-01 00:30:00",
    "2026-02-01 00:30:00",
    "2026-02-01 07:30:00",
    "2026-02-02 07:30:00",
    "2026-02-08 07:30:00",
)
# which dates, and the policy
RESTIC_SETS: tuple[tuple[range, dict[str, int]], ...] = (
    (range(11), {"last": 2, "weekly": 3}),
    (range(11), {"hourly": 9, "yearly": 1}),
    (range(11), {"daily": 4, "monthly": 3}),
    (range(4), {"weekly": 5}),
    (range(0, 11, 2), {"yearly": 2, "daily": 1}),
    (range(1, 11, 3), {"last": 1, "monthly": 9}),
)


def test_it_keeps_what_restic_keeps(tmp_path: Path) -> None:
    variables = {"RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(tmp_path / "r")}
    environment = os.environ | variables | {"TZ": "UTC"}
    cache = f"--cache-dir={tmp_path / 'cache'}"

    def restic(*words: str) -> bytes:
        command = ["restic", "--quiet", cache, *words]
        done = subprocess.run(
            command, env=environment, input=b"x", stdout=subprocess.PIPE, check=True
        )
        return done.stdout

    restic("init")
    for number, date in enumerate(RESTIC_DATES):
        tags = [f"--tag=s{n}" for n, (some, _) in enumerate(RESTIC_SETS) if number in some]
        restic("backup", "--stdin", f"--time={date}", *tags)
    for number, (some, policy) in enumerate(RESTIC_SETS):
        options = [f"--keep-{rule}={count}" for rule, count in policy.items()]
        answer = restic(
            "forget", "--dry-run", "--json", "--group-by=", f"--tag=s{number}", *options
        )
        theirs = {
            row["snapshot"]["time"][:19]: {
                word.removesuffix(" snapshot") for word in row["matches"]
            }
            for row in json.loads(answer)[0]["reasons"]
        }
        made = [datetime.fromisoformat(RESTIC_DATES[n] + "Z") for n in some]
        ours = {key(row): set(row.rules) - {NEWEST} for row in decide(made, policy).keep}
        oldest = made[0].isoformat()[:19]  # restic before 0.17 doesn't keep it for its age
        words = {word.removesuffix("[oldest]") for word in ours.pop(oldest, set())}
        assert theirs.pop(oldest, set()) <= words
        assert {run: rules for run, rules in ours.items() if rules} == theirs, policy


BORG = """
import json, sys
from collections import namedtuple
from datetime import datetime, timezone
from borg.helpers import prune_split
Archive = namedtuple("Archive", "id ts")
for line in sys.stdin:
    rule, count, made = json.loads(line)
    rule = {"last": "secondly"}.get(rule, rule)
    zoned = [datetime.fromisoformat(date).replace(tzinfo=timezone.utc) for date in made]
    because = {}
    prune_split([Archive(*both) for both in zip(made, zoned)], rule, count, because)
    print(json.dumps({k: v[0].replace("secondly", "last") for k, v in because.items()}), flush=True)
"""


@pytest.fixture(scope="module")
def borg() -> Iterator[subprocess.Popen[str]]:
    """The installed borg's own decision: a line in, a line out."""
    found = shutil.which("borg")
    assert found
    python = Path(found).read_text().split("\n", 1)[0].removeprefix("#!").split()
    pipe, environment = subprocess.PIPE, os.environ | {"TZ": "UTC"}
    command = [*python, "-c", BORG]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as asked:
        yield asked
        assert asked.stdin is not None
        asked.stdin.close()


@pytest.mark.thorough
@relaxed
@given(made=dates, rule=st.sampled_from(list(RULES)), count=st.integers(1, 8))
def test_one_rule_keeps_what_borg_keeps(
    borg: subprocess.Popen[str], made: list[datetime], rule: str, count: int
) -> None:
    assert borg.stdin is not None
    assert borg.stdout is not None
    print(json.dumps([rule, count, [date.isoformat()[:19] for date in made]]), file=borg.stdin)
    borg.stdin.flush()
    theirs = json.loads(borg.stdout.readline())
    assert {key(r): r.rules[0] for r in decide(made, {rule: count}).keep} == theirs


@relaxed
@given(made=dates, policy=policies)
def test_a_run_stays_when_any_rule_keeps_it(made: list[datetime], policy: dict[str, int]) -> None:
    done = decide(made, policy)
    alone = {row.run for r, n in policy.items() for row in decide(made, {r: n}).keep}
    assert {row.run for row in done.keep} == alone
    assert done.keep[0].made == made[-1]
    both = sorted(row.run for row in done.keep + done.forget)
    assert (both, done.left) == (sorted(one.run for one in candidates(made)), {})


@relaxed
@given(made=dates, policy=policies, invented=dates)
def test_what_is_invented_changes_nothing(
    made: list[datetime], policy: dict[str, int], invented: list[datetime]
) -> None:
    runs = candidates(made)
    lies = [name(date, "ffff") for date in invented]
    odd = Candidate("19700101T000000Z-20269999T000000-1-0a1b", 0, None)
    stored = whole([one.run for one in runs] + [*lies, odd.run])
    done = plan([*runs, odd], stored, policy, NOW)
    assert decision(done) == decision(decide(made, policy))
    assert set(done.left) == {*lies, odd.run}
    assert {done.left[run] for run in lies} == {"not confirmed"}


@relaxed
@given(made=dates, policy=policies, data=st.data())
def test_a_store_that_hides_runs_removes_no_other(
    made: list[datetime], policy: dict[str, int], data: st.DataObject
) -> None:
    runs = candidates(made)
    shown = data.draw(st.sets(st.sampled_from([one.run for one in runs])))
    partial = data.draw(st.sets(st.sampled_from(sorted(shown)))) if shown else set()
    kept = {row.run for row in decide(made, policy).keep}
    stored = whole(shown) | dict.fromkeys(partial, "partial")
    done = plan(runs, stored, policy, NOW)
    assert kept & shown - partial <= {row.run for row in done.keep}
    assert set(done.left) == {one.run for one in runs} - shown | partial
    assert bool(done.keep) == (shown > partial)


# A clock that was wrong

WRONG = timedelta(days=400)


@pytest.mark.thorough
@relaxed
@given(made=dates, policy=policies, data=st.data())
def test_a_clock_that_was_wrong_pushes_nothing_out(
    made: list[datetime], policy: dict[str, int], data: st.DataObject
) -> None:
    """Some runs are dated far ahead, or far behind; more were made since, with the right date."""
    first = data.draw(st.integers(0, len(made) - 1))
    count = data.draw(st.integers(0, (len(made) - first - 1) // 2))
    wrong = range(first, first + count)
    by = data.draw(st.sampled_from((20 * WRONG, -20 * WRONG)))
    if by < timedelta() and 2 * count > first:
        return  # then the wrong ones are more than the right ones before them
    seen = [date + by if n in wrong else date for n, date in enumerate(made)]
    now = data.draw(st.sampled_from((NOW, NOW + 40 * WRONG)))
    right, done = decide(made, policy), decide(seen, policy, now)
    order = {one.run: n for n, one in enumerate(candidates(made))}
    order |= {one.run: n for n, one in enumerate(candidates(seen))}
    stays = {order[row.run] for row in done.keep}
    assert {order[row.run] for row in right.keep} - set(wrong) <= stays
    last = policy.get("last", 0)
    assert set(range(len(made))[len(made) - last :] if last else ()) <= stays
    assert not done.left


@relaxed
@given(made=dates, count=st.integers(1, 3), rule=st.sampled_from(list(RULES)))
def test_a_clock_that_was_wrong_freezes_nothing(
    made: list[datetime], count: int, rule: str
) -> None:
    """A run dated a year ahead goes like any other, though its date hasn't come."""
    later = [made[-1] + timedelta(days=366 * n) for n in range(1, count + 2)]
    now = max(NOW, later[-1])
    seen = [*made, now + WRONG, *later]
    done = decide(seen, {rule: count}, now)
    assert name(now + WRONG, f"{len(made):04x}") in {row.run for row in done.forget}


@relaxed
@given(made=dates, policy=policies)
def test_a_clock_that_is_behind_removes_nothing_by_dates(
    made: list[datetime], policy: dict[str, int]
) -> None:
    done = decide(made, policy, START - timedelta(days=1))
    if policy.keys() == {"last"}:
        right = decide(made, policy)
        assert [row.run for row in done.forget] == [row.run for row in right.forget]
    else:
        assert done.forget == []
        assert all(row.rules[-1].endswith(UNSURE) or "last" in row.rules for row in done.keep)


def test_the_order_is_dom0s_not_the_clocks() -> None:
    """In the hour that comes twice when summer time ends, and with a clock that was set back."""
    made = [START + timedelta(minutes=50), START + timedelta(minutes=10), START]
    runs = candidates(made)
    done = decide(made, {"last": 1})
    assert [row.run for row in done.keep] == [runs[-1].run]
    assert [row.run for row in done.forget] == [runs[1].run, runs[0].run]


def test_runs_of_an_older_version() -> None:
    """They have no number, only their ids' dates; and one of the future has no place."""
    old = [Candidate(name(date), 0, date) for date in (NOW - WRONG, NOW - 2 * WRONG, NOW + WRONG)]
    new = Candidate(name(START), 1, START)  # its clock was behind
    lost = Candidate(name(NOW, "ffff"), None, NOW)  # it could not be counted
    runs = [*old, new, lost]
    done = plan(runs, whole(one.run for one in runs), {"last": 2}, NOW)
    assert [row.run for row in done.keep] == [new.run, old[0].run]
    assert [row.run for row in done.forget] == [old[1].run]
    assert set(done.left) == {old[2].run, lost.run}


def test_two_of_one_place() -> None:
    """The store has one backup twice."""
    runs = [Candidate(name(START, end), 5, START) for end in ("0003", "0001", "0002")]
    done = plan(runs, whole(one.run for one in runs), {"last": 1}, NOW)
    assert [row.run for row in done.keep] == [runs[-1].run]  # what was confirmed last


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_one_moment_has_one_label(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        seconds = int(START.timestamp())
        local = datetime.fromtimestamp(seconds)
        old = candidate(name(local), {})
        new = candidate(name(START), {"order": 1, "began": seconds, "offset": 0})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert old.made == new.made == START


def test_a_stamp_in_the_hour_that_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream asks libc for the Unix time of a local time without zone: an hour off, perhaps."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        moment = int(datetime(2026, 10, 25, 1, 30, tzinfo=UTC).timestamp())  # 02:30, again
        stamp = int(datetime.fromtimestamp(moment).strftime("%s"))
        assert earliest(moment) == moment - 3600 <= stamp <= moment
        for other in (moment - 7200, moment + 7200, moment + 86400 * 200):
            assert earliest(other) == other
    finally:
        monkeypatch.undo()
        time.tzset()
