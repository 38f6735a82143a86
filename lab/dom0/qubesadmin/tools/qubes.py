# SPDX-License-Identifier: GPL-3.0-or-later
"""qvm-ls, qvm-create, qvm-clone, qvm-remove."""

from __future__ import annotations

import argparse
import sys

from qubesadmin import exc
from qubesadmin.base import Value
from qubesadmin.tools import Tool, Usage, add_domains, domain, domains, parser, print_table
from qubesadmin.vm import QubesVM

COLUMNS = ("NAME", "STATE", "CLASS", "LABEL", "TEMPLATE", "NETVM")


def qvm_ls(app: Value, argv: list[str]) -> int:
    """List qubes."""
    options = parser("qvm-ls", qvm_ls.__doc__)
    options.add_argument("--raw-data", action="store_true", help="fields joined by |")
    options.add_argument("--raw-list", action="store_true", help="names only")
    options.add_argument("--fields", "-O", metavar="FIELD,...")
    options.add_argument("--running", action="store_true")
    options.add_argument("--class", dest="klass", nargs="+")
    options.add_argument("--tags", nargs="+")
    add_domains(options)
    args = options.parse_args(argv)
    if args.names:
        chosen = domains(app, args)
    else:  # --all lists dom0 too, unlike any other command's
        chosen = [vm for vm in app.domains.values() if vm.name not in args.exclude]
    columns = tuple(args.fields.upper().split(",")) if args.fields else COLUMNS
    if args.raw_list:
        columns = ("NAME",)
    rows = [[_cell(vm, column) for column in columns] for vm in chosen if _wanted(vm, args)]
    if args.raw_list or args.raw_data:
        for row in rows:
            print("|".join(row))
    else:
        print_table([columns, *rows])
    return 0


def _wanted(vm: QubesVM, args: argparse.Namespace) -> bool:
    return (
        (not args.running or vm.is_running())
        and (not args.klass or vm.klass in args.klass)
        and (not args.tags or any(tag in vm.tags for tag in args.tags))
    )


def _cell(vm: QubesVM, column: str) -> str:
    if column == "STATE":
        return vm.get_power_state()
    if column == "CLASS":
        return vm.klass
    if column == "MEMORY":
        return str(vm.get_mem() // 1024) if vm.is_running() else "-"
    value = getattr(vm, column.lower(), None)
    return "-" if value in (None, "") else str(value)


def qvm_create(app: Value, argv: list[str]) -> int:
    """Create a qube."""
    options = parser("qvm-create", qvm_create.__doc__)
    options.add_argument("--class", "-C", dest="cls", default="AppVM")
    options.add_argument("--standalone", dest="cls", action="store_const", const="StandaloneVM")
    options.add_argument("--property", "--prop", action="append", default=[], metavar="NAME=VALUE")
    options.add_argument("--template", "-t")
    options.add_argument("--label", "-l", required=True)
    options.add_argument("-P", dest="pool")
    options.add_argument("name", metavar="VMNAME")
    args = options.parse_args(argv)
    properties = dict(text.partition("=")[::2] for text in args.property)
    if args.label not in app.labels:
        raise Usage(f"no such label: {args.label!r}; available: {', '.join(app.labels)}")
    if args.cls == "StandaloneVM" and args.template:
        vm = app.clone_vm(
            args.template, args.name, args.cls, pool=args.pool, ignore_volumes=("private",)
        )
        vm.label = args.label
    else:
        vm = app.add_new_vm(args.cls, args.name, args.label, args.template, args.pool)
    code = 0
    for name, value in properties.items():
        try:
            setattr(vm, name, value)
        except exc.QubesException as error:
            print(f"Error setting property {name} (but VM created): {error}", file=sys.stderr)
            code = 2
    return code


def qvm_clone(app: Value, argv: list[str]) -> int:
    """Copy a qube."""
    options = parser("qvm-clone", qvm_clone.__doc__)
    options.add_argument("source", metavar="VMNAME")
    options.add_argument("new_name", metavar="NEWVM")
    options.add_argument("--class", "-C", dest="cls")
    options.add_argument("--ignore-errors", action="store_true")
    options.add_argument("-P", dest="pool")
    args = options.parse_args(argv)
    source = domain(app, args.source)
    app.clone_vm(source, args.new_name, args.cls, pool=args.pool, ignore_errors=args.ignore_errors)
    return 0


def qvm_remove(app: Value, argv: list[str]) -> int:
    """Remove halted qubes and their data."""
    options = parser("qvm-remove", qvm_remove.__doc__)
    options.add_argument("--force", "-f", action="store_true", help="don't ask")
    add_domains(options)
    args = options.parse_args(argv)
    chosen = domains(app, args)
    if not args.force:
        print("This will completely remove the selected VM(s)...", file=sys.stderr)
        print("".join(f"  {vm.name}\n" for vm in chosen), end="")
        if input("Are you sure? [y/N] ").upper() != "Y":
            print("Remove cancelled.", file=sys.stderr)
            return 1
    for vm in chosen:
        del app.domains[vm.name]
    return 0


TOOLS: dict[str, Tool] = {
    "qvm-ls": qvm_ls,
    "qvm-create": qvm_create,
    "qvm-clone": qvm_clone,
    "qvm-remove": qvm_remove,
}
