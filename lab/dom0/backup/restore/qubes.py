# SPDX-License-Identifier: GPL-3.0-or-later
"""Create the qubes of a backup, with their settings.

Stands in for BackupRestore._restore_vms_metadata and _templates_first of qubes-core-admin-client
qubesadmin/backup/restore.py, without devices. Failures are logged.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable

import qubesadmin
from qubesadmin.exc import QubesException, QubesLabelNotFoundError
from qubesadmin.vm import QubesVM

from .choice import Choice, Choices

# Set before, set by hand below, or meaningless for a restored qube.
NOT_SET = (
    *("dispid", "template_for_dispvms", "template", "netvm", "default_dispvm"),
    "installed_by_rpm",
)
FALLBACK_LABEL = "red"

log = logging.getLogger("qubesadmin.backup")


def templates_first(choices: Iterable[Choice]) -> list[Choice]:
    """Return templates, then templates of disposables, then the others, else in order."""

    def rank(choice: Choice) -> int:
        if choice.qube.klass == "TemplateVM":
            return 0
        return 1 if choice.qube.flag("template_for_dispvms") else 2

    return sorted(choices, key=rank)


def create_qubes(
    app: qubesadmin.Qubes, choices: Choices, verify_only: bool
) -> dict[str, QubesVM | None]:
    """Create the chosen qubes, unless they are only to be verified.

    Returns:
        The new qubes by their names in the backup; None for dom0, and for all with `verify_only`.
    """
    created: dict[str, QubesVM | None] = {}
    for choice in templates_first(choices.values()):
        if not choice.good_to_go:
            continue
        log.info("-> %s %s...", "Verifying" if verify_only else "Restoring", choice.qube.name)
        if verify_only or choice.qube.name == "dom0":
            created[choice.qube.name] = None
            continue
        try:
            qube = _create(app, choice, choices)
        except QubesException as error:
            log.error("Error restoring VM %s, skipping: %s", choice.qube.name, error)
            continue
        created[choice.qube.name] = qube
        if (value := choice.qube.properties.get("template_for_dispvms")) is not None:
            _set_property(qube, qube.name, "template_for_dispvms", value)
    for name, new in created.items():
        if new is not None:
            _set_all(new, choices[name])
    for name, new in created.items():
        if new is not None:
            _set_links(new, choices[name], choices)
    return created


def _create(app: qubesadmin.Qubes, choice: Choice, choices: Choices) -> QubesVM:
    template = choice.template
    if template in choices and choices[template].good_to_go:
        template = choices[template].name
    stored = choice.qube
    try:
        return app.add_new_vm(stored.klass, choice.name, stored.label, template)
    except QubesLabelNotFoundError:
        return app.add_new_vm(stored.klass, choice.name, FALLBACK_LABEL, template)


def _set_property(qube: QubesVM, shown: str, name: str, value: str | None) -> None:
    """Set a property; `shown` is the qube's name in the message when that fails."""
    try:
        setattr(qube, name, value)
    except (QubesException, AttributeError) as error:
        log.error("Error setting %s.%s to %s: %s", shown, name, value, error)


def _set_all(qube: QubesVM, choice: Choice) -> None:
    """Set properties, features and tags."""
    stored = choice.qube
    for name, value in stored.properties.items():
        if name not in NOT_SET:
            _set_property(qube, qube.name, name, value)
    for name, feature in stored.features.items():
        try:
            qube.features[name] = feature
        except QubesException as error:
            log.error("Error setting %s.features[%s] to %s: %s", stored.name, name, feature, error)
    for tag in sorted(stored.tags):
        try:
            qube.tags.add(tag)
        except QubesException as error:
            with contextlib.suppress(QubesException):
                if tag in qube.tags:
                    continue
            log.error("Error adding tag %s to %s: %s", tag, stored.name, error)


def _set_links(qube: QubesVM, choice: Choice, choices: Choices) -> None:
    """Set what refers to other qubes, which may have got new names."""
    for name in ("netvm", "default_dispvm"):
        if name in choice.qube.properties:
            value = choice.qube.properties[name]
            if value in choices:
                value = choices[value].name
            _set_property(qube, choice.qube.name, name, value)
