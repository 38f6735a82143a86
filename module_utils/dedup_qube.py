# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps from a qube as it is to the qube as it is wanted: find the changes, then make them.

The calls into dom0's library, and what they do, are those of qubes-core-admin-client
qubesadmin/app.py (add_new_vm, clone_vm), qubesadmin/base.py, qubesadmin/features.py,
qubesadmin/tags.py and qubesadmin/storage.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .dedup_common import ProvisionError, Qube, Qubes
from .dedup_values import RESET, plain, same

# A feature of dom0, with the name of a qube being cloned: a clone that was cut short has no data.
CLONING = "dedup-backup-cloning-"
# qubes-core-admin qubes/vm/qubesvm.py shutdown_timeout, plus time for the clean-up after it.
STOP_MARGIN = 30


@dataclass(frozen=True)
class QubeSpec:
    """A qube as its owner wants it; None and absent keys leave it as it is.

    Attributes:
        name: the qube's name.
        state: present, running or halted.
        klass: its class, or None for the source's (a clone) or AppVM.
        template: the template it is based on.
        clone_of: the qube it is made from when it doesn't exist yet.
        label: its label.
        properties: values by name; None is "no value", RESET the default.
        features: values by name; None removes one.
        tags: tags it must have.
        volume_sizes: least size in bytes by volume.
    """

    name: str
    state: str = "present"
    klass: str | None = None
    template: str | None = None
    clone_of: str | None = None
    label: str | None = None
    properties: dict[str, object] = field(default_factory=dict)
    features: dict[str, str | None] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    volume_sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One step: the old value, the new one, and how to change it."""

    area: str
    key: str
    before: object
    after: object
    apply: Callable[[], None]


@dataclass
class Outcome:
    """What happened to the qube (or would have, in check mode)."""

    created: bool = False
    power_state: str = "absent"
    before: dict[str, object] = field(default_factory=dict)
    after: dict[str, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class QubeProvisioner:
    """The provisioning of one qube."""

    def __init__(self, qubes: Qubes, wanted: QubeSpec, check_mode: bool) -> None:
        self.qubes = qubes
        self.wanted = wanted
        self.check_mode = check_mode
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Validate, then change what differs; in check mode only report what would change.

        Raises:
            ProvisionError: it can't be done; all that is known before a change is checked first.
        """
        qube = self.qubes.find(self.wanted.name)
        self._check_references()
        if qube is None:
            self._create()
            return self.outcome
        self._check_existing(qube)
        changes = list(self._changes(qube))
        for change in changes:
            self._record(change.area, change.key, change.before, change.after)
        if not self.check_mode:
            self._execute(qube, changes)
        self._power(qube)
        return self.outcome

    def _check_references(self) -> None:
        wanted = self.wanted
        self._expect_qube("template", wanted.template)
        netvm = wanted.properties.get("netvm")
        if netvm not in (None, "", RESET):
            self._expect_qube("netvm", str(netvm))
        labels = sorted(str(label) for label in self.qubes.app.labels)
        if wanted.label and wanted.label not in labels:
            raise ProvisionError(
                f"there is no label {wanted.label!r}: use one of {', '.join(labels)}"
            )

    def _expect_qube(self, role: str, name: str | None) -> None:
        """Refuse a missing qube; in check mode an earlier task may be about to make it."""
        if name is None or self.qubes.find(name) is not None:
            return
        message = f"{name}, the {role} of {self.wanted.name}, does not exist"
        if not self.check_mode:
            raise ProvisionError(f"{message}: make it first, or correct the name")
        self.outcome.warnings.append(f"{message} yet")

    def _check_existing(self, qube: Qube) -> None:
        wanted, name = self.wanted, self.wanted.name
        if f"{CLONING}{name}" in self.qubes.app.domains["dom0"].features:
            raise ProvisionError(
                f"{name} is a half-made clone, left by a run that was stopped: remove it with "
                f"`qvm-remove {name}` and run this again"
            )
        source = self.qubes.find(wanted.clone_of) if wanted.clone_of else None
        klass = wanted.klass or (source.klass if source is not None else None)
        if klass and qube.klass != klass:
            raise ProvisionError(
                f"{name} exists and is a {qube.klass}, not a {klass}: choose another name, or look "
                "at what it holds and remove it yourself"
            )
        template = str(getattr(qube, "template", None))
        if wanted.template and template != wanted.template:
            raise ProvisionError(
                f"{name} exists and is based on {template}, not on {wanted.template}: choose "
                "another name, or shut it down and run "
                f"`qvm-prefs {name} template {wanted.template}`"
            )

    def _clone_source(self) -> Qube | None:
        """Return the qube to clone, or None when the new one isn't a clone."""
        name = self.wanted.clone_of
        if name is None:
            return None
        source = self.qubes.find(name)
        problem = f"can't make {self.wanted.name} as a clone of {name}"
        if source is None:
            raise ProvisionError(
                f"{problem}, which does not exist: install it with `qvm-template install {name}`, "
                "or name another one"
            )
        if source.is_running():
            raise ProvisionError(
                f"{problem}, which is running: run `qvm-shutdown --wait {name}` first"
            )
        return source

    def _create(self) -> None:
        source = self._clone_source()
        klass = self.wanted.klass or ("AppVM" if source is None else source.klass)
        self._check_new(klass)
        self.outcome.created = True
        self.outcome.before = {"state": "absent"}
        self.outcome.after = self._description(klass)
        if self.check_mode:
            return
        qube = self._new(klass) if source is None else self._clone(source)
        try:
            # A new qube has the system's netvm: cut it off before anything else.
            changes = sorted(self._changes(qube), key=lambda change: change.key != "netvm")
            self._execute(qube, changes)
        except ProvisionError as error:
            raise ProvisionError(
                f"{error}. {qube} was made and is left as it is: correct this and run it again"
            ) from error
        self._power(qube)

    def _check_new(self, klass: str) -> None:
        """Refuse what a qube of this class doesn't have, as far as another one shows it."""
        for other in self.qubes.app.domains:
            if other.klass == klass:
                for name in self.wanted.properties:
                    self._expect_property(other, name)
                for name in self.wanted.volume_sizes:
                    self._expect_volume(other, name)
                return

    def _description(self, klass: str) -> dict[str, object]:
        """Return the properties of the new qube, for the diff."""
        wanted = self.wanted
        described = {
            "state": "running" if wanted.state == "running" else "halted",
            "klass": klass,
            "clone_of": wanted.clone_of,
            "template": wanted.template,
            "label": wanted.label,
            "properties": wanted.properties,
            "features": wanted.features,
            "tags": list(wanted.tags),
            "volume_sizes": wanted.volume_sizes,
        }
        return {key: value for key, value in described.items() if value}

    def _new(self, klass: str) -> Qube:
        wanted = self.wanted
        return self.qubes.app.add_new_vm(
            klass, wanted.name, wanted.label or "red", template=wanted.template
        )

    def _clone(self, source: Qube) -> Qube:
        wanted, app = self.wanted, self.qubes.app
        marks, mark = app.domains["dom0"].features, f"{CLONING}{wanted.name}"
        marks[mark] = True
        try:
            qube = app.clone_vm(source, wanted.name, wanted.klass, ignore_devices=True)
        except self.qubes.errors:
            app.domains.clear_cache()
            if self.qubes.find(wanted.name) is None:
                del marks[mark]
            raise
        # clone_vm copies it, and the clone would look backed up.
        if not self._property_is(qube, "backup_timestamp", RESET):
            qube.backup_timestamp = self.qubes.default
        del marks[mark]
        return qube

    def _changes(self, qube: Qube) -> Iterator[Change]:
        wanted = self.wanted
        if wanted.label and str(qube.label) != wanted.label:
            yield self._property_change(qube, "label", wanted.label)
        for name, value in wanted.properties.items():
            if not self._property_is(qube, name, value):
                yield self._property_change(qube, name, value)
        for name, feature in wanted.features.items():
            before = qube.features.get(name)
            if before != feature:
                setter = _feature_setter(qube, name, feature)
                yield Change("features", name, before, feature, setter)
        present = set(qube.tags)
        for tag in wanted.tags:
            if tag not in present:
                yield Change("tags", tag, False, True, _tag_adder(qube, tag))
        for name, size in wanted.volume_sizes.items():
            yield from self._volume_changes(qube, name, size)

    @staticmethod
    def _expect_property(qube: Qube, name: str) -> None:
        if name not in qube.property_list():
            raise ProvisionError(f"{qube} has no property {name!r}: see `qvm-prefs {qube}`")

    @staticmethod
    def _expect_volume(qube: Qube, name: str) -> None:
        if name not in qube.volumes:
            names = ", ".join(sorted(qube.volumes))
            raise ProvisionError(f"{qube} has no volume {name!r}: it has {names}")

    def _property_is(self, qube: Qube, name: str, value: object) -> bool:
        self._expect_property(qube, name)
        is_default = bool(qube.property_is_default(name))
        if value == RESET:
            return is_default
        # What was asked for is set even when the default is the same today: defaults move.
        return not is_default and same(plain(getattr(qube, name, None)), value)

    def _property_change(self, qube: Qube, name: str, value: object) -> Change:
        before = RESET if qube.property_is_default(name) else plain(getattr(qube, name, None))
        new = self.qubes.default if value == RESET else value
        return Change("properties", name, before, value, lambda: setattr(qube, name, new))

    def _volume_changes(self, qube: Qube, name: str, size: int) -> Iterator[Change]:
        self._expect_volume(qube, name)
        volume = qube.volumes[name]
        current = int(volume.size)
        if current < size:
            yield Change("volume_sizes", name, current, size, lambda: volume.resize(size))
        elif current > size:
            self.outcome.warnings.append(
                f"volume {name} of {qube} has {current} bytes, more than the {size} asked for: "
                "volumes are never shrunk"
            )

    def _record(self, area: str, key: str, before: object, after: object) -> None:
        for side, value in ((self.outcome.before, before), (self.outcome.after, after)):
            keys = side.setdefault(area, {})
            if isinstance(keys, dict):
                keys[key] = value

    def _execute(self, qube: Qube, changes: list[Change]) -> None:
        for change in changes:
            try:
                change.apply()
            except self.qubes.errors as error:
                raise ProvisionError(
                    f"can't set {change.key} ({change.area}) of {qube} to {change.after!r}: "
                    f"{self.qubes.error_text(error)}"
                ) from error

    def _power(self, qube: Qube) -> None:
        """Start it or shut it down; the outcome says how it really is afterwards."""
        state = qube.get_power_state().lower()
        wanted = self.wanted.state
        self.outcome.power_state = state
        if wanted in ("present", state):
            return
        if not self.outcome.created:
            self.outcome.before["state"], self.outcome.after["state"] = state, wanted
        if self.check_mode:
            return
        if wanted == "running":
            qube.start()
        else:
            self._shut_down(qube)
        self.outcome.power_state = qube.get_power_state().lower()

    @staticmethod
    def _shut_down(qube: Qube) -> None:
        seconds = int(qube.shutdown_timeout) + STOP_MARGIN
        deadline = time.monotonic() + seconds
        qube.shutdown()
        while not qube.is_halted():
            if time.monotonic() > deadline:
                raise ProvisionError(
                    f"{qube} didn't shut down within {seconds} s: look at what it is doing, or run "
                    f"`qvm-kill {qube}`"
                )
            time.sleep(0.2)


def _feature_setter(qube: Qube, name: str, value: str | None) -> Callable[[], None]:
    def apply() -> None:
        if value is None:
            del qube.features[name]
        else:
            qube.features[name] = value

    return apply


def _tag_adder(qube: Qube, tag: str) -> Callable[[], None]:
    return lambda: qube.tags.add(tag)
