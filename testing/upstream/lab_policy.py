# SPDX-License-Identifier: GPL-3.0-or-later
"""Put one question about a policy to upstream's parser and to the lab's evaluator.

Upstream: qubes-core-qrexec qrexec/policy/parser.py; the lab: lab/qubeslab/policy.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from qrexec import exc, utils
from qrexec.policy import parser
from qubeslab import policy
from qubeslab.policy_files import Dom0Files

SOURCES = Path(os.environ["QUBES_SRC"])
POLICY_DIR = "etc/qubes/policy.d"
RUN_DIR = "run/qubes/policy.d"
DENIED = "denied"
WORK_UUID = "c9024a97-9b15-46cc-8341-38d75d5d421b"
DVM_UUID = "5e9b4fa3-6c3b-4c1f-8c2d-1f4a0d7b9e10"
NO_UUID = "11111111-2222-3333-4444-555555555555"
DOM0_UUID = "00000000-0000-0000-0000-000000000000"

# What upstream raises about a call that it can't make sense of. Its daemon catches nothing but
# these two; after any other error it closes the connection without an answer, which is a refusal.
REFUSED = (exc.AccessDenied, exc.PolicySyntaxError, AttributeError, KeyError, AssertionError)


def domain(klass: str, uuid: str, *tags: str, **more: object) -> dict[str, object]:
    """Return a qube's part of the system info; qubes-core-admin qubes/api/internal.py."""
    return {
        "type": klass,
        "uuid": uuid,
        "tags": list(tags),
        "template_for_dispvms": False,
        "default_dispvm": None,
        "power_state": "Halted",
        "internal": None,
        "icon": "",
        "guivm": None,
        "relayvm": None,
        "transport_rpc": None,
    } | more


DOMAINS: policy.Domains = {
    "dom0": domain("AdminVM", DOM0_UUID, power_state="Running"),
    "work": domain("AppVM", WORK_UUID, "office", "disp", default_dispvm="dvm"),
    "vault": domain("AppVM", "7c7d3f0e-97d2-4f40-9f7c-000000000001", power_state="Running"),
    "dvm": domain("AppVM", DVM_UUID, "disp", template_for_dispvms=True, default_dispvm="dvm"),
    "odd": domain("StandaloneVM", "7c7d3f0e-97d2-4f40-9f7c-000000000002", default_dispvm="vault"),
    "deb": domain("TemplateVM", "7c7d3f0e-97d2-4f40-9f7c-000000000003", "office"),
}


@dataclasses.dataclass(frozen=True)
class Files:
    """A policy: files by their path in dom0."""

    files: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, *texts: str) -> Files:
        """Return a policy of files that are read in this order."""
        names = (f"{POLICY_DIR}/{number:02d}-test.policy" for number in range(len(texts)))
        return cls(tuple(zip(names, texts, strict=True)))

    def write(self, root: Path) -> Path:
        """Write them into an empty folder, which then is dom0's root."""
        for folder in (POLICY_DIR, RUN_DIR):
            (root / folder).mkdir(parents=True)
        for name, text in self.files:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return root


class Upstream:
    """Decides with upstream's code."""

    def __init__(self, domains: policy.Domains) -> None:
        """Take the system info as qubesd tells it."""
        answer = json.dumps({"domains": domains}).encode()
        with mock.patch.object(utils, "qubesd_call", lambda *_: answer):
            self.info = utils.get_system_info()

    def load(self, root: Path) -> parser.FilePolicy | None:
        """Return the policy below dom0's root; None if it has an error, so that all is denied."""
        try:
            return parser.FilePolicy(policy_path=[root / RUN_DIR, root / POLICY_DIR])
        except (exc.PolicySyntaxError, exc.AccessDenied, UnicodeDecodeError, RecursionError):
            return None

    def decide(self, rules: parser.AbstractPolicy, call: policy.Call) -> str:
        """Return "TARGET USER AUTOSTART", or DENIED."""
        try:
            request = parser.Request(
                call.service, call.argument, call.source, call.target, system_info=self.info
            )
            execution = rules.evaluate(request).execute()
            try:
                execution.send(None)
            except StopIteration as answer:
                lines = dict(line.split("=", 1) for line in answer.value.splitlines())
            else:
                raise RuntimeError("upstream's decision waits for something")
        except REFUSED:
            return DENIED
        target = lines["target"]
        if "target_uuid" in lines:
            target = utils.uuid_to_name(self.info["domains"], lines["target_uuid"])
        if target == call.source:
            # qrexec can't connect a qube to itself. Upstream's policy refuses that only when the
            # qube is named, not when the target is its uuid; the lab refuses both.
            return DENIED
        return f"{target} {lines['user']} {lines['autostart']}"


class Lab:
    """Decides with the lab's code."""

    def __init__(self, domains: policy.Domains) -> None:
        """Take the system info."""
        self.domains = domains

    def load(self, root: Path) -> list[policy.Rule] | None:
        """Return the policy below dom0's root; None if it has an error, so that all is denied."""
        try:
            return policy.Loader(Dom0Files(root)).load()
        except policy.PolicySyntaxError:
            return None

    def decide(self, rules: Iterable[policy.Rule], call: policy.Call) -> str:
        """Return "TARGET USER AUTOSTART", or DENIED."""
        try:
            allowed = policy.decide(rules, call, self.domains)
        except policy.Denied:
            return DENIED
        return f"{allowed.target} {allowed.user or 'DEFAULT'} {allowed.autostart}"


@dataclasses.dataclass
class Tally:
    """What was compared; a matrix in which all is denied would prove nothing."""

    decisions: int = 0
    allowed: int = 0
    broken: int = 0


def compare(
    root: Path, calls: Sequence[policy.Call], tally: Tally, domains: policy.Domains | None = None
) -> Iterator[str]:
    """Yield a line for every call about which the two disagree, under the policy in `root`."""
    upstream, lab = Upstream(domains or DOMAINS), Lab(domains or DOMAINS)
    theirs, ours = upstream.load(root), lab.load(root)
    if theirs is None or ours is None:
        tally.broken += 1
        if theirs is not ours:
            yield f"upstream {'refuses' if theirs is None else 'accepts'} it, the lab does not"
        return
    for call in calls:
        tally.decisions += 1
        expected, found = upstream.decide(theirs, call), lab.decide(ours, call)
        tally.allowed += expected != DENIED
        if expected != found:
            yield f"{call}: upstream: {expected}, the lab: {found}"


def calls_over(
    services: Iterable[tuple[str, str]], sources: Iterable[str], targets: Iterable[str]
) -> list[policy.Call]:
    """Return the product as calls."""
    targets, sources = list(targets), list(sources)
    return [
        policy.Call(service, argument, source, target)
        for service, argument in services
        for source in sources
        for target in targets
    ]


def tree(root: Path, folder: Path, place: str) -> None:
    """Copy the files of a folder into dom0's root."""
    for name in os.listdir(folder):  # noqa: PTH208 - names only
        if (folder / name).is_file():
            target = root / place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folder / name).read_bytes())
