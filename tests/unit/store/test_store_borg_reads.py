# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a borg repository never writes to it."""

import os
import subprocess

import archives
import pytest
from store_profile import PAYLOAD, Store

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount"),
]

MOUNTS = {
    "read-only": "mount --bind {repo} {repo} && mount -o remount,ro,bind {repo}",
    "full": (
        "cp -a {repo} {repo}.copy && mount -t tmpfs -o size=8m tmpfs {repo}"
        " && cp -a {repo}.copy/. {repo} && rm {repo}/dedup-store.reserve"
        " && {{ cat /dev/zero >{repo}/more 2>/dev/null || true; }}"
    ),
}


def backup(seed: int) -> bytes:
    data = archives.noise(300_000, seed)
    return archives.join(archives.members([archives.Qube("work", 7, volumes={"private": data})]))


@pytest.mark.parametrize("how", MOUNTS)
def test_reading_where_nothing_can_be_written(borg_store: Store, how: str) -> None:
    """Also after what needs to write failed; that says why, soon."""
    store, data = borg_store, backup(1)
    run = store.put(data)["run"]
    (store.folder / "sent").write_bytes(data)
    program = str(PAYLOAD / "dedup-store")
    script = MOUNTS[how].format(repo=store.repository) + (
        f"\nfor command in 'forget {run}' put; do {program} $command <$SENT; echo $?; done"
        f"\n{program} list; echo $?"
        f"\n{program} get latest | cmp - $SENT; echo $?; {program} init --check; echo $?"
    )
    variables = store.environment | {"SENT": str(store.folder / "sent")}
    command = ["unshare", "--mount", "sh", "-c", script]
    result = subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, timeout=300
    )
    codes = [line for line in result.stdout.splitlines() if line.isdecimal()]
    assert codes == ["1", "1", "0", "0", "0"], result
    assert f"\n{run} " in result.stdout
    why = {"read-only": "Read-only file system", "full": "No space left on device"}[how]
    assert why in result.stderr
    assert ("forget and prune need" in result.stderr) is (how == "full")  # put doesn't begin
    assert "Traceback" not in result.stderr
