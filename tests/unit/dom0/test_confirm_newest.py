# SPDX-License-Identifier: GPL-3.0-or-later
"""confirm: which backup is the newest, and which qubes of the profile it lacks."""

import json
import os

from testing.dom0.backup import Backup
from testing.dom0.system import Dom0, ledger, run_name


def test_the_newest_is_the_one_begun_last_whatever_the_clocks_say(
    dom0: Dom0, backup: Backup, other_backup: Backup
) -> None:
    """A year ahead, or behind: a file's date, the backup's id, and the store's own date."""
    runs = [run_name(backup.backup_id), run_name(other_backup.backup_id).replace("2026", "1999", 1)]
    rows = [{"run": run, "status": "whole", "reason": ""} for run in (runs[1], runs[0])]
    dom0.serve(other_backup.stream(), run=runs[1])
    (dom0.answers / "list").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dom0.succeed(other_backup.backup_id)
    with dom0.only_ledger(backup.backup_id, other_backup.backup_id):
        dom0.backdate(backup.backup_id, -400 * 86400)
        os.utime(dom0.root.ledgers / backup.backup_id)
        try:
            assert dom0.json("confirm", code=0)["run"] == runs[1]
            listed = dom0("list")
        finally:
            dom0.backdate(backup.backup_id, 400 * 86400)
    assert dom0.json("verify", code=0)["run"] == runs[1]
    order = [line.split()[0] for line in listed.stdout.decode().splitlines()[1:]]
    assert order == runs
    assert f"{runs[0]} came before {runs[1]}, but is dated later".encode() in listed.stderr


def test_a_backup_that_could_not_be_counted_must_be_named(
    dom0: Dom0, backup: Backup, other_backup: Backup
) -> None:
    both = (backup.backup_id, other_backup.backup_id)
    with dom0.only_ledger(*both), ledger(dom0, other_backup.backup_id) as path:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0]["order"] = None
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.utime(dom0.root.ledgers / backup.backup_id, (rows[0]["time"] - 1,) * 2)
        done = dom0("confirm")
        assert done.returncode == 2
        assert f"the place of backup {other_backup.backup_id}".encode() in done.stderr
        dom0.serve(other_backup.stream())
        dom0.succeed(other_backup.backup_id)
        assert dom0.json("confirm", dom0.run, code=0)["verdict"] == "confirmed"
        record = json.loads((dom0.confirmed / f"{dom0.run}.json").read_text())
        assert record["order"] is None


def test_a_counter_that_was_lost_goes_on_behind_what_was_counted(dom0: Dom0) -> None:
    counter = dom0.root.path / "var/lib/qubes-dedup-backup/order"
    size = counter.stat().st_size
    counter.unlink()
    assert dom0("confirm", dom0.run).returncode == 0
    assert counter.stat().st_size == size
    assert counter.stat().st_mode & 0o777 == 0o600


def test_which_qubes_it_has_and_which_of_the_profile_it_lacks(dom0: Dom0) -> None:
    dom0.create("vault")
    profile = (dom0.root.path / "etc/qubes/backup/dedup-backup.conf").read_text()
    try:
        for include, exclude, lacking in (
            ("null", "[]", {"dedup-backup", "vault"}),
            ("[work, vault, nobody]", "[]", {"vault"}),
            ("['$type:AppVM']", "[dedup-backup]", {"vault"}),
            ("['@type:AppVM']", "['@tag:x', vault, dedup-backup]", set()),
        ):
            dom0.profile(
                profile.replace("include: null", f"include: {include}\nexclude: {exclude}")
            )
            for words in (("confirm", dom0.run), ("verify", dom0.run)):
                told = dom0.json(*words, code=0)
                assert told["qubes"] == ["debian", "work", "personal", "dom0"]
                known = {"vault", "dedup-backup", "nobody", *told["qubes"]}
                assert known & set(told["lacking"]) == lacking
        dom0.profile(profile.replace("include: null", "include: [work, vault]"))
        text = dom0("verify", dom0.run).stdout.decode()
        assert "qubes in it: debian, work, personal, dom0\n" in text
        assert "not in it, but in the profile dedup-backup: vault\n" in text
    finally:
        dom0.api("vault", "admin.vm.Remove")
    dom0.profile(profile.replace("include: null", "include: 5"))
    assert "must be lists of names" in dom0.json("verify", dom0.run, code=0)["notes"][0]
