# SPDX-License-Identifier: GPL-3.0-or-later
"""qrexec policy: read the rules, strictly, and decide about a call.

Source: qubes-core-qrexec qrexec/policy/parser.py (VMToken and its children, Rule.from_line,
AbstractParser.load_policy_file, Allow.evaluate, Ask.evaluate, AllowResolution.execute).
"""

from __future__ import annotations

import logging
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

log = logging.getLogger("policy")

Domains = dict[str, dict[str, Any]]
Role = Literal["source", "target", "redirect", "intended"]

DOM0_NAMES = ("@adminvm", "dom0", "uuid:00000000-0000-0000-0000-000000000000")
CALL_CHARACTERS = frozenset(string.ascii_letters + string.digits + "+_.-")
INCLUDE_DEPTH_MAX = 20

# Which token may stand where.
_RULE: tuple[Role, ...] = ("source", "target")
_ANYWHERE: tuple[Role, ...] = ("source", "target", "redirect", "intended")
_EXACT: dict[str, tuple[Role, ...]] = {
    "*": _RULE,
    "@adminvm": _ANYWHERE,
    "@anyvm": _RULE,
    "@default": ("target", "intended"),
    "@dispvm": ("target", "redirect", "intended"),
}
_PREFIXES: dict[str, tuple[Role, ...]] = {
    "@type:": _RULE,
    "@tag:": _RULE,
    "@dispvm:": _ANYWHERE,
    "@dispvm:@tag:": _RULE,
}
_PARAMETERS = {
    "allow": {"target", "user", "notify", "autostart"},
    "ask": {"target", "default_target", "user", "notify", "autostart"},
    "deny": {"notify"},
}


class PolicySyntaxError(Exception):
    """A policy file has an error; every call is denied until it is mended."""


class Denied(Exception):  # noqa: N818 - an answer, not an error
    """The call isn't allowed; with the reason, for dom0's eyes only."""


@dataclass(frozen=True)
class Rule:
    """One line of policy.

    Attributes:
        service: None for any.
        argument: starts with "+"; None for any.
        source: a token.
        target: a token.
        action: allow, ask or deny.
        parameters: what followed the action.
        where: file and line.
    """

    service: str | None
    argument: str | None
    source: str
    target: str
    action: str
    parameters: dict[str, str]
    where: str


@dataclass(frozen=True)
class Call:
    """What a qube asks for.

    Attributes:
        service: the service's name, without an argument.
        argument: starts with "+".
        source: the calling qube.
        target: a qube's name or a token, as the caller said; "" is @default.
    """

    service: str
    argument: str
    source: str
    target: str


@dataclass(frozen=True)
class Allowed:
    """A call that may go ahead.

    Attributes:
        target: a qube's name, dom0, or @dispvm:NAME.
        user: the user to run as, or None for the target's default.
        autostart: start the target when it is off.
    """

    target: str
    user: str | None
    autostart: bool


class Files(Protocol):
    """Where the policy's files come from."""

    def top(self) -> Iterable[tuple[str, str]]:
        """Return name and text of all files in policy.d, in order."""

    def read(self, base: str, path: str) -> tuple[str, str]:
        """Return name and text of an included file; `base` is the top file's name."""

    def read_dir(self, base: str, path: str) -> Iterable[tuple[str, str]]:
        """Return name and text of the files of an included directory, in order."""


class Loader:
    """Turns files into rules."""

    def __init__(self, files: Files) -> None:
        """Take the source of files."""
        self._files = files
        self._base = ""
        self.rules: list[Rule] = []

    def load(self) -> list[Rule]:
        """Return all rules, in order.

        Raises:
            PolicySyntaxError: some file can't be read or has an error.
        """
        for name, text in self._files.top():
            self._base = name
            self._file(name, text, 0)
        return self.rules

    def _file(self, name: str, text: str, depth: int) -> None:
        for where, line in _lines(name, text):
            if line.startswith("!"):
                self._directive(where, line.split(), depth)
            else:
                self.rules.append(parse_rule(line, where))

    def _directive(self, where: str, words: list[str], depth: int) -> None:
        arguments = {"!include": 1, "!include-dir": 1, "!include-service": 3, "!compat-4.0": 0}
        if words[0] not in arguments:
            raise PolicySyntaxError(f"{where}: invalid directive")
        if len(words) - 1 != arguments[words[0]]:
            raise PolicySyntaxError(f"{where}: invalid number of params")
        if depth >= INCLUDE_DEPTH_MAX:
            raise PolicySyntaxError(f"{where}: files include each other too deeply")
        if words[0] == "!compat-4.0":
            log.warning("%s: the lab reads no policy in the format of Qubes 4.0", where)
        elif words[0] == "!include-service":
            service, argument = check_service(words[1], words[2], where)
            self._service_file(where, service, argument, words[3], depth)
        else:
            for name, text in self._included(where, words[0], words[1]):
                self._file(name, text, depth + 1)

    def _included(self, where: str, directive: str, path: str) -> Iterable[tuple[str, str]]:
        try:
            if directive == "!include-dir":
                return list(self._files.read_dir(self._base, path))
            return [self._files.read(self._base, path)]
        except (OSError, UnicodeDecodeError) as error:
            raise PolicySyntaxError(f"{where}: can't include {path}: {error}") from error

    def _service_file(
        self, where: str, service: str | None, argument: str | None, path: str, depth: int
    ) -> None:
        """Read a file in the format that has no service in its lines."""
        if depth >= INCLUDE_DEPTH_MAX:
            raise PolicySyntaxError(f"{where}: files include each other too deeply")
        for name, text in self._included(where, "!include", path):
            for place, raw in _lines(name, text):
                line = raw.replace("$include:", "!include ").replace("$", "@").replace(",", " ")
                words = line.split()
                if line.startswith("!"):
                    if words[0] != "!include" or len(words) != 2:
                        raise PolicySyntaxError(f"{place}: invalid directive")
                    self._service_file(place, service, argument, words[1], depth + 1)
                elif len(words) < 3:
                    raise PolicySyntaxError(f"{place}: wrong number of fields")
                else:
                    self.rules.append(_rule(service, argument, words, place))


def parse_rule(line: str, where: str) -> Rule:
    """Read one line: service, argument, source, target, action, parameters.

    Raises:
        PolicySyntaxError: with file, line and what is wrong.
    """
    words = line.split()
    if len(words) < 5:
        raise PolicySyntaxError(f"{where}: wrong number of fields")
    service, argument = check_service(words[0], words[1], where)
    return _rule(service, argument, words[2:], where)


def check_service(name: str, arg: str, where: str) -> tuple[str | None, str | None]:
    """Return service and argument, with None for `*`.

    Raises:
        PolicySyntaxError: one of them can't be that.
    """
    service, argument = (None if word == "*" else word for word in (name, arg))
    if service is not None and not (CALL_CHARACTERS - {"+"}).issuperset(service):
        raise PolicySyntaxError(f"{where}: service {service!r} contains invalid characters")
    if argument is not None:
        if not CALL_CHARACTERS.issuperset(argument):
            raise PolicySyntaxError(f"{where}: argument {argument!r} contains invalid characters")
        if not argument.startswith("+"):
            raise PolicySyntaxError(f"{where}: argument {argument!r} does not start with +")
        if service is None:
            raise PolicySyntaxError(f"{where}: only * argument allowed for * service")
    return service, argument


def check_token(word: str, role: Role, where: str) -> str:
    """Return a token that may stand in this place.

    Raises:
        PolicySyntaxError: it may not.
    """
    if not word:
        raise PolicySyntaxError(f"{where}: invalid empty {role} token")
    if not word.startswith("@") and word != "*":
        return word
    if role in _EXACT.get(word, ()):
        return word
    for prefix, roles in _PREFIXES.items():
        value = word.removeprefix(prefix)
        if role in roles and value != word and value and not value.startswith("@"):
            return word
    raise PolicySyntaxError(f"{where}: invalid {role} token: {word!r}")


def _lines(name: str, text: str) -> Iterable[tuple[str, str]]:
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            yield f"{name}:{number}", line


def _rule(service: str | None, argument: str | None, words: list[str], where: str) -> Rule:
    source, target, action = words[:3]
    check_token(source, "source", where)
    check_token(target, "target", where)
    if action not in _PARAMETERS:
        raise PolicySyntaxError(f"{where}: invalid action: {action}")
    parameters: dict[str, str] = {}
    for word in words[3:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise PolicySyntaxError(f"{where}: invalid action parameter syntax: {word!r}")
        if key in parameters:
            raise PolicySyntaxError(f"{where}: parameter given twice: {key!r}")
        if key not in _PARAMETERS[action]:
            raise PolicySyntaxError(f"{where}: invalid parameter for action {action}: {key}")
        if key in ("notify", "autostart") and value not in ("yes", "no"):
            raise PolicySyntaxError(f"{where}: {key!r} is {value!r}, but can be only yes or no")
        if key in ("target", "default_target"):
            check_token(value, "redirect", where)
        parameters[key] = value
    if target == "@default" and action == "allow" and "target" not in parameters:
        raise PolicySyntaxError(
            f"{where}: allow action for @default rule must specify target= option"
        )
    return Rule(service, argument, source, target, action, parameters, where)


def decide(rules: Iterable[Rule], call: Call, domains: Domains) -> Allowed:
    """Find the first rule that matches a call and apply it.

    Args:
        rules: in order.
        call: what is asked for.
        domains: all qubes by name, with type, tags, uuid, template_for_dispvms, default_dispvm and
            power_state.

    Raises:
        Denied: the call may not go ahead; with the reason.
    """
    try:
        target = _verified(call.target or "@default", domains)
    except PolicySyntaxError as error:
        raise Denied(str(error)) from error
    for rule in rules:
        if _matches(rule, call, target, domains):
            return _apply(rule, call, target, domains)
    raise Denied("no matching rule found")


def _matches(rule: Rule, call: Call, target: str, domains: Domains) -> bool:
    return (
        rule.service in (None, call.service)
        and rule.argument in (None, call.argument)
        and matches(rule.source, call.source, call.source, domains)
        and matches(rule.target, target, call.source, domains)
    )


def matches(pattern: str, other: str, source: str, domains: Domains) -> bool:
    """Tell whether a rule's pattern covers a qube's name or a call's target token."""
    kind, _, value = pattern.partition(":")
    if pattern in ("*", "@anyvm"):
        return pattern == "*" or other not in DOM0_NAMES
    if pattern in DOM0_NAMES:
        return other in DOM0_NAMES
    if kind == "@type":
        return other in domains and bool(domains[other]["type"] == value)
    if kind == "@tag":
        return other in domains and value in domains[other]["tags"]
    if kind == "@dispvm" and value:
        return _matches_dispvm(value, other, source, domains)
    return _same(pattern, other, domains)


def _matches_dispvm(value: str, other: str, source: str, domains: Domains) -> bool:
    implied = other == "@dispvm"
    if implied:
        base = domains.get(source, {}).get("default_dispvm")
    else:
        base = other.removeprefix("@dispvm:") if other.startswith("@dispvm:") else None
    tag = value.startswith("@tag:")
    if base is None:
        if implied and not tag:
            # Upstream's DispVMTemplate.match fails here (AttributeError), which ends the call
            # without an answer: a later rule isn't looked at.
            raise Denied("the caller has no default disposable template to compare with a rule's")
        return False
    if tag:
        domain = domains[base]
        return bool(domain["template_for_dispvms"]) and value[5:] in domain["tags"]
    # As upstream: a caller's default is compared by name only, a rule's uuid doesn't match it.
    return bool(value == base) if implied else _same(value, base, domains)


def _same(one: str, other: str, domains: Domains) -> bool:
    def uuid(name: str) -> str | None:
        if name.startswith("uuid:"):
            return name[5:]
        return str(domains[name]["uuid"]) if name in domains else None

    if one.startswith("uuid:") or other.startswith("uuid:"):
        return uuid(one) is not None and uuid(one) == uuid(other)
    return one == other


def _verified(target: str, domains: Domains) -> str:
    """Return a target that exists; a qube that doesn't becomes @default."""
    check_token(target, "intended", "target")
    if target.startswith("@dispvm:"):
        base = _name(target.removeprefix("@dispvm:"), domains)
        if base is None or not domains[base]["template_for_dispvms"]:
            raise Denied(f"not a template for dispvm: {target}")
        return f"@dispvm:{base}"
    if target.startswith("@"):
        return target
    name = _name(target, domains)
    if name is None:
        log.warning("target %r does not exist, using @default instead", target)
        return "@default"
    return name


def _name(text: str, domains: Domains) -> str | None:
    """Return the name of the qube that a name or `uuid:…` means, or None."""
    if text.startswith("uuid:"):
        return next((name for name in domains if domains[name]["uuid"] == text[5:]), None)
    return text if text in domains else None


def _apply(rule: Rule, call: Call, target: str, domains: Domains) -> Allowed:
    if rule.action == "deny":
        raise Denied(f"denied by policy {rule.where}")
    if rule.action == "ask":
        raise Denied(f"{rule.where} says ask, and the lab has nobody to ask")
    target = _verified(rule.parameters.get("target", target), domains)
    if target == "@default":
        raise Denied(f"{rule.where} allows the call, but neither it nor the caller names a target")
    if target == "@dispvm":
        base = domains.get(call.source, {}).get("default_dispvm")
        if base is None:
            raise Denied(f"{rule.where} allows a call to @dispvm, but the caller has none")
        target = f"@dispvm:{base}"
    if target in DOM0_NAMES:
        target = "dom0"
    autostart = rule.parameters.get("autostart", "yes") == "yes"
    if not autostart and target != "dom0":
        running = target in domains and domains[target]["power_state"] == "Running"
        if not running:
            raise Denied(f"target {target} is denied because it would require autostart")
    # qubes-core-qrexec: "XXX remove when #951 gets fixed"
    if call.source == target:
        raise Denied("loopback qrexec connection not supported")
    return Allowed(target, rule.parameters.get("user") or None, autostart)
