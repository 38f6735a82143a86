# SPDX-License-Identifier: GPL-3.0-or-later
"""qvm-run; qubesadmin/tools/qvm_run.py (run_command_single, main)."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys

from qubesadmin.base import Value
from qubesadmin.tools import Tool, Usage, domain, parser
from qubesadmin.utils import encode_for_vmexec
from qubesadmin.vm import QubesVM

RED = 31


def qvm_run(app: Value, argv: list[str]) -> int:
    """Run a command or a service in qubes; the highest exit code of theirs."""
    args = _arguments(argv)
    verbose = args.verbose - args.quiet - (1 if args.passio else 0)
    if args.colour_output is None and args.passio and args.filter_esc:
        args.colour_output = RED
    if args.colour_stderr is None and args.passio and os.isatty(2):
        args.colour_stderr = RED
    code = 0
    processes = []
    _colour(args, start=True)
    try:
        for vm in _chosen(app, args):
            if not args.autostart and not vm.is_running():
                if verbose > 0:
                    print(f"Qube '{vm.name}' not started", file=sys.stderr)
                code = max(code, 1)
                continue
            if verbose > 0:
                print(f"Running '{args.cmd}' on {vm.name}", file=sys.stderr)
            processes += [(vm, process) for process in _start(args, vm)]
        for vm, process in processes:
            result = _wait(process)
            if result and verbose > 0:
                print(f"{vm.name}: command failed with code: {result}", file=sys.stderr)
            code = max(code, result)
    finally:
        _colour(args, start=False)
    return code


def _arguments(argv: list[str]) -> argparse.Namespace:
    options = parser("qvm-run", qvm_run.__doc__)
    options.add_argument("--user", "-u")
    options.add_argument("--autostart", "--auto", "-a", action="store_true", default=True)
    options.add_argument(
        "--no-autostart", "--no-auto", "-n", action="store_false", dest="autostart"
    )
    options.add_argument("--pass-io", "-p", action="store_true", dest="passio")
    options.add_argument("--localcmd", metavar="COMMAND")
    options.add_argument("--gui", action="store_true", help="no effect: the lab has no GUI")
    options.add_argument("--no-gui", "--nogui", action="store_false", dest="gui")
    for stream in ("output", "stderr"):
        for word in ("colour", "color"):
            options.add_argument(f"--{word}-{stream}", dest=f"colour_{stream}")
            options.add_argument(
                *(f"--no-{word}-{stream}",), dest=f"colour_{stream}", action="store_const", const=""
            )
    options.add_argument(
        *("--filter-escape-chars",), action="store_true", dest="filter_esc", default=os.isatty(1)
    )
    options.add_argument("--no-filter-escape-chars", action="store_false", dest="filter_esc")
    options.add_argument("--service", action="store_true")
    options.add_argument("--no-shell", action="store_true")
    options.add_argument("--all", action="store_true", dest="all_domains")
    options.add_argument("--exclude", action="append", default=[])
    options.add_argument("words", nargs=argparse.REMAINDER, metavar="VMNAME COMMAND [ARG...]")
    args = options.parse_args(argv)
    args.name = None if args.all_domains or not args.words else args.words.pop(0)
    if args.words[:1] == ["--"]:
        del args.words[0]
    if not args.words or (args.name is None and not args.all_domains):
        raise Usage("name a qube (or --all) and a command")
    args.cmd, *args.cmd_args = args.words
    if args.localcmd and not args.passio:
        raise Usage("--localcmd have no effect without --pass-io")
    if args.all_domains and args.passio and not args.localcmd:
        raise Usage("--pass-io cannot be used with --all and no --localcmd")
    if args.service and args.no_shell:
        raise Usage("--no-shell does not apply to --service")
    return args


def _chosen(app: Value, args: argparse.Namespace) -> list[QubesVM]:
    if not args.all_domains:
        return [domain(app, args.name)]
    left_out = {"dom0", *args.exclude}
    return [vm for vm in app.domains if vm.name not in left_out and vm.is_running()]


def _start(args: argparse.Namespace, vm: QubesVM) -> list[subprocess.Popen[bytes]]:
    """Start the service, and the local command that is its other end."""
    service, user, shell_command = _service(args, vm)
    options: dict[str, Value] = {}
    inner = {True: None, False: subprocess.DEVNULL}[args.passio]
    stdio = subprocess.PIPE if args.localcmd else inner
    options.update(stdin=stdio, stdout=stdio, stderr=inner)
    if args.passio and not args.localcmd and args.filter_esc:
        options["filter_esc"] = True
    if args.service and not args.passio:
        options["wait"] = False
    if shell_command is not None:
        options["prefix_data"] = vm.prepare_input_for_vmshell(shell_command)
    process = vm.run_service(service, user=user, **options)
    if not args.localcmd:
        return [process]
    assert process.stdin and process.stdout  # noqa: S101 - they are PIPE
    local = subprocess.Popen(
        ["/bin/sh", "-c", args.localcmd], stdin=process.stdout, stdout=process.stdin
    )
    process.stdin.close()
    process.stdout.close()
    return [process, local]


def _service(args: argparse.Namespace, vm: QubesVM) -> tuple[str, str | None, str | None]:
    """Return the service, its user, and the shell command to send to it."""
    if args.service:
        return args.cmd, args.user, None
    root = args.user == "root" and vm.features.check_with_template("supported-rpc.qubes.VMRootExec")
    user = None if root else args.user
    if args.cmd_args or args.no_shell:
        words = [args.cmd, *args.cmd_args]
        if vm.features.check_with_template("vmexec"):
            service = "qubes.VMRootExec" if root else "qubes.VMExec"
            return f"{service}+{encode_for_vmexec(words)}", user, None
        return "qubes.VMShell", args.user, shlex.join(words)
    return "qubes.VMRootShell" if root else "qubes.VMShell", user, args.cmd


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        return process.wait()


def _colour(args: argparse.Namespace, start: bool) -> None:
    for colour, stream in ((args.colour_output, sys.stdout), (args.colour_stderr, sys.stderr)):
        if colour:
            stream.write(f"\033[0;{colour}m" if start else "\033[0m")
            stream.flush()


TOOLS: dict[str, Tool] = {"qvm-run": qvm_run}
