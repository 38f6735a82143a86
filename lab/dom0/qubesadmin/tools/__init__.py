# SPDX-License-Identifier: GPL-3.0-or-later
"""The qvm-* commands of dom0: the options that are used here, named and behaving as upstream's.

All of them are links to one program, which calls `main`; upstream has a module for each in
qubes-core-admin-client qubesadmin/tools/.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import qubesadmin
from qubesadmin import exc
from qubesadmin.base import Value
from qubesadmin.vm import QubesVM

Tool = Callable[[Value, list[str]], int]


class Usage(Exception):  # noqa: N818 - becomes a message
    """The command line names something that isn't there."""


def main(argv: list[str]) -> int:
    """Run the command that the program was called as, and return its exit code."""
    from qubesadmin.tools import power, qubes, run, settings  # noqa: PLC0415 - they import this

    name = Path(argv[0]).name
    tools: dict[str, Tool] = power.TOOLS | qubes.TOOLS | run.TOOLS | settings.TOOLS
    if name not in tools:
        print(f"{name}: the lab doesn't have this command", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.INFO)
    try:
        return tools[name](qubesadmin.Qubes(), argv[1:])
    except Usage as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except (exc.QubesException, exc.ProtocolError, exc.PermissionDenied, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser for a command."""
    result = argparse.ArgumentParser(prog=name, description=(doc or "").splitlines()[0])
    result.add_argument("--verbose", "-v", action="count", default=1)
    result.add_argument("--quiet", "-q", action="count", default=0)
    return result


def domain(app: Value, name: str) -> QubesVM:
    """Return a qube.

    Raises:
        Usage: there is none with this name.
    """
    if name not in app.domains:
        raise Usage(f"no such domain: {name!r}")
    found: QubesVM = app.domains.get_blind(name)
    return found


def add_domains(target: argparse.ArgumentParser) -> None:
    """Add VMNAME..., --all and --exclude."""
    target.add_argument("names", metavar="VMNAME", nargs="*")
    target.add_argument("--all", action="store_true", dest="all_domains")
    target.add_argument("--exclude", action="append", default=[])


def domains(app: Value, args: argparse.Namespace) -> list[QubesVM]:
    """Return what `add_domains`' options name; --all leaves dom0 out."""
    if args.all_domains:
        left_out = {"dom0", *args.exclude}
        return [vm for vm in app.domains if vm.name not in left_out]
    if not args.names:
        raise Usage("name a qube, or use --all")
    return [domain(app, name) for name in args.names]


def print_table(rows: Iterable[Iterable[str]]) -> None:
    """Print columns."""
    table = [list(row) for row in rows]
    if not table:
        return
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
