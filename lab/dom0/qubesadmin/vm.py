# SPDX-License-Identifier: GPL-3.0-or-later
"""Qubes; qubesadmin/vm/__init__.py QubesVM."""

from __future__ import annotations

import logging
import shlex
import subprocess
from collections.abc import Iterator

from qubesadmin.base import PropertyHolder, Value
from qubesadmin.exc import QubesVMNotFoundError
from qubesadmin.features import Features, Tags
from qubesadmin.firewall import Firewall
from qubesadmin.storage import Volume
from qubesadmin.utils import encode_for_vmexec


class QubesVM(PropertyHolder):
    """A qube, by its name; other attributes than the ones here are its properties."""

    _local = PropertyHolder._local | {"log", "tags", "features", "firewall", "devices"}

    def __init__(self, app: Value, name: str) -> None:
        """Take the app and the name."""
        super().__init__(app, "admin.vm.property.", name)
        self.log = logging.getLogger(name)
        self.tags, self.features, self.firewall = Tags(self), Features(self), Firewall(self)
        self.devices: dict[str, Value] = {}  # the lab has none

    @property
    def name(self) -> str:
        """Its name."""
        return self._method_dest

    @property
    def klass(self) -> str:
        """Its class's name, such as AppVM."""
        return self._listed()["class"]

    @property
    def volumes(self) -> dict[str, Volume]:
        """Its volumes by name."""
        names = self.qubesd_call(None, "admin.vm.volume.List").decode("ascii").splitlines()
        return {name: Volume(self.app, self.name, name) for name in names}

    @property
    def appvms(self) -> Iterator[QubesVM]:
        """The qubes that are based on this template."""
        return (vm for vm in self.app.domains if getattr(vm, "template", None) == self)

    @property
    def connected_vms(self) -> Iterator[QubesVM]:
        """The qubes whose netvm this is."""
        return (vm for vm in self.app.domains if getattr(vm, "netvm", None) == self)

    def start(self) -> None:
        """Start it and wait until it runs."""
        self.qubesd_call(None, "admin.vm.Start")

    def shutdown(self, force: bool = False, wait: bool = False) -> None:
        """Shut it down; `wait` until it is off."""
        words = [word for word, wanted in (("force", force), ("wait", wait)) if wanted]
        self.qubesd_call(None, "admin.vm.Shutdown", "+".join(words) or None)

    def kill(self) -> None:
        """Power it off."""
        self.qubesd_call(None, "admin.vm.Kill")

    def get_power_state(self) -> str:
        """Return Halted, Transient, Running, Halting."""
        return self._state()["power_state"]

    def get_mem(self) -> int:
        """Return the memory that it has now, in KiB."""
        return int(self._state()["mem"])

    def _state(self) -> dict[str, str]:
        answer = self.qubesd_call(None, "admin.vm.CurrentState").decode("ascii")
        return dict(word.split("=", 1) for word in answer.split())

    def is_halted(self) -> bool:
        """Tell whether it is off."""
        return self.get_power_state() == "Halted"

    def is_paused(self) -> bool:
        """Tell whether it is paused."""
        return self.get_power_state() == "Paused"

    def is_running(self) -> bool:
        """Tell whether it isn't off."""
        return self.get_power_state() not in ("Halted", "NA")

    def is_networked(self) -> bool:
        """Tell whether it has a network."""
        return bool(self.provides_network) or self.netvm is not None

    def get_notes(self) -> str:
        """Return its notes."""
        return self.qubesd_call(None, "admin.vm.notes.Get").decode()

    def set_notes(self, notes: str) -> None:
        """Replace its notes."""
        self.qubesd_call(None, "admin.vm.notes.Set", payload=notes.encode())

    def run_service(self, service: str, **kwargs: Value) -> subprocess.Popen[bytes]:
        """Start a service; see `QubesLocal.run_service`."""
        process: subprocess.Popen[bytes] = self.app.run_service(self.name, service, **kwargs)
        return process

    def run_service_for_stdio(
        self,
        service: str,
        input: bytes | None = None,  # noqa: A002 - the library's API
        timeout: float | None = None,
        **kwargs: Value,
    ) -> tuple[bytes, bytes]:
        """Run a service and return its stdout and stderr.

        Raises:
            CalledProcessError: it ended with another code than 0.
        """
        process = self.run_service(service, **kwargs)
        out, err = process.communicate(input=input, timeout=timeout)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, service, out, err)
        return out, err

    def prepare_input_for_vmshell(self, command: str, input: bytes | None = None) -> bytes:  # noqa: A002
        """Return what to send to qubes.VMShell for a command and its input."""
        return command.rstrip("\n").encode() + b"; exit\n" + (input or b"")

    def run(self, command: str, input: bytes | None = None, **kwargs: Value) -> tuple[bytes, bytes]:  # noqa: A002
        """Run a shell command; as `run_service_for_stdio`."""
        service = "qubes.VMShell"
        if kwargs.get("user") == "root" and self._supports_root():
            kwargs.pop("user")
            service = "qubes.VMRootShell"
        data = self.prepare_input_for_vmshell(command, input)
        try:
            return self.run_service_for_stdio(service, input=data, **kwargs)
        except subprocess.CalledProcessError as error:
            error.cmd = command
            raise

    def run_with_args(self, *args: str, **kwargs: Value) -> tuple[bytes, bytes]:
        """Run a command without a shell; as `run_service_for_stdio`."""
        if not self.features.check_with_template("vmexec"):
            return self.run(shlex.join(args), **kwargs)
        service = "qubes.VMExec"
        if kwargs.get("user") == "root" and self._supports_root():
            kwargs.pop("user")
            service = "qubes.VMRootExec"
        try:
            return self.run_service_for_stdio(f"{service}+{encode_for_vmexec(args)}", **kwargs)
        except subprocess.CalledProcessError as error:
            error.cmd = str(args)
            raise

    def _supports_root(self) -> bool:
        return bool(self.features.check_with_template("supported-rpc.qubes.VMRootExec"))

    def _listed(self) -> dict[str, str]:
        # Asked about dom0, qubesd lists all.
        for line in self.qubesd_call(None, "admin.vm.List").decode("ascii").splitlines():
            name, *words = line.split(" ")
            if name == self.name:
                return dict(word.split("=", 1) for word in words)
        raise QubesVMNotFoundError("No such domain: %s", self.name)

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def __lt__(self, other: QubesVM) -> bool:
        """Order by name."""
        return self.name < other.name

    def __eq__(self, other: object) -> bool:
        """Compare names; a text counts as one."""
        return self.name == str(other) if isinstance(other, QubesVM | str) else NotImplemented

    def __hash__(self) -> int:
        """Hash the name."""
        return hash(self.name)
