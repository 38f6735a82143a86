# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of its own for upstream's programs: mount, process and network namespaces.

They need /etc/qubes-release, /var/lib/qubes, a group `qubes` and so on, and a developer's machine
must not get those; nor must what such a machine has of them show through. So the root there is one
of its own, with this one's /usr and little else (inside/init.sh). /tmp is shared, and
`Machine.path` opens the rest from outside.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testing.paths import PROJECT

INIT = Path(__file__).parent / "inside/init.sh"


@dataclass(frozen=True)
class Machine:
    """A running machine.

    Attributes:
        pid: of its first process.
        environment: what programs in it get.
    """

    pid: int
    environment: Mapping[str, str]

    def path(self, inside: str) -> Path:
        """Return the path, from outside, of an absolute path in the machine."""
        return Path(f"/proc/{self.pid}/root", inside.lstrip("/"))

    def argv(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs argv in the machine, as root."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--root"]
        return [*enter, "--", "env", "--chdir=/", *map(str, argv)]

    def popen(self, *argv: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program in the machine; options are those of Popen."""
        return subprocess.Popen(self.argv(*argv), env=dict(self.environment), text=True, **options)

    def run(
        self, *argv: str | Path, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the machine and return its status and output.

        Raises:
            AssertionError: its status is not 0, and check.
        """
        options = {"capture_output": True, "text": True, "check": False} | options
        done = subprocess.run(self.argv(*argv), env=dict(self.environment), **options)  # noqa: PLW1510
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


def child_of(process: subprocess.Popen[str]) -> int:
    """Return the pid of the only child of unshare or nsenter."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


@contextlib.contextmanager
def machine(
    disk: Path,
    folders: list[Path],
    environment: Mapping[str, str],
    shared: Path,
    host: Path = Path("/"),
) -> Iterator[Machine]:
    """Start a machine.

    Args:
        disk: folder for what is too large for memory.
        folders: folders to show in it read-only, beside this checkout.
        environment: what programs in it get.
        shared: a folder that is the same inside and outside, writable, as disk is.
        host: a folder with what this machine is to have more, for tests of what shows through.
    """
    unshare = [
        "unshare",
        "--mount",
        "--pid",
        "--net",
        "--fork",
        "--kill-child",
        "--propagation=slave",
    ]
    arguments = [str(disk), str(shared), str(host), str(PROJECT), *map(str, folders)]
    process = subprocess.Popen(
        [*unshare, "sh", str(INIT), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        assert process.stdout.readline() == "ready\n", f"{INIT} failed; it needs root"
        yield Machine(child_of(process), environment)
    finally:
        process.stdin.close()
        process.wait()
