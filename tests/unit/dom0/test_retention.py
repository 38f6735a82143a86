# SPDX-License-Identifier: GPL-3.0-or-later
"""Which runs a policy keeps: beside restic's and borg's own, and whatever a store says."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dedup_backup.retention import NEWEST, RULES, Plan, plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 11, 25, 12, 0)
START = datetime(2000, 12, 20)
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


def decide(made: list[datetime], policy: dict[str, int]) -> Plan:
    runs = [name(date) for date in made]
    return plan(runs, runs, policy, NOW)


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
    environment = os.environ | variables | {"TZ": "Asia/Tokyo"}  # which has no summer time
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
        made = [datetime.fromisoformat(RESTIC_DATES[n]) for n in some]
        ours = {
            row.made.isoformat(): set(row.rules) - {NEWEST} for row in decide(made, policy).keep
        }
        oldest = made[0].isoformat()  # restic before 0.17 doesn't keep it for its age
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


@relaxed
@given(made=dates, rule=st.sampled_from(list(RULES)), count=st.integers(1, 8))
def test_one_rule_keeps_what_borg_keeps(
    borg: subprocess.Popen[str], made: list[datetime], rule: str, count: int
) -> None:
    assert borg.stdin is not None
    assert borg.stdout is not None
    print(json.dumps([rule, count, [date.isoformat() for date in made]]), file=borg.stdin)
    borg.stdin.flush()
    theirs = json.loads(borg.stdout.readline())
    assert {r.made.isoformat(): r.rules[0] for r in decide(made, {rule: count}).keep} == theirs


@relaxed
@given(made=dates, policy=policies)
def test_a_run_stays_when_any_rule_keeps_it(made: list[datetime], policy: dict[str, int]) -> None:
    done = decide(made, policy)
    alone = {row.run for r, n in policy.items() for row in decide(made, {r: n}).keep}
    assert {row.run for row in done.keep} == alone
    assert done.keep[0].made == made[-1]
    both = sorted(row.run for row in done.keep + done.forget)
    assert (both, done.left) == (sorted(map(name, made)), {})


@relaxed
@given(made=dates, policy=policies, invented=dates, more=st.integers(0, 10**9))
def test_what_is_invented_or_of_the_future_changes_nothing(
    made: list[datetime], policy: dict[str, int], invented: list[datetime], more: int
) -> None:
    runs = [name(date) for date in made]
    lies = [name(date, "ffff") for date in (*invented, NOW + timedelta(seconds=more))]
    future = [name(NOW + timedelta(seconds=n)) for n in (1, 1 + more)]
    odd = "19700101T000000Z-20269999T000000-1-0a1b"
    done = plan([*runs, *future, odd], [*lies, *runs, *future, odd], policy, NOW)
    assert decision(done) == decision(decide(made, policy))
    assert set(done.left) == {*lies, *future, odd}
    assert {done.left[run] for run in lies} == {"not confirmed"}
    assert all("in the future" in done.left[run] for run in future)


@relaxed
@given(made=dates, policy=policies, data=st.data())
def test_a_store_that_hides_runs_removes_no_other(
    made: list[datetime], policy: dict[str, int], data: st.DataObject
) -> None:
    runs = [name(date) for date in made]
    shown = data.draw(st.sets(st.sampled_from(runs)))
    kept = {row.run for row in decide(made, policy).keep}
    done = plan(runs, shown, policy, NOW)
    assert kept & shown <= {row.run for row in done.keep}
    assert set(done.left) == set(runs) - shown
    assert bool(done.keep) == bool(shown)


def test_all_of_the_future() -> None:
    """dom0's clock is behind."""
    runs = [name(START + timedelta(days=n)) for n in range(5)]
    done = plan(runs, runs, {"last": 1}, START - timedelta(days=1))
    assert (decision(done), set(done.left)) == (([], []), set(runs))


def test_two_of_one_date() -> None:
    runs = [name(START, end) for end in ("0003", "0001", "0002")]
    done = plan(runs, runs, {"last": 1}, NOW)
    assert [row.run for row in done.keep] == [runs[-1]]  # what was confirmed last
