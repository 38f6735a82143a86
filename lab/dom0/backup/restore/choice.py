# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide what is restored, and under which name.

Stands in for BackupRestore.get_restore_info, restore_info_verify, new_name_for_conflicting_vm and
get_restore_summary of qubes-core-admin-client qubesadmin/backup/restore.py.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

import qubesadmin

from ..contents import local_user
from .metadata import StoredQube

NAME_LENGTH = 29  # of a name before "-N" is added
NAME_TRIES = 100

log = logging.getLogger("qubesadmin.backup")


class Problem(enum.Enum):
    """Why a qube isn't restored, or only after the user agreed; the text for the table."""

    EXCLUDED = "Excluded from restore"
    ALREADY_EXISTS = "A VM with the same name already exists on the host!"
    MISSING_TEMPLATE = "No matching template on the host or in the backup found!"
    MISSING_NETVM = "No matching netvm on the host or in the backup found!"
    USERNAME_MISMATCH = "username in backup and dom0 mismatch"


@dataclass
class Options:
    """What the user wants."""

    use_default_template: bool = False
    use_default_netvm: bool = False
    rename_conflicting: bool = False
    dom0_home: bool = True
    ignore_username_mismatch: bool = False
    ignore_size_limit: bool = False
    verify_only: bool = False
    exclude: list[str] = field(default_factory=list)


@dataclass
class Choice:
    """One qube of the backup, or dom0's home.

    Attributes:
        qube: as the backup describes it.
        name: the name it gets.
        template: the template it gets.
        netvm: the netvm it had.
    """

    qube: StoredQube
    name: str
    template: str | None
    netvm: str | None
    problems: set[Problem] = field(default_factory=set)

    @property
    def good_to_go(self) -> bool:
        """Whether it will be restored."""
        return not self.problems

    @property
    def user(self) -> str:
        """The user whose home this is (dom0)."""
        return PurePath(str(self.qube.backup_path)).name


Choices = dict[str, Choice]


def choose(app: qubesadmin.Qubes, stored: Mapping[str, StoredQube], options: Options) -> Choices:
    """Return what can be restored, by the name that it has in the backup."""
    choices = {
        qube.name: Choice(qube, qube.name, qube.template, qube.properties.get("netvm"))
        for qube in stored.values()
        if qube.klass != "AdminVM" and qube.included
    }
    verify(app, choices, options)
    dom0 = stored["dom0"]
    if options.dom0_home and dom0.included:
        choice = choices["dom0"] = Choice(dom0, dom0.name, dom0.template, None)
        if choice.user != local_user() and not options.ignore_username_mismatch:
            choice.problems.add(Problem.USERNAME_MISMATCH)
    return choices


def verify(app: qubesadmin.Qubes, choices: Choices, options: Options) -> None:
    """Look for conflicts and missing templates and netvms; rename or replace if that is wanted."""
    for name, choice in choices.items():
        if name == "dom0":
            continue
        choice.problems.clear()
        if name in options.exclude:
            choice.problems.add(Problem.EXCLUDED)
        if not options.verify_only and choice.name in app.domains:
            new_name = _new_name(app, name, choices) if options.rename_conflicting else None
            if new_name is None:
                choice.problems.add(Problem.ALREADY_EXISTS)
            else:
                choice.name = new_name
        if choice.template and not _has_template(app, choice, choices):
            default = app.default_template if options.use_default_template else None
            if default is None:
                choice.problems.add(Problem.MISSING_TEMPLATE)
            else:
                choice.template = default.name
        if choice.qube.properties.get("netvm") and not _has_netvm(app, choice, choices):
            if options.use_default_netvm:
                del choice.qube.properties["netvm"]
            else:
                choice.problems.add(Problem.MISSING_NETVM)


def _new_name(app: qubesadmin.Qubes, name: str, choices: Choices) -> str | None:
    base = name[:NAME_LENGTH]
    taken = {*choices, *(choice.name for choice in choices.values())}
    for number in range(NAME_TRIES):
        candidate = f"{base}-{number}" if number else base
        if candidate not in taken and candidate not in app.domains:
            return candidate
    return None


def _has_template(app: qubesadmin.Qubes, choice: Choice, choices: Choices) -> bool:
    template = str(choice.template)
    if template in app.domains and app.domains[template].klass == "TemplateVM":
        return True
    stored = choices.get(template)
    return bool(stored and stored.good_to_go and stored.qube.klass == "TemplateVM")


def _has_netvm(app: qubesadmin.Qubes, choice: Choice, choices: Choices) -> bool:
    netvm = str(choice.netvm)
    if netvm in app.domains and app.domains[netvm].provides_network:
        return True
    stored = choices.get(netvm)
    return bool(stored and stored.good_to_go and stored.qube.flag("provides_network"))


def _netvm_cell(qube: StoredQube) -> str:
    if "netvm" not in qube.properties:
        return "(default)"
    return qube.properties["netvm"] or "-"


def _remark(choice: Choice) -> str:
    for problem in Problem:
        if problem in choice.problems:
            return f" <-- {problem.value}"
    remark = ""
    if choice.template != choice.qube.template:
        remark += f" <-- Template change to '{choice.template}'"
    if choice.name != choice.qube.name:
        remark += f" <-- Will be renamed to '{choice.name}'"
    return remark


def summary(choices: Choices) -> str:
    """Return the table of what is in the backup."""
    heads = ["name", "type", "template", "netvm", "label"]
    rows = []
    for choice in choices.values():
        qube = choice.qube
        rows.append(
            [qube.name, qube.klass, qube.template or "n/a", _netvm_cell(qube), str(qube.label)]
        )
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = "".join(f"{'-':-^{width + 1}}-+" for width in widths)

    def line(cells: list[str]) -> str:
        return "".join(f"{cell:>{width + 1}} |" for cell, width in zip(cells, widths, strict=True))

    lines = ["The following VMs are included in the backup:", "", rule, line(heads), rule]
    lines += [
        line(row) + _remark(choice) for row, choice in zip(rows, choices.values(), strict=True)
    ]
    return "\n".join(lines) + "\n"
