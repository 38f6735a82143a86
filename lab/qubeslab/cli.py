# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: a stand-in Qubes OS in podman containers, to try, test and show the real programs in.

Which lab is meant says the environment variable LAB_NAME (default: default). Its state is in
.lab/NAME of the checkout. Exit codes: 0 done, 1 failed, 2 usage; `run` gives the command's own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import disks, images, setup
from .containers import Containers
from .paths import BASE_TEMPLATE, DOM0, LabError, LabPaths


def say(text: str) -> None:
    """Print a progress line."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def up(paths: LabPaths, args: argparse.Namespace) -> int:
    """Make the lab if it isn't there, and start it."""
    dom0 = images.DOM0_IMAGES[args.suite]
    images.ensure((dom0,) if args.dom0_only else (dom0, images.TEMPLATE_IMAGE))
    containers = Containers(paths.state)
    if containers.is_running(DOM0):
        say(f"{paths.state.name} is up already")
        return 0
    if not paths.dom0_image.exists():
        setup.create(paths, containers, dom0, with_template=not args.dom0_only)
    setup.start(paths, containers, dom0, with_daemon=not args.dom0_only)
    say(f"{paths.state.name} is up; dom0: lab/lab shell dom0")
    return 0


def build(_paths: LabPaths, args: argparse.Namespace) -> int:
    """Make the images that aren't there, and nothing else; of another release only dom0's."""
    dom0 = images.DOM0_IMAGES[args.suite]
    images.ensure((dom0, images.TEMPLATE_IMAGE) if args.suite == images.SUITE else (dom0,))
    return 0


def down(paths: LabPaths, args: argparse.Namespace) -> int:
    """Stop all qubes and dom0; with --destroy, remove the lab's state too."""
    setup.stop(paths, Containers(paths.state))
    if args.destroy and paths.state.exists():
        shutil.rmtree(paths.state)
        say(f"{paths.state.name} is gone")
    return 0


def status(paths: LabPaths, _args: argparse.Namespace) -> int:
    """Print what runs; 1 when dom0 or the daemon doesn't."""
    containers = Containers(paths.state)
    running = containers.running()
    died = [
        record.stem for record in sorted(paths.records.glob("*.json")) if record.stem not in running
    ]
    daemon = setup.daemon_is_running(paths)
    print(f"lab      {paths.state.name} ({paths.state})")
    print(f"daemon   {'running' if daemon else 'not running'}")
    print(f"running  {' '.join(running) or 'nothing'}")
    if died:
        print(f"died     {' '.join(died)}: start again, or `lab down` and `lab up`")
    return 0 if DOM0 in running and daemon and not died else 1


def shell(paths: LabPaths, args: argparse.Namespace) -> int:
    """Open a shell in a running qube."""
    args.command = ["/bin/bash", "-l"]
    return run_command(paths, args)


def run_command(paths: LabPaths, args: argparse.Namespace) -> int:
    """Run a command in a running qube and return its exit code."""
    prefix = Containers(paths.state).enter(args.qube, args.user)
    command = list(args.command)
    if os.isatty(0) and os.isatty(1):
        term = os.environ.get("TERM", "dumb")
        command = ["/usr/bin/script", "-qec", shlex.join(command), "/dev/null"]
        command = ["/usr/bin/env", f"TERM={term}", *command]
    return subprocess.run([*prefix, *command], check=False).returncode


def add_qube(paths: LabPaths, args: argparse.Namespace) -> int:
    """Create an app qube whose home holds a copy of a folder's files."""
    containers = Containers(paths.state)
    source = Path(args.data).resolve()
    if not source.is_dir():
        raise LabError(f"--data {args.data}: no such folder")
    setup.add_qube(containers, args.name, args.template, source, args.size)
    return 0


def attach_disk(paths: LabPaths, args: argparse.Namespace) -> int:
    """Attach an image file with a file system to a running qube, and print its device there."""
    print(disks.attach(*_disk(paths, args)))
    return 0


def detach_disk(paths: LabPaths, args: argparse.Namespace) -> int:
    """Take an attached image file away from a qube."""
    disks.detach(*_disk(paths, args))
    return 0


def _disk(paths: LabPaths, args: argparse.Namespace) -> tuple[Path, list[str], Path]:
    if args.qube == DOM0:
        raise LabError("a disk can be attached to a qube, not to dom0")
    enter = Containers(paths.state).enter(args.qube, "root")
    return paths.disks(args.qube), enter, Path(args.image).resolve()


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="lab", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add_suite(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--suite",
            choices=images.DOM0_IMAGES,
            default=images.SUITE,
            help=f"the Debian release that dom0 is made of (default: {images.SUITE})",
        )

    def add(
        name: str, function: Callable[[LabPaths, argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        summary = (function.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(function=function)
        return command

    command = add("up", up)
    command.add_argument("--dom0-only", action="store_true", help="no qubes and no daemon")
    add_suite(command)
    command = add("build", build)
    add_suite(command)
    command = add("down", down)
    command.add_argument("--destroy", action="store_true", help="remove all of the lab's state")
    add("status", status)
    for name, function in (("shell", shell), ("run", run_command)):
        command = add(name, function)
        command.add_argument("--user", default="user", help="run as this user (default: user)")
        command.add_argument("qube", metavar="QUBE", help="dom0 or a running qube")
    command.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER)
    command = add("add-qube", add_qube)
    command.add_argument("name", metavar="NAME")
    command.add_argument("--data", metavar="DIR", required=True, help="what its home shall hold")
    command.add_argument("--template", default=BASE_TEMPLATE)
    command.add_argument("--size", default="", help="of its private volume, as 500M; default: 2G")
    for name, function in (("attach-disk", attach_disk), ("detach-disk", detach_disk)):
        command = add(name, function)
        command.add_argument("qube", metavar="QUBE", help="a running qube")
        command.add_argument("image", metavar="FILE", help="an image with a file system")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the lab's command line and return the exit code."""
    args = parser().parse_args(argv)
    try:
        paths = LabPaths.named(os.environ.get("LAB_NAME", "default"))
        return int(args.function(paths, args))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
