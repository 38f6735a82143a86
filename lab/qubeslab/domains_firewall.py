# SPDX-License-Identifier: GPL-3.0-or-later
"""A qube's firewall rules, in its folder's firewall.xml, in upstream's format.

Source: qubes-core-admin qubes/firewall.py (Rule.from_api_string, Rule.api_rule, Firewall.save).
Without the file, everything is accepted.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from .domains import write_synced
from .qubesd_exc import NoAnswer

DEFAULT = ["action=accept"]

Rule = dict[str, str]

_HOST = re.compile(r"[a-z0-9._-]+\Z")
_COMMENT = re.compile(r"[A-Za-z0-9:;,./_\[\] -]*\Z")
_NUMBER = re.compile(r"[0-9]{1,18}\Z")


def _choice(*allowed: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
        return value

    return check


def _address(value: str) -> str:
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError:
        if "/" in value or not _HOST.match(value):
            raise ValueError(f"{value!r} is neither an address nor a host name") from None
        return value
    return value if "/" in value else f"{value}/{interface.network.prefixlen}"


def _ports(value: str) -> str:
    first, dash, last = value.partition("-")
    if not _NUMBER.match(first) or (dash and not _NUMBER.match(last)):
        raise ValueError(f"bad ports {value!r}")
    low, high = int(first), int(last if dash else first)
    if not 0 <= low <= high < 65536:
        raise ValueError(f"bad ports {value!r}")
    return str(low) if low == high else f"{low}-{high}"


def _up_to(limit: int) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not _NUMBER.match(value) or int(value) > limit:
            raise ValueError(f"{value!r} is no number up to {limit}")
        return str(int(value))

    return check


def _comment(value: str) -> str:
    if not _COMMENT.match(value):
        raise ValueError("strange characters in the comment")
    return value


# In the order in which upstream prints them: by the `order` of its properties, the comment last.
_CHECKS: dict[str, Callable[[str], str]] = {
    "action": _choice("accept", "drop"),
    "expire": _up_to(2**40),
    "dsthost": _address,
    "proto": _choice("tcp", "udp", "icmp"),
    "specialtarget": _choice("dns"),
    "dstports": _ports,
    "icmptype": _up_to(255),
    "comment": _comment,
}
_ALIASES = {"dst4": "dsthost", "dst6": "dsthost", "dstname": "dsthost"}


def parse(line: str) -> Rule:
    """Read one rule in the API's form.

    Raises:
        NoAnswer: it isn't a rule; upstream's ValueError is unforeseen there.
    """
    options, mark, comment = line.partition("comment=")
    rule: Rule = {}
    try:
        for option in options.strip().split(" "):
            key, equals, value = option.partition("=")
            key = _ALIASES.get(key, key)
            if not equals or key not in _CHECKS:
                raise ValueError(f"unknown option {key!r}")
            if key in rule:
                raise ValueError(f"option {key!r} is set twice")
            rule[key] = _CHECKS[key](value)
        if mark:
            rule["comment"] = _comment(comment)
        _consistent(rule)
    except ValueError as error:
        raise NoAnswer(f"bad firewall rule {line!r}: {error}") from error
    return rule


def show(rule: Rule) -> str:
    """Return a rule in the API's form."""
    return " ".join(_option(key, rule[key]) for key in _CHECKS if key in rule)


def load(folder: Path) -> list[str]:
    """Return a qube's rules in the API's form, without those that expired."""
    path = folder / "firewall.xml"
    if not path.exists():
        return list(DEFAULT)
    # The file is ours or was restored through the API, so its rules were checked.
    tree = ElementTree.parse(path)  # noqa: S314
    rules = [
        {str(prop.get("name")): prop.text or "" for prop in node.iter("property")}
        for node in tree.iter("rule")
    ]
    now = time.time()
    return [show(rule) for rule in rules if int(rule.get("expire", now + 1)) > now]


def save(folder: Path, lines: list[str]) -> None:
    """Check rules in the API's form and keep them.

    Raises:
        NoAnswer: one of them isn't a rule.
    """
    rules = [parse(line) for line in lines]
    top = ElementTree.Element("firewall", version="2")
    group = ElementTree.SubElement(top, "rules")
    for rule in rules:
        properties = ElementTree.SubElement(ElementTree.SubElement(group, "rule"), "properties")
        for key, value in rule.items():
            ElementTree.SubElement(properties, "property", name=key).text = value
    ElementTree.indent(top)
    write_synced(folder / "firewall.xml", ElementTree.tostring(top, encoding="unicode") + "\n")


def _consistent(rule: Rule) -> None:
    if "action" not in rule:
        raise ValueError("no action")
    if "dstports" in rule and rule.get("proto") not in ("tcp", "udp"):
        raise ValueError("dstports is for proto tcp and udp")
    if "icmptype" in rule and rule.get("proto") != "icmp":
        raise ValueError("icmptype is for proto icmp")


def _option(key: str, value: str) -> str:
    if key == "dstports" and "-" not in value:
        value = f"{value}-{value}"
    if key == "dsthost" and "/" in value:
        key = "dst6" if ":" in value else "dst4"
    return f"{key}={value}"
