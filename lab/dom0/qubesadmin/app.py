# SPDX-License-Identifier: GPL-3.0-or-later
"""The system as seen from dom0; qubesadmin/app.py (VMCollection, QubesBase, QubesLocal)."""

from __future__ import annotations

import contextlib
import grp
import io
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from qubesadmin import config, exc
from qubesadmin.base import PropertyHolder, Value, WrapperObjectsCollection, parse_response
from qubesadmin.label import Label
from qubesadmin.storage import Pool
from qubesadmin.vm import QubesVM

NOT_CLONED = ("name", "qid", "template", "label", "uuid", "installed_by_rpm")


class VMCollection:
    """All qubes by name."""

    def __init__(self, app: Value) -> None:
        """Take the app."""
        self.app = app

    def keys(self) -> list[str]:
        """Return all names, sorted."""
        lines = self.app.qubesd_call("dom0", "admin.vm.List").decode("ascii").splitlines()
        return sorted(line.split(" ", 1)[0] for line in lines)

    def values(self) -> list[QubesVM]:
        """Return all qubes."""
        return [self.get_blind(name) for name in self.keys()]

    def get_blind(self, name: str) -> QubesVM:
        """Return a qube without asking whether it exists."""
        return QubesVM(self.app, name)

    def get(self, name: str | QubesVM, default: Value = None) -> Value:
        """Return a qube, or `default`."""
        return self.get_blind(str(name)) if name in self else default

    def clear_cache(self, invalidate_name: str | None = None) -> None:
        """Do nothing: there is no cache."""

    def refresh_cache(self, force: bool = False) -> None:
        """Do nothing: there is no cache."""

    def __getitem__(self, name: str | QubesVM) -> QubesVM:
        """Return a qube.

        Raises:
            KeyError: there is none with this name.
        """
        if name not in self:
            raise KeyError(str(name))
        return self.get_blind(str(name))

    def __delitem__(self, name: str | QubesVM) -> None:
        """Remove a halted qube."""
        self.app.qubesd_call(str(name), "admin.vm.Remove")

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such a qube."""
        return str(name) in self.keys()

    def __iter__(self) -> Iterator[QubesVM]:
        """Go through all qubes."""
        return iter(self.values())


class QubesLocal(PropertyHolder):
    """The system; other attributes than the ones here are its properties."""

    _local = PropertyHolder._local | {"domains", "labels", "pools", "log", "cache_enabled"}
    qubesd_connection_type = "socket"

    def __init__(self) -> None:
        """Make no connection yet: each call makes its own."""
        super().__init__(self, "admin.property.", "dom0")
        self.domains = VMCollection(self)
        self.labels = WrapperObjectsCollection(self, "admin.label.List", Label)
        self.pools = WrapperObjectsCollection(self, "admin.pool.List", Pool)
        self.log = logging.getLogger("app")
        self.cache_enabled = False

    @property
    def local_name(self) -> str:
        """Where this runs."""
        return "dom0"

    def list_vmclass(self) -> list[str]:
        """Return the names of all classes."""
        return sorted(self.qubesd_call("dom0", "admin.vmclass.List").decode().splitlines())

    def get_label(self, label: str | int) -> Label:
        """Return a label by name or number.

        Raises:
            QubesLabelNotFoundError: there is none.
        """
        for found in self.labels.values():
            if label == found.name or str(label) == str(found.index):
                return found
        raise exc.QubesLabelNotFoundError(str(label))

    def qubesd_call(
        self,
        dest: str | None,
        method: str,
        arg: str | None = None,
        payload: bytes | None = None,
        payload_stream: IO[bytes] | None = None,
    ) -> bytes:
        """Call a method of the Admin API and return its answer.

        Args:
            dest: the qube that it is about.
            method: its name.
            arg: its argument.
            payload: data for it.
            payload_stream: much data for it, sent by the method's program in /etc/qubes-rpc;
                closed afterwards.

        Raises:
            QubesException: as qubesd answered.
            QubesDaemonCommunicationError: qubesd can't be reached.
        """
        if payload_stream is not None:
            return self._call_with_stream(str(dest), method, arg, payload, payload_stream)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(config.QUBESD_SOCKET)
                client.sendall(f"{method}+{arg or ''} dom0 name {dest}\0".encode("ascii"))
                client.sendall(payload or b"")
                client.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as answer:
                    data = answer.read()
        except OSError as error:
            raise exc.QubesDaemonCommunicationError(
                "Failed to connect to qubesd service: %s", str(error)
            ) from error
        return parse_response(data)

    def _call_with_stream(
        self, dest: str, method: str, arg: str | None, payload: bytes | None, stream: IO[bytes]
    ) -> bytes:
        program = Path(config.QREXEC_SERVICES_DIR, method)
        if not program.exists():
            raise exc.QubesDaemonCommunicationError("%s not found", str(program))
        command = ["env", "QREXEC_REMOTE_DOMAIN=dom0", f"QREXEC_REQUESTED_TARGET={dest}"]
        command += [str(program), *([arg] if arg is not None else [])]
        if os.getuid() != 0:
            command.insert(0, "sudo")
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE if payload else stream,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            if payload and process.stdin:
                try:
                    process.stdin.write(payload)
                    shutil.copyfileobj(stream, process.stdin)
                except BrokenPipeError:
                    pass  # the answer says why
            stream.close()
            out, _ = process.communicate()
        return parse_response(out)

    def run_service(  # noqa: PLR0913 - the library's API
        self,
        dest: str,
        service: str,
        user: str | None = None,
        *,
        filter_esc: bool = False,
        localcmd: str | None = None,
        wait: bool = True,
        autostart: bool = True,
        prefix_data: bytes | None = None,
        **kwargs: Value,
    ) -> subprocess.Popen[bytes]:
        """Start a qrexec service in a qube; its streams are pipes unless `kwargs` says otherwise.

        Args:
            dest: the qube; started when it is off and `autostart`.
            service: NAME or NAME+ARGUMENT.
            user: who it runs as; None for the qube's default.
            filter_esc: replace control characters in its output.
            localcmd: connect it to this shell command.
            wait: let the process end with the service, with its exit code.
            autostart: start the qube when it is off.
            prefix_data: send this before stdin.
            kwargs: for Popen.

        Raises:
            QubesVMNotRunningError: the qube is off, and not to be started.
        """
        if not dest:
            raise ValueError("Empty destination name allowed only from a VM")
        if not wait and localcmd:
            raise ValueError("wait=False incompatible with localcmd")
        if autostart:
            with contextlib.suppress(exc.QubesVMNotHaltedError):
                self.qubesd_call(dest, "admin.vm.Start")
        elif not self.domains.get_blind(dest).is_running():
            raise exc.QubesVMNotRunningError("%s is not running", dest)
        for stream in ("stdin", "stdout", "stderr"):
            kwargs.setdefault(stream, subprocess.PIPE)
        if dest == "dom0":
            return self._run_here(service, user, prefix_data, **kwargs)
        command = [config.QREXEC_CLIENT, "-d", dest]
        command += ["-t"] if filter_esc else []
        command += ["-T"] if filter_esc or _stderr_is_terminal() else []
        command += ["-l", localcmd] if localcmd else []
        command += [] if wait else ["-e"]
        command += ["-p", os.fsdecode(prefix_data)] if prefix_data else []
        command += ["-w", str(kwargs.pop("connect_timeout"))] if "connect_timeout" in kwargs else []
        descriptor = service if "+" in service else f"{service}+"
        return _spawn([*command, f"{user or 'DEFAULT'}:QUBESRPC {descriptor} dom0"], **kwargs)

    def _run_here(
        self, service: str, user: str | None, prefix_data: bytes | None, **kwargs: Value
    ) -> subprocess.Popen[bytes]:
        """Run a service of dom0 itself."""
        program, arg = Path(config.QREXEC_SERVICES_DIR, service), ""
        if not program.exists():
            name, _, arg = service.partition("+")
            program = Path(config.QREXEC_SERVICES_DIR, name)
        user = user or grp.getgrnam("qubes").gr_mem[0]
        env = os.environ | {"LC_ALL": "C"}
        process = _spawn(["sudo", "-u", user, str(program), arg], env=env, **kwargs)
        if prefix_data and process.stdin:
            process.stdin.write(prefix_data)
        return process

    def add_new_vm(  # noqa: PLR0913 - the library's API
        self,
        cls: str,
        name: str,
        label: object,
        template: object = None,
        pool: object = None,
        pools: dict[str, object] | None = None,
    ) -> QubesVM:
        """Create a qube.

        Args:
            cls: its class, such as AppVM.
            name: its name.
            label: its label.
            template: its template; None for the default one.
            pool: a pool for all its volumes.
            pools: a pool for each volume.
        """
        if " " in name:
            raise ValueError(f"Qube name could not contain space: {name}")
        if pool and pools:
            raise ValueError("only one of pool= and pools= can be used")
        words = [f"name={name}", f"label={label}", *([f"pool={pool}"] if pool else [])]
        words += [f"pool:{volume}={value}" for volume, value in sorted((pools or {}).items())]
        method = "CreateInPool" if pool or pools else "Create"
        self.qubesd_call(
            *("dom0", f"admin.vm.{method}.{cls}"),
            None if template is None else str(template),
            " ".join(words).encode(),
        )
        return self.domains[name]

    def clone_vm(  # noqa: PLR0913 - the library's API
        self,
        src_vm: str | QubesVM,
        new_name: str,
        new_cls: str | None = None,
        *,
        pool: object = None,
        pools: dict[str, object] | None = None,
        ignore_errors: bool = False,
        ignore_volumes: Iterable[str] = (),
        ignore_devices: bool = False,  # noqa: ARG002 - the library's API; there are no devices
    ) -> QubesVM:
        """Create a copy of a qube; a failed one is removed again. The app menus stay out."""
        source = self.domains[src_vm]
        template = getattr(source, "template", None)
        target = self.add_new_vm(
            new_cls or source.klass, new_name, source.label, template, pool, pools
        )
        try:
            self._clone_settings(source, target, ignore_errors)
            for name, volume in sorted(target.volumes.items()):
                if volume.save_on_stop and name not in (ignore_volumes or ()):
                    volume.clone(source.volumes[name])
        except exc.QubesException:
            del self.domains[new_name]
            raise
        return target

    def _clone_settings(self, source: QubesVM, target: QubesVM, ignore_errors: bool) -> None:
        steps: list[tuple[str, Value]] = []
        for name in source.property_list():
            if name not in NOT_CLONED and not source.property_is_default(name):
                steps.append((name, lambda name=name: _copy_property(source, target, name)))
        for tag in source.tags:
            if not tag.startswith("created-by-"):
                steps.append((tag, lambda tag=tag: target.tags.add(tag)))
        for name, value in source.features.items():
            steps.append(
                (name, lambda name=name, value=value: target.features.__setitem__(name, value))
            )
        steps.append(("notes", lambda: target.set_notes(source.get_notes())))
        steps.append(("firewall", lambda: target.firewall.save_rules(source.firewall.rules)))
        for what, step in steps:
            try:
                step()
            except exc.QubesException as error:
                target.log.error("Failed to set %s: %s", what, error)
                if not ignore_errors:
                    raise


def _spawn(argv: list[str], **kwargs: Value) -> subprocess.Popen[bytes]:
    return cast("subprocess.Popen[bytes]", subprocess.Popen(argv, **kwargs))


def _copy_property(source: QubesVM, target: QubesVM, name: str) -> None:
    try:
        setattr(target, name, getattr(source, name))
    except AttributeError:
        return


def _stderr_is_terminal() -> bool:
    try:
        return os.isatty(sys.stderr.fileno())
    except (io.UnsupportedOperation, AttributeError):
        return False
