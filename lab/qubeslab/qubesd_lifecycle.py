# SPDX-License-Identifier: GPL-3.0-or-later
"""The Admin API's methods that create, remove, start and stop qubes, and those about pools.

Each answers as the method of the same name in qubes-core-admin qubes/api/admin.py.
"""

from __future__ import annotations

import os

from . import domains_checks as checks
from .domains import LABELS, VOLUMES
from .domains_properties import TABLE, NoDefault
from .domains_volumes import KERNEL_POOL, POOL
from .paths import DOM0
from .qubesd import Handler, Method, Methods, Request
from .qubesd_exc import (
    NoAnswer,
    PermissionDenied,
    ProtocolError,
    QubesException,
    QubesNotImplementedError,
    QubesPropertyValueError,
    QubesVMAlreadyExistsError,
    QubesVMInUseError,
    QubesVMNotFoundError,
)
from .qubesd_methods import Lab, lines

CREATABLE = ("AppVM", "StandaloneVM", "TemplateVM")
DOM0_MEMORY = 4096 * 1024  # KiB


class Lifecycle:
    """Methods about whole qubes."""

    def __init__(self, lab: Lab) -> None:
        """Take the lab."""
        self.lab = lab
        self.store, self.pool, self.power = lab.store, lab.pool, lab.power

    def methods(self) -> Methods:
        """Return all of them by name."""
        creating = {
            f"admin.vm.{verb}.{klass}": Method(
                self._creator(klass, verb == "CreateInPool"), None, None, True
            )
            for verb in ("Create", "CreateInPool")
            for klass in (*CREATABLE, "DispVM", "AdminVM")
        }
        return {
            **creating,
            "admin.vm.CreateDisposable": Method(self._no_disposables, None, None),
            "admin.vm.Remove": Method(self.remove),
            "admin.vm.Start": Method(lambda r: self.power.start(r.dest.name)),
            "admin.vm.Shutdown": Method(self.shutdown, argument=None),
            "admin.vm.Kill": Method(lambda r: self.power.kill(r.dest.name)),
            "admin.vm.CurrentState": Method(self.current_state),
            "admin.pool.List": Method(lambda _: lines([POOL, KERNEL_POOL]), on_dom0=True),
            "admin.pool.Info": Method(self.pool_info, argument=True, on_dom0=True),
            "admin.pool.UsageDetails": Method(self.pool_usage, argument=True, on_dom0=True),
            "admin.pool.ListDrivers": Method(
                lambda _: "file dir_path revisions_to_keep ephemeral_volatile\n", on_dom0=True
            ),
        }

    def _creator(self, klass: str, in_pool: bool) -> Handler:
        return lambda request: self.create(klass, in_pool, request)

    def create(self, klass: str, in_pool: bool, request: Request) -> None:
        """Create a qube of class `klass`.

        Args:
            klass: the class.
            in_pool: the payload may say pool=NAME or pool:VOLUME=NAME.
            request: its argument is the template, its payload `name=… label=…`.
        """
        if klass not in CREATABLE:
            raise QubesNotImplementedError(f"The lab has no new qubes of class {klass}")
        options = self._options(request.payload, in_pool)
        template = self._template(klass, request.argument)
        with self.power.exclusive(options["name"]):
            if options["name"] in self.store:
                raise QubesVMAlreadyExistsError(f"Qube already exists: {options['name']}")
            with self.store.change():
                qube = self.store.add(options["name"], klass)
                qube.properties["label"] = options["label"]
                if template:
                    qube.properties["template"] = template
                qube.tags.append("created-by-dom0")
                self.pool.create(qube)
        self.lab.events.fire("", "domain-add", vm=qube.name)

    def _options(self, payload: bytes, in_pool: bool) -> dict[str, str]:
        try:
            text = payload.decode("ascii")
        except UnicodeDecodeError:
            raise ProtocolError("Parameters contains non-ASCII characters") from None
        options: dict[str, str] = {}
        for word in text.split(" "):
            key, equals, value = word.partition("=")
            if not equals:
                raise NoAnswer(f"bad parameter {word!r}")
            if key in options:
                raise ProtocolError("Options must be unique")
            self._check_option(key, value, in_pool)
            options[key] = value
        if "label" in options:
            checks.label_name(options["label"])
            if not any(options["label"] == name for _, _, name in LABELS):
                del options["label"]  # upstream forgets an unknown label, and then misses it
        for key in ("name", "label"):
            if key not in options:
                raise ProtocolError(f"Creation requested without key: {key}")
        checks.qube_name(options["name"])
        return options

    @staticmethod
    def _check_option(key: str, value: str, in_pool: bool) -> None:
        kind, _, volume = key.partition(":")
        if kind == "pool" and not in_pool:
            raise ProtocolError("Pool option specified but 'allow_pool' is False")
        if key not in ("name", "label", "pool") and not (kind == "pool" and volume in VOLUMES):
            raise ProtocolError("Options does not match: name, label, pool, pool:")
        if kind == "pool" and value not in (POOL, KERNEL_POOL):
            raise QubesException(f"No such pool: {value}")

    def _template(self, klass: str, argument: str) -> str | None:
        if "template" not in TABLE[klass]:
            if argument:
                raise ProtocolError(f"{klass} cannot be based on template")
            return None
        if not argument:
            try:
                argument = str(
                    self.lab.properties.get(self.lab.properties.system, "default_template")
                )
            except NoDefault:
                raise QubesException("no template given, and there is no default template") from (
                    None
                )
        if argument not in self.store:
            raise QubesVMNotFoundError(argument)
        if self.store[argument].klass != "TemplateVM":
            raise QubesPropertyValueError(f"{argument!r} is not a TemplateVM")
        return argument

    def _no_disposables(self, _request: Request) -> None:
        raise QubesNotImplementedError("The lab has no disposables")

    def remove(self, request: Request) -> None:
        """Remove a halted qube that nothing depends on."""
        name = request.dest.name
        if name == DOM0:
            raise QubesVMInUseError("'dom0' cannot be removed")
        with self.power.exclusive(name):
            qube = self.store[name]
            if self.lab.properties.get(qube, "installed_by_rpm"):
                raise QubesVMInUseError(f"VM installed by package manager: {name}")
            self.power.need_halted(qube)
            users = self._users(name)
            if users:
                raise QubesVMInUseError(f"Domain is in use: {name!r}; by {', '.join(users)}")
            with self.store.change():
                del self.store.qubes[name]
            self.pool.remove(qube)
        self.lab.events.fire("", "domain-delete", vm=name)

    def _users(self, name: str) -> list[str]:
        """Return what refers to a qube; qubes-core-admin qubes/app.py get_qube_prop_deps."""
        holders = [*map(self.store.__getitem__, self.store.names()), self.lab.properties.system]
        return [
            f"{holder.name or '@GLOBAL'}:{prop.name}"
            for holder in holders
            for prop in TABLE[holder.klass].values()
            if prop.kind == "vm"
            and holder.name != name
            and holder.properties.get(prop.name) == name
        ]

    def shutdown(self, request: Request) -> None:
        """Shut a qube down; the argument may hold `force` and `wait`."""
        words = request.argument.split("+") if request.argument else []
        if not {"force", "wait"}.issuperset(words):
            raise ProtocolError("Argument must match: force, wait")
        self.power.shutdown(request.dest.name, force="force" in words, wait="wait" in words)

    def current_state(self, request: Request) -> str:
        """Return memory, processor time and power state."""
        state = self.power.state(request.dest.name)
        memory = 0 if state == "Halted" else DOM0_MEMORY
        if state != "Halted" and request.dest.name != DOM0:
            memory = int(self.lab.properties.get(request.dest, "memory") or 0) * 1024
        return f"mem={memory} mem_static_max={memory} cputime=0 power_state={state}"

    def _pool_name(self, name: str) -> str:
        if name not in (POOL, KERNEL_POOL):
            raise PermissionDenied("Argument not in 'pools'")
        return name

    def pool_info(self, request: Request) -> str:
        """Return a pool's configuration."""
        if self._pool_name(request.argument) == KERNEL_POOL:
            folder = f"{self.pool.seen_at}/vm-kernels"
            return f"dir_path={folder}\ndriver=linux-kernel\nname={KERNEL_POOL}\n"
        disk = os.statvfs(self.pool.root)
        size, free = disk.f_frsize * disk.f_blocks, disk.f_frsize * disk.f_bfree
        return (
            f"dir_path={self.pool.seen_at}\ndriver=file\nephemeral_volatile=False\nname={POOL}\n"
            f"revisions_to_keep=0\nsize={size}\nusage={size - free}\n"
        )

    def pool_usage(self, request: Request) -> str:
        """Return a pool's size and use in bytes."""
        if self._pool_name(request.argument) == KERNEL_POOL:
            return ""
        disk = os.statvfs(self.pool.root)
        size, free = disk.f_frsize * disk.f_blocks, disk.f_frsize * disk.f_bfree
        return f"data_size={size}\ndata_usage={size - free}\n"
