# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of `shimctl status`: what is in place, whose it is, who runs what, what is wrong."""

from typing import Any

from dom0_common.paths import PROGRAMS, Paths

from shimctl_lib import guard, inspection
from shimctl_lib.errors import REINSTALL
from shimctl_lib.system import callers, packages

Report = dict[str, Any]
CONSEQUENCE = (
    "until then backups are really encrypted and don't deduplicate; containers can be restored with"
    f" PATH={PROGRAMS}:$PATH qvm-backup-restore …"
)


def _place_problems(at: Paths, found: inspection.Installation) -> list[str]:
    recorded = found.state or {}
    lines = []
    shim = found.local if found.method == "path" else found.scrypt
    if refused := recorded.get("refused"):
        lines.append(
            f"the scrypt that is there now was refused: {refused.get('reason')}; {CONSEQUENCE}."
            " The next update of scrypt is tried by itself; to try this one again: sudo shimctl"
            " reconcile"
        )
    elif found.method == "path" and shim.kind != "shim":
        lines.append(f"{shim.path} is '{shim.kind}': run shimctl reconcile")
    elif found.method == "replace" and found.scrypt.kind == "real":
        lines.append(f"{at.scrypt} was overwritten by its package: run shimctl reconcile")
    elif found.method == "replace" and shim.kind != "shim":
        lines.append(f"{at.scrypt} is '{shim.kind}': run shimctl reconcile")
    real = found.scrypt if found.method == "path" else found.real
    if real.kind != "real" and found.scrypt.kind != "real":
        lines.append(f"the real scrypt at {real.path} is '{real.kind}': {REINSTALL}")
    elif not refused and shim.kind == "shim" and recorded.get("real_sha256") != real.sha256:
        lines.append(f"{real.path} is another one than was recorded: run shimctl reconcile")
    return lines


def _package_problems(
    at: Paths, found: inspection.Installation, package: str | None, as_shipped: str
) -> list[str]:
    recorded = (found.state or {}).get("package")
    if recorded and package is None:
        return [f"no package owns {at.scrypt} any more (it was {recorded}): {REINSTALL}"]
    if as_shipped == "no":
        real = found.scrypt if found.scrypt.kind == "real" else found.real
        return [
            f"{real.path} is not the program that the package {package} has: an update was lost, or"
            f" somebody changed it: {REINSTALL}"
        ]
    return []


def problems(at: Paths, found: inspection.Installation, facts: Report) -> list[str]:
    """Return what is not as it should be, each with advice; nothing when all is healthy."""
    if found.state is None:
        lines = ["the shim is not installed (or not wholly removed): run shimctl install"]
        if found.real.kind != "real" and found.scrypt.kind != "real":
            lines.append(f"the real scrypt at {at.real} is '{found.real.kind}': {REINSTALL}")
        return lines + found.in_the_way(at, found.method, "`sudo shimctl install`")
    if found.state.get("phase") == "removing":
        return [
            "a removal was interrupted: run shimctl remove, or shimctl install to keep the shim"
        ]
    lines = _place_problems(at, found)
    if problem := found.config_problem(at.config):
        lines.append(problem)
    lines += _package_problems(at, found, facts["package"], facts["as_shipped"])
    for name, trigger in facts["triggers"].items():
        health = str(trigger["health"])
        if health.startswith("broken"):
            masked = health.endswith(
                "is masked"
            )  # the admin's decision, which shimctl doesn't undo
            what = "systemctl unmask its unit, then " if masked else ""
            lines.append(f"trigger {name}: {health}: {what}run shimctl reconcile")
    lines += found.in_the_way(at, found.method)
    shim = at.local if found.method == "path" and found.local.kind != "missing" else at.scrypt
    for who, program in facts["callers"].items():
        known = program in (None, str(shim)) or any(f"{program} " in line for line in lines)
        if program and not known and not (shim.exists() and shim.samefile(program)):
            lines.append(f"{who} would run {program} and not the shim {shim}: remove that program")
    return lines


def report(at: Paths, found: inspection.Installation) -> tuple[Report, list[str]]:
    """Return the facts, and the problems among them."""
    recorded = found.state or {}
    runs = recorded.get("triggers", {})
    facts: Report = found.summary()
    facts["package"] = packages.owner(at)
    real = found.scrypt if found.scrypt.kind == "real" else found.real
    facts["as_shipped"] = packages.as_shipped(at, real.path) if real.kind == "real" else "?"
    facts["paths"] = {
        str(entry.path): {
            "kind": entry.kind,
            "sha256": entry.sha256,
            "mode": f"{entry.mode:04o}",
            "owner": f"{entry.owner[0]}:{entry.owner[1]}",
        }
        for entry in (found.scrypt, found.real, found.old, found.local)
        if entry.kind != "missing"
    }
    facts["recorded_state"] = {
        key: recorded[key]
        for key in ("shim_sha256", "real_sha256", "package", "refused")
        if key in recorded
    }
    facts["last"] = recorded.get("last")
    facts["last_change"] = recorded.get("last_change")
    facts["triggers"] = {
        name: {"health": health, "last": runs.get(name)}
        for name, health in guard.health(at, found.guard).items()
    }
    facts["callers"] = callers.callers(at)
    return facts, problems(at, found, facts)


def lines(facts: Report) -> list[str]:
    """Return the facts as lines to read."""
    text = [f"{key}: {facts[key]}" for key in ("installed", "method", "scrypt", "real", "mode")]
    if facts["local"] != "missing":
        text.append(f"/usr/local/bin/scrypt: {facts['local']}")
    shipped = {"yes": ", as shipped", "no": ", but it shipped another one", "?": ""}
    text.append(f"package: {facts['package'] or 'none known'}{shipped[facts['as_shipped']]}")
    if facts["diverted"] == "yes":
        text.append("dpkg-divert: the package's scrypt goes to /usr/bin/scrypt.bak")
    for path, place in facts["paths"].items():
        text.append(f"{path}: {place['kind']}, {place['mode']}, owner {place['owner']}")
    for who, program in facts["callers"].items():
        text.append(f"{who} runs: {program or 'not known'}")
    for what, run in (("reconcile", facts["last"]), ("change by it", facts["last_change"])):
        if run:
            text.append(f"last {what}: {run['time']}, by {run['trigger']}: {run['result']}")
    for name, trigger in facts["triggers"].items():
        ran = trigger["last"]
        when = f"; last run {ran['time']}: {ran['result']}" if ran else "; never ran"
        text.append(f"trigger {name}: {trigger['health']}{when}")
    return text
