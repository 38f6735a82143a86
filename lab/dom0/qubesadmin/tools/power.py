# SPDX-License-Identifier: GPL-3.0-or-later
"""qvm-start, qvm-shutdown, qvm-kill, qvm-check."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from qubesadmin import exc
from qubesadmin.base import Value
from qubesadmin.tools import Tool, add_domains, domains, parser
from qubesadmin.vm import QubesVM


def qvm_start(app: Value, argv: list[str]) -> int:
    """Start qubes."""
    options = parser("qvm-start", qvm_start.__doc__)
    options.add_argument("--skip-if-running", action="store_true")
    add_domains(options)
    args = options.parse_args(argv)

    def start(vm: QubesVM) -> None:
        if vm.is_running():
            if not args.skip_if_running:
                raise exc.QubesVMAlreadyStartedError("Domain is already running")
            return
        vm.start()

    return int(bool(_each(domains(app, args), start, "Starting qube failed")))


def qvm_shutdown(app: Value, argv: list[str]) -> int:
    """Shut qubes down."""
    options = parser("qvm-shutdown", qvm_shutdown.__doc__)
    options.add_argument("--wait", action="store_true", help="wait until they are off")
    options.add_argument("--timeout", help="deprecated: same as --wait")
    options.add_argument("--force", action="store_true")
    options.add_argument("--dry-run", action="store_true")
    add_domains(options)
    args = options.parse_args(argv)
    force = args.force or (args.all_domains and not args.exclude)

    def shutdown(vm: QubesVM) -> None:
        with contextlib.suppress(exc.QubesVMNotStartedError):
            vm.shutdown(force=force, wait=args.wait or bool(args.timeout))

    chosen = domains(app, args)
    return 0 if args.dry_run else _each(chosen, shutdown, "Failed to shut down")


def qvm_kill(app: Value, argv: list[str]) -> int:
    """Power qubes off."""
    options = parser("qvm-kill", qvm_kill.__doc__)
    add_domains(options)

    def kill(vm: QubesVM) -> None:
        with contextlib.suppress(exc.QubesVMNotStartedError):
            vm.kill()

    return _each(domains(app, options.parse_args(argv)), kill, "Failed to kill")


def qvm_check(app: Value, argv: list[str]) -> int:
    """Tell whether qubes exist, or run; 0 all, 1 none, 3 some of them."""
    options = parser("qvm-check", qvm_check.__doc__)
    options.add_argument("--running", action="store_true")
    options.add_argument("--paused", action="store_true")
    options.add_argument("--template", action="store_true")
    add_domains(options)
    args = options.parse_args(argv)
    known = set(app.domains.keys())
    names = sorted(known - {"dom0", *args.exclude}) if args.all_domains else args.names
    found = [app.domains.get_blind(name) for name in names if name in known]
    good = [vm for vm in found if _is(vm, args.running, args.paused, args.template)]
    wanted = [what for what in ("running", "paused", "template") if getattr(args, what)]
    if not good and wanted:
        print(f"qvm-check: None of qubes: {', '.join(wanted)}", file=sys.stderr)
    for vm in sorted(good):
        print(f"qvm-check: {vm.name}: {', '.join(wanted) or 'exists'}", file=sys.stderr)
    for name in names:
        if name not in known:
            print(f"qvm-check: {name}: non-existent!", file=sys.stderr)
    if len(found) != len(names) or not good:
        return 1
    return 0 if len(good) == len(found) else 3


def _is(vm: QubesVM, running: bool, paused: bool, template: bool) -> bool:
    return (
        (not running or vm.is_running())
        and (not paused or vm.is_paused())
        and (not template or vm.klass == "TemplateVM")
    )


def _each(chosen: list[QubesVM], action: Callable[[QubesVM], None], message: str) -> int:
    """Do something with each qube and return how many times it failed."""
    failures = 0
    for vm in chosen:
        try:
            action(vm)
        except exc.QubesException as error:
            failures += 1
            print(f"Error: {message}: {vm.name}: {error}", file=sys.stderr)
    return failures


TOOLS: dict[str, Tool] = {
    "qvm-start": qvm_start,
    "qvm-shutdown": qvm_shutdown,
    "qvm-kill": qvm_kill,
    "qvm-check": qvm_check,
}
