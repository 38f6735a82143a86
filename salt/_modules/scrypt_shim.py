# SPDX-License-Identifier: GPL-3.0-or-later
"""Salt execution module: shimctl's commands, in dom0 and in the template of disposable restores.

It imports nothing of this project, as salt-ssh brings nothing but modules and states to a qube
(salt/client/ssh/__init__.py mod_data).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

SHIMCTL = "/usr/lib/qubes-dedup-backup/shimctl"
# shimctl's exit status for "with --check: something would change".
WOULD_CHANGE = 3
DISPLAY_LIMIT = 500


def install(
    mode: str | None = None, method: str | None = None, test: bool = False, shimctl: str = SHIMCTL
) -> dict[str, Any]:
    """Put the shim in place; see `shimctl install`.

    Args:
        mode: authenticated or off; None leaves it as configured.
        method: replace or path; None leaves it as installed.
        test: change nothing, report what would change.
        shimctl: the program.

    Returns:
        shimctl's report: changed, before, after, steps; or only error.
    """
    options = [("--mode", mode), ("--method", method)]
    given = [word for name, value in options if value for word in (name, value)]
    return _run(shimctl, "install", given, test)


def remove(test: bool = False, shimctl: str = SHIMCTL) -> dict[str, Any]:
    """Put the real scrypt back; see `shimctl remove`, and install() for what is returned."""
    return _run(shimctl, "remove", [], test)


def reconcile(test: bool = False, shimctl: str = SHIMCTL) -> dict[str, Any]:
    """Put an installed shim back after something overwrote it; see `shimctl reconcile`."""
    return _run(shimctl, "reconcile", [], test)


def _run(shimctl: str, command: str, options: list[str], test: bool) -> dict[str, Any]:
    argv = [shimctl, command, "--json", *options, *(["--check"] if test else [])]
    if not Path(shimctl).is_file():
        return _without_shimctl(shimctl, command, test)
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    report: object = None
    with contextlib.suppress(ValueError):
        report = json.loads(done.stdout)
    if not isinstance(report, dict):
        said = " ".join(done.stderr.split())[:DISPLAY_LIMIT]
        return {"error": f"{shimctl} did not answer as expected ({done.returncode}): {said}"}
    if "error" not in report and done.returncode not in (0, WOULD_CHANGE if test else 0):
        return {"error": f"{shimctl} failed with exit status {done.returncode}"}
    return report


def _without_shimctl(shimctl: str, command: str, test: bool) -> dict[str, Any]:
    if command == "remove":
        return {"changed": False, "before": {}, "after": {}, "steps": []}
    if command == "install" and test:
        steps = ["install the shim, once its programs are laid down"]
        after = {"installed": "yes"}
        return {"changed": True, "before": {"installed": "no"}, "after": after, "steps": steps}
    return {"error": f"there is no {shimctl}: apply dedup-backup.create first"}
