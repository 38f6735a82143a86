#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time and memory of dedup-store's and dom0's commands after 10 nights and after three years.

Repositories of 10 and of 1,000 runs, with as many chunks in both, are made by testing/store/years.
Then each command runs on each: those that change nothing three times, of which the median counts.
Needs root, for dom0's command and for mounts. Settings, in the environment: BENCH_DIR (where it
works, and writes its results), YEARS_RUNS, YEARS_CHUNKS, YEARS_QUBES.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).resolve().parents[1]
for part in (".", "lab", "lab/dom0", "payload/qube", "payload/dom0", "payload/server"):
    sys.path.insert(0, str(CHECKOUT / part))

from timing import say  # noqa: E402

from testing.dom0.backup import Backup, make_backup  # noqa: E402 -- needs the path
from testing.dom0.system import QUBE, REPOSITORY, Dom0, temporary_dom0  # noqa: E402
from testing.store import archives  # noqa: E402
from testing.store.driver import Store  # noqa: E402
from testing.store.years import dom0_records  # noqa: E402
from testing.store.years.model import Plan  # noqa: E402
from testing.store.years.repository import make  # noqa: E402

DEDUP_STORE = str(CHECKOUT / "payload/qube/dedup-store")
QUBES = int(os.environ.get("YEARS_QUBES") or 60)
PLAN = {"members": 3, "pieces": 20_000, "changed": 100}
ENGINES = ("restic", "borg")
# the large run is the oldest, and stays
POLICY = (
    *("--keep-daily", "14", "--keep-weekly", "8"),
    *("--keep-monthly", "24", "--keep-yearly", "10"),
)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PAUSE = 0.02  # seconds between two looks at the memory
_ROUNDS = 3
Row = dict[str, float]


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return
    for child in text.split():
        yield from _tree(int(child))


def _resident(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            continue
    return total


def measured(
    command: Sequence[str], environment: dict[str, str], feed: IO[bytes] | None = None
) -> Row:
    """Run a command; its output goes nowhere.

    Returns:
        Seconds, seconds of processors, and the most memory that it and its descendants had at one
        moment, with what they share counted for each.
    """
    peak, ended = 0, threading.Event()
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=feed or subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
        )

        def look() -> None:
            nonlocal peak
            while not ended.wait(_PAUSE):
                peak = max(peak, _resident(list(_tree(process.pid))))

        watcher = threading.Thread(target=look)
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        if process.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} failed: {said}")
    return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": peak}


def _median(rows: list[Row]) -> Row:
    found = {key: statistics.median(row[key] for row in rows) for key in ("seconds", "cpu")}
    return found | {"peak": max(row["peak"] for row in rows)}


@dataclass
class Machine:
    """A backup qube with a repository, and dom0 with the records of its runs."""

    store: Store
    runs: list[str]
    dom0: Dom0
    backup: Backup

    def ours(self, *words: str, rounds: int = _ROUNDS) -> Row:
        """Measure a command of dedup-store."""
        command = [DEDUP_STORE, *words]
        return _median([measured(command, self.store.environment) for _ in range(rounds)])

    def put(self) -> Row:
        """Measure a put of the backup."""
        with tempfile.TemporaryFile() as file:
            file.write(self.backup.stream())
            file.seek(0)
            command = [DEDUP_STORE, "put"]
            return measured(command, self.store.environment, file)

    def theirs(self, *words: str, rounds: int = _ROUNDS) -> Row:
        """Measure a command of dom0's; CPU and memory are dom0's part."""
        command = self.dom0.argv(*words)
        return _median([measured(command, dict(os.environ)) for _ in range(rounds)])

    def all(self) -> Iterator[tuple[str, Row]]:
        """Measure everything, by and by."""
        self.put()
        yield "`put`, unchanged", self.put()
        listed = self.store.runs()
        names = [row["run"] for row in listed]
        assert names[:-2] == self.runs  # noqa: S101 -- what is measured must be right
        yield "`list`", self.ours("list")
        yield "`stats`", self.ours("stats")
        yield (
            "`get` of one qube",
            self.ours("get", self.runs[-1], "--members", f"vm{QUBES // 2 + 1}/"),
        )
        self.dom0.succeed(self.backup.backup_id, *(qube.name for qube in _qubes()))
        yield "dom0: `confirm`", self.theirs("confirm", rounds=1)
        yield "dom0: `list`", self.theirs("list")
        yield "dom0: `forget --dry-run`", self.theirs("forget", *POLICY, "--dry-run")
        old = self.runs[len(self.runs) // 2]
        yield "dom0: `forget` of one run", self.theirs("forget", old, rounds=1)
        yield "`prune`", self.ours("prune", rounds=1)
        yield "`check`", self.ours("check", rounds=1)
        if len(self.runs) > 100:
            yield "dom0: first `forget` by a policy", self.theirs("forget", *POLICY, rounds=1)
            yield "`prune` after it", self.ours("prune", rounds=1)


def _qubes() -> list[archives.Qube]:
    return [
        archives.Qube(f"qube-{n:02}", n, volumes={"private": archives.noise(80_000, n)})
        for n in range(1, QUBES + 1)
    ]


@contextmanager
def _dom0() -> Iterator[tuple[Dom0, Backup]]:
    """Give a dom0, and a backup of all qubes that its shim made."""
    with temporary_dom0() as dom0:
        for qube in _qubes():
            dom0.create(qube.name)
            (dom0.root.work / qube.path).mkdir(exist_ok=True)
        say(f"dom0 backs up {QUBES} qubes")
        backup_id = time.strftime("%Y%m%dT%H%M%S-1")
        yield dom0, make_backup(dom0.root, backup_id, chunk=archives.CHUNK, content=_qubes())


def _records(dom0: Dom0, runs: list[str], rows: list[str], backup_id: str) -> None:
    """Have dom0 know all runs, and the ledger of the backup that came after them."""
    folder = dom0.root.ledgers.parent
    shutil.rmtree(folder)
    dom0_records.fill(dom0.root.path, (QUBE, REPOSITORY), runs, QUBES)
    first = json.dumps(json.loads(rows[0]) | {"order": len(runs) + 1})
    text = "".join(f"{row}\n" for row in (first, *rows[1:]))
    (dom0.root.ledgers / backup_id).write_text(text)
    (folder / "order").write_bytes(b"\n" * (len(runs) + 1))


def _repository(folder: Path, engine: str, runs: int, chunks: int) -> tuple[Store, list[str]]:
    """Make a repository, unless an earlier run has kept it."""
    store, names = Store(folder, engine), folder / "runs.json"
    if not names.exists():
        say(f"making {engine}'s repository of {runs} runs")
        folder.mkdir(parents=True)
        store.configure()
        store.make()
        made = make(store, Plan(runs, QUBES, **PLAN), chunks)
        names.write_text(json.dumps(made.runs))
    return store, json.loads(names.read_text())


def measure(folder: Path, raw: Path) -> dict[str, Any]:
    """Measure everything; give the raw data, and keep them in a file, too."""
    counts = [int(word) for word in (os.environ.get("YEARS_RUNS") or "10 1000").split()]
    chunks = int(os.environ.get("YEARS_CHUNKS") or 1_000_000)
    data: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()},
        "settings": {"runs": counts, "chunks": chunks, "qubes": QUBES, **PLAN},
        "versions": [
            subprocess.run([engine, word], capture_output=True, text=True, check=True).stdout[:40]
            for engine, word in (("restic", "version"), ("borg", "--version"))
        ],
    }
    with _dom0() as (dom0, backup):
        ledger = (dom0.root.ledgers / backup.backup_id).read_text().splitlines()
        for engine in ENGINES:
            for count in counts:
                place = folder / f"{engine}-{count}"
                store, runs = _repository(place, engine, count, chunks)
                _records(dom0, runs, ledger, backup.backup_id)
                dom0.real_store(store.environment)
                rows = data.setdefault(engine, {}).setdefault(str(count), {})
                for name, row in Machine(store, runs, dom0, backup).all():
                    say(f"{engine}, {count} runs, {name}: {row['seconds']:.1f} s")
                    rows[name] = row
                    raw.write_text(json.dumps(data, indent=1) + "\n")
                if folder.name.startswith("years-"):
                    shutil.rmtree(place)
    return data


def report(data: dict[str, Any]) -> str:
    """Return the tables, one for each engine."""
    few, many = map(str, data["settings"]["runs"])
    lines = []
    for engine in ENGINES:
        lines += [
            f"| {engine} | {few} runs, s | {many} runs, s | ratio | CPU, s | CPU, s | ratio"
            f" | memory, {many} runs, MiB |",
            "|" + " --- |" * 8,
        ]
        rows = data[engine]
        for name, row in rows[many].items():
            before = rows[few].get(name)
            cells = [name]
            for key in ("seconds", "cpu"):
                old, new = before and before[key], row[key]
                cells += [f"{old:.1f}" if old else "-", f"{new:.1f}"]
                cells.append(f"{new / old:.2f}" if old else "-")
            lines.append(f"| {' | '.join(cells)} | {row['peak'] / (1 << 20):.0f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Measure, keep the raw data, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", type=Path, metavar="FILE", help="only report on these raw data")
    parser.add_argument("--folder", type=Path, help="repositories that were made, or are to stay")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    place = Path(os.environ.get("BENCH_DIR") or CHECKOUT / ".benchmarks").absolute()
    out = options.report or place / "years.json"
    if options.report:
        data = json.loads(options.report.read_text())
    else:
        place.mkdir(parents=True, exist_ok=True)
        folder = options.folder or Path(tempfile.mkdtemp(prefix="years-", dir=place))
        try:
            data = measure(folder, out)
        finally:
            if folder != options.folder:
                shutil.rmtree(folder)
    text = report(data)
    out.with_suffix(".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
