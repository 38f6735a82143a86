# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of qvm-backup-restore.

Stands in for qubes-core-admin-client qubesadmin/tools/qvm_backup_restore.py, with its options
(without --paranoid-mode), messages and exit codes: 0 done or declined, 1 failed, 2 usage. As with
upstream, 0 doesn't say that all data was restored: see restore/operation.py.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import qubesadmin
from qubesadmin.exc import QubesException

from .restore.choice import Choices, Problem, summary
from .restore.operation import Restore
from .restore.source import Source
from .system import problem

INSTALL_THEM = (
    "Install them before proceeding with the restore.Or pass: --skip-broken or --ignore-missing."
)

log = logging.getLogger("app")


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(prog="qvm-backup-restore")
    add = parser.add_argument
    add("--verbose", "-v", action="count", default=1, help="increase verbosity")
    add("--quiet", "-q", action="count", default=0, help="decrease verbosity")
    add("--verify-only", action="store_true", help="verify integrity, restore nothing")
    add("--skip-broken", action="store_true", help="leave out VMs without template or netvm")
    add("--ignore-missing", action="store_true", help="use defaults for what is missing")
    add("--skip-conflicting", action="store_true", help="leave out VMs that exist already")
    add("--rename-conflicting", action="store_true", help="give new names to such VMs")
    add("-x", "--exclude", action="append", default=[], metavar="VM", help="leave a VM out")
    add("--skip-dom0-home", action="store_false", dest="dom0_home")
    add("--ignore-username-mismatch", action="store_true")
    add("--ignore-size-limit", action="store_true", help="accept more data than announced")
    add("--compression-filter", "-Z", dest="compression", metavar="PROGRAM")
    add("-d", "--dest-vm", dest="appvm", metavar="VM", help="the qube that has the backup")
    add("-p", "--passphrase-file", dest="pass_file", metavar="FILE", help="- is stdin")
    add("--location-is-service", action="store_true", help="needs -d")
    add("backup_location", help="backup file, or command to pipe from")
    add("vms", nargs="*", help="restore only those VMs")
    return parser


def enable_log(verbosity: int) -> None:
    """Log to stderr as `name: message` (qubesadmin/log.py)."""
    if verbosity < 1:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)


def _conflicting(args: argparse.Namespace) -> None:
    log.error("*** There are VMs with conflicting names on the host! ***")
    if not args.skip_conflicting:
        raise problem(
            "Remove VMs with conflicting names from the host before proceeding.\n"
            "Or use --skip-conflicting to restore only those VMs that do not exist on the host.\n"
            "Or use --rename-conflicting to restore those VMs under modified names (with numbers "
            "at the end)."
        )
    log.error("Those VMs will not be restored. The host VMs will NOT be overwritten.")


def _missing(args: argparse.Namespace, what: str) -> None:
    log.warning("*** One or more %s are missing on the host! ***", what)
    if args.skip_broken:
        log.warning(
            "Skipping broken entries: VMs that depend on missing %s will NOT be restored.", what
        )
    elif args.ignore_missing:
        log.warning(
            "Ignoring missing entries: VMs that depend on missing %s will have default value "
            "assigned.",
            what,
        )
    else:
        raise problem(INSTALL_THEM)


def _dom0_home(args: argparse.Namespace, mismatch: bool) -> None:
    if mismatch:
        log.warning("*** Dom0 username mismatch! This can break some settings! ***")
        if not args.ignore_username_mismatch:
            raise problem(
                "Skip restoring the dom0 home directory (--skip-dom0-home), or pass "
                "--ignore-username-mismatch to continue anyway."
            )
        log.warning("Continuing as directed.")
    log.warning(
        "NOTE: The archived dom0 home directory will be restored to a new directory "
        "'home-restore-<current-time>' created inside the dom0 home directory. Restored files "
        "should be copied or moved out of the new directory before using them."
    )


def report_problems(args: argparse.Namespace, choices: Choices) -> None:
    """Tell what is in the way (handle_broken).

    Raises:
        QubesException: the user must decide first.
    """
    problems: set[Problem] = set()
    for choice in choices.values():
        if Problem.EXCLUDED not in choice.problems:
            problems |= choice.problems
    if Problem.ALREADY_EXISTS in problems:
        _conflicting(args)
    if args.verify_only:
        log.info("The above VM archive(s) will be verified.")
        log.info("Existing VMs will NOT be removed or altered.")
    else:
        log.info("The above VMs will be copied and added to your system.")
        log.info("Existing VMs will NOT be removed.")
    if Problem.MISSING_TEMPLATE in problems:
        _missing(args, "TemplateVMs")
    if Problem.MISSING_NETVM in problems:
        _missing(args, "NetVMs")
    if "dom0" in choices and args.dom0_home and not args.verify_only:
        _dom0_home(args, Problem.USERNAME_MISMATCH in problems)


def read_passphrase(file: str | None) -> str:
    """Return the passphrase from a file's first line, from stdin ("-"), or asked for."""
    if file == "-":
        return sys.stdin.readline().rstrip()
    if file is not None:
        with Path(file).open(encoding="utf-8") as handle:
            return handle.readline().rstrip()
    return getpass.getpass(
        "Please enter the passphrase to verify and (if encrypted) decrypt the backup: "
    )


def restore(app: qubesadmin.Qubes, args: argparse.Namespace, source: Source) -> int:
    """Do the work and return the exit code.

    Raises:
        QubesException, OSError: it failed.
    """
    passphrase = read_passphrase(args.pass_file)
    log.info("Checking backup content...")
    operation = Restore(app, source, passphrase, args.compression)
    try:
        options = operation.options
        options.use_default_template = options.use_default_netvm = args.ignore_missing
        options.rename_conflicting = args.rename_conflicting
        options.dom0_home = args.dom0_home
        options.ignore_username_mismatch = args.ignore_username_mismatch
        options.ignore_size_limit = args.ignore_size_limit
        options.exclude = list(args.exclude)
        options.verify_only = args.verify_only
        choices = operation.choose()
        if args.vms:
            options.exclude += [name for name in choices if name not in args.vms]
            operation.verify(choices)
        print(summary(choices), flush=True)
        report_problems(args, choices)
        if args.pass_file is None and input("Do you want to proceed? [y/N] ").upper() != "Y":
            return 0
        operation.run(choices)
    finally:
        operation.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    enable_log(args.verbose - args.quiet)
    app = qubesadmin.Qubes()
    try:
        qube = None
        if args.appvm and args.appvm != "dom0":
            if args.appvm not in app.domains:
                parser.error(f"no such domain: {args.appvm!r}")
            qube = app.domains[args.appvm]
        if args.location_is_service and not args.appvm:
            parser.error("--location-is-service option requires -d")
        source = Source(args.backup_location, qube, args.location_is_service)
        return restore(app, args, source)
    except (QubesException, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
