# SPDX-License-Identifier: GPL-3.0-or-later
"""A storage qube in a folder, and a backup qube's store that reaches it.

Between them stands a program named qrexec-client-vm that starts the service as qrexec does:
qubes-core-qrexec lib/qubes-rpc-multiplexer (service and argument) and agent/qrexec-client-vm.c (a
third argument would be a local program; when it is killed, the service, in another qube, only loses
its streams).
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testing import paths
from testing.store.driver import Store

PAYLOAD = paths.PAYLOAD / "server"
QUBE = "sys-storage"
ENGINES = Path(sys.prefix) / "bin"  # borg and rclone of requirements-tests.txt


def safe_borg() -> Path:
    """Give the borg of PATH; for Debian 12's, which is refused, that of requirements-tests.txt."""
    found = Path(shutil.which("borg") or "")
    return ENGINES / "borg" if found.parent in (Path(), Path("/usr/bin"), Path("/bin")) else found


@dataclass
class StorageQube:
    """A storage qube: its files, its services, and the way to them."""

    folder: Path
    prefix: tuple[str, ...] = ()  # what its services are started with

    def __post_init__(self) -> None:
        """Lay it out; its rclone is Debian's."""
        for name in ("config", "data", "run", "home", "rpc", "bin", "engines"):
            (self.folder / name).mkdir()
        self.use("borg", safe_borg())
        self.use("rclone", Path("/usr/bin/rclone"))
        for service in (PAYLOAD / "rpc").iterdir():
            text = service.read_text().replace("/usr/lib/qubes-dedup-backup", str(PAYLOAD))
            copy = self.folder / "rpc" / service.name
            copy.write_text(text)
            copy.chmod(0o755)
        client = self.folder / "bin" / "qrexec-client-vm"
        client.write_text(
            '#!/bin/bash\n[ "$#" = 2 ] || exit 125\n'
            f'echo "$1 $2" >>{self.folder}/calls\n'
            f'[ "$1" = {QUBE} ] || {{ echo "Request refused" >&2; exit 126; }}\n'
            # the streams end with this program, however that ends, as the engine may live on
            'relay=(setpriv --pdeathsig KILL cat)\nexec 3<&0 4> >(exec "${relay[@]}")\nout=$!\n'
            f"{' '.join(self.prefix)} {self._call('dedup-backup')}"
            f' "{self.folder}/rpc/${{2%%+*}}" "${{2#*+}}"'
            ' < <(exec "${relay[@]}" <&3 4>&-) >&4 3<&- 4>&- &\n'
            "exec 3<&-\nwait $!\ncode=$?\nexec 4>&-\nwait $out\nexit $code\n"
        )
        client.chmod(0o755)

    def _call(self, caller: str) -> str:
        variables = self.environment | {"QREXEC_REMOTE_DOMAIN": caller}
        return "env -i " + " ".join(f"'{key}={value}'" for key, value in variables.items())

    @property
    def path(self) -> str:
        """Where programs are."""
        return f"{self.folder}/engines:{os.environ['PATH']}"

    def use(self, name: str, program: Path) -> None:
        """Choose the program of a name."""
        link = self.folder / "engines" / name
        link.unlink(missing_ok=True)
        link.symlink_to(program)

    def use_version(self, name: str, line: str) -> None:
        """Put a program there that can only tell its version; `$*` is what it is told."""
        link = self.folder / "engines" / name
        link.unlink(missing_ok=True)
        link.write_text(f'#!/bin/sh\necho "{line}"\n')
        link.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs in it."""
        return {
            "PATH": self.path,
            "HOME": str(self.folder / "home"),
            "DEDUP_SERVER_CONFIG_DIR": str(self.folder / "config"),
            "DEDUP_SERVER_RUN_DIR": str(self.folder / "run"),
        }

    @property
    def data(self) -> Path:
        """The folder that holds the repositories."""
        return self.folder / "data"

    def configure(self, name: str, engine: str, **settings: object) -> None:
        """Offer a repository."""
        values = {"engine": engine, "place": str(self.data), "reserve_mib": 1} | settings
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        (self.folder / "config" / f"{name}.toml").write_text(text)

    def start(
        self, service: str, argument: str, *, caller: str = "dedup-backup"
    ) -> subprocess.Popen[bytes]:
        """Call a service."""
        return subprocess.Popen(
            [*self.prefix, self.folder / "rpc" / service, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment | {"QREXEC_REMOTE_DOMAIN": caller},
        )

    def call(
        self,
        service: str,
        argument: str,
        data: bytes = b"",
        **more: Any,  # noqa: ANN401
    ) -> subprocess.CompletedProcess[bytes]:
        """Call a service, send data, and wait for its end."""
        with self.start(service, argument, **more) as process:
            out, errors = process.communicate(data)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run dedup-server in it."""
        command: list[str | Path] = [PAYLOAD / "dedup-server", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment
        )


@dataclass
class QrexecStore(Store):
    """A store whose repository is in a storage qube."""

    qube: StorageQube | None = None
    name: str = ""

    @property
    def files(self) -> Path:
        """In the storage qube."""
        assert self.qube is not None
        return self.qube.data / self.name

    @property
    def environment(self) -> dict[str, str]:
        """With the way to the storage qube."""
        assert self.qube is not None
        return super().environment | {"PATH": f"{self.qube.folder}/bin:{self.qube.path}"}

    def configure(self, **settings: object) -> None:
        """Write the configuration."""
        super().configure(**{"location": f"qrexec:{QUBE}/{self.name}"} | settings)

    def engine_itself(
        self, *arguments: str, service: str = "Repository", data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the engine with all that the backup qube holds: it may be hostile."""
        wrapper = paths.PAYLOAD / "qube" / "dedup_store" / "qrexec-call"
        call = f"{wrapper} {QUBE} dedupbackup.{service}+{self.engine}+{self.name}"
        password = self.password.read_text().strip()
        if self.engine == "restic":
            variables = {"RESTIC_REPOSITORY": "rclone:x", "RESTIC_PASSWORD": password}
            argv = ["restic", "-o", f"rclone.program={call}", *arguments]
        else:
            variables = {"BORG_REPO": f"ssh://{QUBE}/./{self.name}", "BORG_RSH": call}
            variables |= {"BORG_PASSPHRASE": password, "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES"}
            variables |= {"BORG_DELETE_I_KNOW_WHAT_I_AM_DOING": "YES"}
            argv = ["borg", *arguments]
        return subprocess.run(
            argv, input=data, capture_output=True, check=False, env=self.environment | variables
        )


def make_store(folder: Path, qube: StorageQube, engine: str, name: str = "main") -> QrexecStore:
    """Make a repository in the storage qube, through the service."""
    folder.mkdir()
    qube.configure(name, engine)
    store = QrexecStore(folder, engine, qube, name)
    store.configure()
    store.make()
    return store
