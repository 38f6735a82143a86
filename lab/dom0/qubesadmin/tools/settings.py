# SPDX-License-Identifier: GPL-3.0-or-later
"""qvm-prefs, qubes-prefs, qvm-features, qvm-service, qvm-tags, qvm-firewall, qvm-volume."""

from __future__ import annotations

import argparse
from pathlib import Path

from qubesadmin import exc
from qubesadmin.base import PropertyHolder, Value
from qubesadmin.storage import Volume
from qubesadmin.tools import Tool, Usage, domain, parser, print_table
from qubesadmin.utils import parse_size

NONE_IS_EMPTY = ("default_dispvm", "netvm", "template", "guivm", "audiovm", "management_dispvm")
INFO = (
    *("pool", "vid", "rw", "source", "save_on_stop", "snap_on_start", "size", "usage"),
    *("revisions_to_keep", "ephemeral"),
)


def qvm_prefs(app: Value, argv: list[str]) -> int:
    """Show or set a qube's properties."""
    options = parser("qvm-prefs", qvm_prefs.__doc__)
    options.add_argument("name", metavar="VMNAME")
    args = _property_arguments(options, argv)
    return _properties(domain(app, args.name), args)


def qubes_prefs(app: Value, argv: list[str]) -> int:
    """Show or set the system's properties."""
    return _properties(app, _property_arguments(parser("qubes-prefs", qubes_prefs.__doc__), argv))


def _property_arguments(options: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    options.add_argument("--hide-default", action="store_true")
    options.add_argument("--get", "-g", action="store_true", help="no effect")
    options.add_argument("--set", "-s", action="store_true", help="no effect")
    options.add_argument("--default", "-D", action="store_true", dest="delete")
    options.add_argument("property", metavar="PROPERTY", nargs="?")
    options.add_argument("value", metavar="VALUE", nargs="?")
    return options.parse_args(argv)


def _properties(target: PropertyHolder, args: argparse.Namespace) -> int:
    if args.property is None:
        print_table(_property_rows(target, args.hide_default))
        return 0
    name = args.property.replace("-", "_")
    if name not in target.property_list():
        raise Usage(f"no such property: {name!r}")
    if args.value is not None:
        none = args.value.lower() == "none" and name in NONE_IS_EMPTY
        target.__setattr__(name, None if none else args.value)
    elif args.delete:
        target.__delattr__(name)
    elif not (args.hide_default and target.property_is_default(name)):
        # Through __getattr__: some properties, such as name, are attributes of the class too.
        value = target.__getattr__(name)
        if value is not None:
            print(value)
    return 0


def _property_rows(target: PropertyHolder, hide_default: bool) -> list[list[str]]:
    rows = []
    for name in sorted(target.property_list()):
        try:
            value = target.__getattr__(name)
        except AttributeError:
            rows.append([name, "U", ""])
            continue
        default = target.property_is_default(name)
        if not (default and hide_default):
            rows.append([name, "D" if default else "-", str(value)])
    return rows


def qvm_features(app: Value, argv: list[str]) -> int:
    """Show, set or remove a qube's features; 1 when the one asked for isn't set."""
    options = parser("qvm-features", qvm_features.__doc__)
    options.add_argument("name", metavar="VMNAME")
    options.add_argument("feature", metavar="FEATURE", nargs="?")
    options.add_argument("value", metavar="VALUE", nargs="?")
    options.add_argument("--unset", "--default", "--delete", "-D", action="store_true")
    args = options.parse_args(argv)
    features = domain(app, args.name).features
    if args.feature is None:
        print_table(features.items())
    elif args.unset:
        if args.feature in features:
            del features[args.feature]
    elif args.value is not None:
        features[args.feature] = args.value
    elif args.feature not in features:
        return 1
    else:
        print(features[args.feature])
    return 0


def qvm_service(app: Value, argv: list[str]) -> int:
    """Show, switch or unset a qube's services; 1 when the one asked for isn't set."""
    options = parser("qvm-service", qvm_service.__doc__)
    options.add_argument("name", metavar="VMNAME")
    options.add_argument("service", metavar="SERVICE", nargs="?")
    options.add_argument("value", metavar="VALUE", nargs="?")
    options.add_argument("--unset", "--default", "--delete", "-D", action="store_true")
    options.add_argument("--list", "-l", action="store_true")
    options.add_argument("--enable", "-e", dest="switch", action="store_const", const="on")
    options.add_argument("--disable", "-d", dest="switch", action="store_const", const="off")
    args = options.parse_args(argv)
    features = domain(app, args.name).features
    names = {"on": True, "1": True, "yes": True, "true": True} | dict.fromkeys(
        ("off", "0", "no", "false"), False
    )
    if args.service is None:
        services = ((key.removeprefix("service."), key, value) for key, value in features.items())
        print_table([short, "on" if on else "off"] for short, key, on in services if short != key)
        return 0
    feature, value = f"service.{args.service}", args.switch or args.value
    if args.unset:
        if feature in features:
            del features[feature]
    elif value is not None:
        if value.lower() not in names:
            raise exc.QubesValueError(f"Invalid literal for boolean value: {value!r}")
        features[feature] = names[value.lower()]
    elif feature not in features:
        return 1
    else:
        print("on" if features[feature] else "off")
    return 0


def qvm_tags(app: Value, argv: list[str]) -> int:
    """List, add or remove a qube's tags; 1 when the one asked for isn't there."""
    options = parser("qvm-tags", qvm_tags.__doc__)
    options.add_argument("name", metavar="VMNAME")
    options.add_argument("command", nargs="?", default="list")
    options.add_argument("tag", nargs="*")
    args = options.parse_args(argv)
    tags = domain(app, args.name).tags
    if args.command in ("list", "ls", "l"):
        present = sorted(tags)
        wanted = [tag for tag in present if tag in args.tag] if args.tag else present
        print("".join(f"{tag}\n" for tag in wanted), end="")
        return int(bool(args.tag) and not wanted)
    actions = {"add": tags.add, "a": tags.add, "set": tags.add}
    actions |= {"del": tags.discard, "d": tags.discard, "unset": tags.discard, "u": tags.discard}
    if args.command not in actions or not args.tag:
        raise Usage("use list [TAG], add TAG..., or del TAG...")
    for tag in args.tag:
        actions[args.command](tag)
    return 0


def qvm_firewall(app: Value, argv: list[str]) -> int:
    """List, add, remove or reset a qube's firewall rules, in the API's form."""
    options = parser("qvm-firewall", qvm_firewall.__doc__)
    options.add_argument("--raw", action="store_true", help="without numbers")
    options.add_argument("--reload", "-r", action="store_true")
    options.add_argument("name", metavar="VMNAME")
    commands = options.add_subparsers(dest="command")
    add = commands.add_parser("add")
    add.add_argument("--before", type=int)
    add.add_argument("rule", nargs="+", metavar="KEY=VALUE")
    remove = commands.add_parser("del")
    remove.add_argument("--rule-no", type=int, required=True)
    commands.add_parser("list")
    commands.add_parser("reset")
    args = options.parse_args(argv)
    firewall = domain(app, args.name).firewall
    rules = [str(rule) for rule in firewall.rules]
    if args.command == "add":
        words = [args.rule[0] if "=" in args.rule[0] else f"action={args.rule[0]}", *args.rule[1:]]
        rules.insert(len(rules) if args.before is None else args.before, " ".join(words))
    elif args.command == "del":
        if not 0 <= args.rule_no < len(rules):
            raise Usage(f"no such rule: {args.rule_no}")
        del rules[args.rule_no]
    elif args.command == "reset":
        rules = ["action=accept"]
    else:
        for number, rule in enumerate(rules):
            print(rule if args.raw else f"{number}  {rule}")
        if args.reload:
            firewall.reload()
        return 0
    firewall.save_rules(rules)
    return 0


def qvm_volume(app: Value, argv: list[str]) -> int:
    """List, describe, resize, configure or fill the volumes of qubes."""
    options = parser("qvm-volume", qvm_volume.__doc__)
    commands = options.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", aliases=["ls", "l"])
    listing.add_argument("names", metavar="VMNAME", nargs="*")
    info = commands.add_parser("info", aliases=["i"])
    resize = commands.add_parser("resize", aliases=["extend"])
    config = commands.add_parser("config", aliases=["set"])
    fill = commands.add_parser("import")
    for command in (info, resize, config, fill):
        command.add_argument("volume", metavar="VM:VOLUME")
    info.add_argument("property", nargs="?")
    resize.add_argument("size")
    config.add_argument("property", choices=["rw", "revisions_to_keep", "ephemeral"])
    config.add_argument("value")
    fill.add_argument("path", metavar="PATH")
    fill.add_argument("--no-resize", action="store_true")
    args = options.parse_args(argv)
    if args.command in ("list", "ls", "l"):
        _list_volumes(app, args.names)
        return 0
    volume = _volume(app, args.volume)
    if args.command in ("info", "i"):
        _show_volume(volume, args.property)
    elif args.command in ("resize", "extend"):
        volume.resize(parse_size(args.size))
    elif args.command in ("config", "set"):
        setattr(volume, args.property, args.value)
    else:
        _fill_volume(volume, Path(args.path), args.no_resize)
    return 0


def _volume(app: Value, text: str) -> Volume:
    name, colon, volume = text.partition(":")
    if not colon:
        raise Usage("expected a vm & volume combination like foo:bar")
    volumes = domain(app, name).volumes
    if volume not in volumes:
        raise exc.QubesException(f"vm {name!r} has no volume {volume!r}")
    return volumes[volume]


def _list_volumes(app: Value, names: list[str]) -> None:
    chosen = [domain(app, name) for name in names] if names else app.domains.values()
    rows = []
    for vm in chosen:
        for name, volume in vm.volumes.items():
            info = volume.info()
            revert = "Yes" if volume.revisions else "No"
            rows.append([f"{info['pool']}:{info['vid']}", vm.name, name, revert])
    print_table([["POOL:VOLUME", "VMNAME", "VOLUME_NAME", "REVERT_POSSIBLE"], *sorted(rows)])


def _show_volume(volume: Volume, only: str | None) -> None:
    if only == "revisions":
        print("".join(f"{revision}\n" for revision in volume.revisions), end="")
        return
    info = volume.info()
    if only is None:
        print_table([key, info[key]] for key in (*INFO, "is_outdated"))
        revisions = "".join(f"\n  {name}" for name in volume.revisions) or " none"
        print(f"List of available revisions (for revert):{revisions}")
    elif only in (*INFO, "is_outdated"):
        print(info[only])
    else:
        raise exc.StoragePoolException(f"No such property: {only}")


def _fill_volume(volume: Volume, path: Path, no_resize: bool) -> None:
    with path.open("rb") as stream:
        if no_resize:
            volume.import_data(stream)
        else:
            volume.import_data_with_size(stream, path.stat().st_size)


TOOLS: dict[str, Tool] = {
    "qvm-prefs": qvm_prefs,
    "qubes-prefs": qubes_prefs,
    "qvm-features": qvm_features,
    "qvm-service": qvm_service,
    "qvm-tags": qvm_tags,
    "qvm-firewall": qvm_firewall,
    "qvm-volume": qvm_volume,
}
