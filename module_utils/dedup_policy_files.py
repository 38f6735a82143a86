# SPDX-License-Identifier: GPL-3.0-or-later
"""dom0's policy files: their rules in order, and which rule decides.

Source: qubes-core-qrexec qrexec/policy/parser.py (filter_filepaths, AbstractParser.load_policy_file
and load_policy_file_service, AbstractFileSystemLoader) and parser_compat.py (Compat40Loader).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .dedup_common import ProvisionError, error_text
from .dedup_policy import (
    CALL_CHARACTERS,
    PolicyError,
    Rule,
    check_service,
    covers,
    overlaps,
    parse_old_rule,
    parse_own_rule,
    parse_rule,
)

POLICY_DIR = "etc/qubes/policy.d"
# A file here takes the place of one of the same name in the other; Qubes R4.3 and later.
RUNTIME_DIR = "run/qubes/policy.d"
# What `!compat-4.0` reads: one file for each service.
OLD_DIR = "etc/qubes-rpc/policy"
OLD_IGNORED = (".rpmsave", ".rpmnew", ".swp")
SUFFIX = ".policy"
NAME_CHARACTERS = frozenset(string.digits + string.ascii_lowercase + "_.-")
NAME = re.compile(r"[0-9]{2}-[0-9a-z_.-]{1,80}\.policy\Z")
# What Qubes writes while it provisions qubes; a file before these could stop that.
PROVISIONING = ("30-qubes-ansible.policy", "30-qubesctl-salt.policy")
INCLUDE_DEPTH_MAX = 20
HEADER = "# Managed by qubes-dedup-backup. Changes made here by hand are lost.\n"

Line = tuple[Rule, str]


def check_file_name(name: str) -> None:
    """Check a policy file's name.

    Raises:
        ProvisionError: Qubes would deny every call because of it, or it has no order number.
    """
    if not NAME.match(name):
        raise ProvisionError(
            f"{name!r} can't be a policy file's name: use two digits and '-', then digits, "
            "lowercase letters, '_', '.' and '-', and '.policy' at the end"
        )


def check_order(name: str) -> None:
    """Check that a file comes after those that Qubes writes while it provisions qubes.

    Raises:
        ProvisionError: it would come before.
    """
    later = [other for other in PROVISIONING if name <= other]
    if later:
        raise ProvisionError(
            f"{name} would come before {' and '.join(later)}, which Qubes writes while it "
            "provisions qubes: use a number from 31 on"
        )


@dataclass(frozen=True)
class PolicyText:
    """The intended content of a policy file.

    Attributes:
        content: the whole file.
        rules: each rule with its line as written.
    """

    content: str
    rules: list[Line]


def render(entries: list[str]) -> PolicyText:
    """Write rules in columns, with the comments and empty lines between them.

    Raises:
        ProvisionError: one of the rules can't be used; the message has it.
    """
    rules: list[Line] = []
    for number, entry in enumerate(entries, 1):
        try:
            if not _is_rule(entry):
                if not entry.isascii() or not entry.isprintable():
                    raise PolicyError("it must be one line of printable ASCII characters")
            else:
                rules.append((parse_own_rule(entry), " ".join(entry.split())))
        except PolicyError as error:
            raise ProvisionError(f"rule {number}, {error_text(entry)!r}: {error}") from error
    if not rules:
        raise ProvisionError("no rule is given: use state: absent to remove the file")
    words = [line.split() for _, line in rules]
    widths = [max(len(line[column]) for line in words) for column in range(4)]
    columns = iter(_in_columns(line, widths) for line in words)
    lines = [next(columns) if _is_rule(entry) else entry for entry in entries]
    return PolicyText(HEADER + "".join(f"{line}\n" for line in lines), rules)


def _is_rule(entry: str) -> bool:
    return bool(entry) and not entry.startswith("#")


def _in_columns(words: list[str], widths: list[int]) -> str:
    first = (word.ljust(width) for word, width in zip(words, widths, strict=False))
    return " ".join((*first, *words[4:]))


@dataclass
class Policy:
    """All rules of dom0's policy, in order.

    Attributes:
        rules: with the file and line of each; of an included file, its own.
        errors: what can't be read, with file and line; Qubes then denies every call.
    """

    root: Path
    rules: list[Line] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def load_before(self, name: str) -> None:
        """Load the files that come before `name`; of those after it, only find the errors."""
        paths = self.files()
        for path in sorted(paths.values(), key=lambda path: path.name):
            if path == self.root / POLICY_DIR / name:
                continue
            kept = list(self.rules)
            self._load(path, path.parent, 0)
            if path.name >= name:
                self.rules = kept

    def files(self) -> dict[str, Path]:
        """Return the files that count, by name; record those whose name is an error."""
        found: dict[str, Path] = {}
        for folder in (RUNTIME_DIR, POLICY_DIR):
            for path in self._names(self.root / folder):
                found.setdefault(path.name, path)
        return found

    def _names(self, folder: Path) -> list[Path]:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        paths = [p for p in paths if p.suffix == SUFFIX and p.name[0] != "." and p.is_file()]
        for path in paths:
            if not NAME_CHARACTERS.issuperset(path.name):
                self.errors.append(f"{error_text(str(path))}: no policy file may have such a name")
        return [path for path in paths if NAME_CHARACTERS.issuperset(path.name)]

    def _load(self, path: Path, base: Path, depth: int) -> None:
        """Add a file's rules; `base` is the folder of the file in policy.d that led to it."""

        def directive(words: list[str]) -> None:
            self._directive(words, base, depth)

        self._each(path, parse_rule, directive)

    def _each(
        self,
        path: Path,
        parse: Callable[[str], Rule],
        directive: Callable[[list[str]], None],
        translate: Callable[[str], str] = str,
    ) -> None:
        """Parse all lines of a file; an error doesn't keep the lines after it from being read."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.errors.append(f"{path}: {error_text(error)}")
            return
        for number, raw in enumerate(text.split("\n"), 1):
            line, where = raw.strip(), f"{path}:{number}"
            if not line or line.startswith("#"):
                continue
            line = translate(line)
            try:
                if line.startswith("!"):
                    directive(line.split())
                else:
                    self.rules.append((parse(line), where))
            except PolicyError as error:
                self.errors.append(f"{where}: {error_text(error)}")

    def _directive(self, words: list[str], base: Path, depth: int) -> None:
        wanted = {"!include": 1, "!include-dir": 1, "!include-service": 3, "!compat-4.0": 0}
        if wanted.get(words[0]) != len(words) - 1:
            raise PolicyError(f"{' '.join(words)!r} isn't a directive")
        if depth >= INCLUDE_DEPTH_MAX:
            raise PolicyError("files include each other too deeply")
        if words[0] == "!include":
            self._load(_file(base, words[1]), base, depth + 1)
        elif words[0] == "!include-dir":
            if not (base / words[1]).is_dir():
                raise PolicyError(f"{base / words[1]} isn't a folder")
            for path in self._names(base / words[1]):
                self._load(path, base, depth + 1)
        elif words[0] == "!include-service":
            service, argument = check_service(words[1], words[2])
            self._load_old(service, argument, _file(base, words[3]), base, depth + 1)
        else:
            self._compat()

    def _load_old(
        self, service: str | None, argument: str | None, path: Path, base: Path, depth: int
    ) -> None:
        """Add the rules of a file for one service."""

        def parse(line: str) -> Rule:
            return parse_old_rule(service, argument, line)

        def directive(words: list[str]) -> None:
            if words[0] != "!include" or len(words) != 2:
                raise PolicyError(f"{' '.join(words)!r} isn't a directive here")
            if depth >= INCLUDE_DEPTH_MAX:
                raise PolicyError("files include each other too deeply")
            self._load_old(service, argument, _file(base, words[1]), base, depth + 1)

        self._each(path, parse, directive, _from_old)

    def _compat(self) -> None:
        """Add the rules of Qubes 4.0's files, and the denials that these imply."""
        base = self.root / OLD_DIR
        if not base.is_dir():
            raise PolicyError(f"{base} isn't a folder")
        for service, argument, path in _old_files(base):
            self._load_old(service, argument, path, base, 1)
            if argument is not None:
                for target in ("@anyvm", "@adminvm"):
                    self.rules.append(
                        (Rule(service, argument, "@anyvm", target, "deny"), str(path))
                    )


def _file(base: Path, name: str) -> Path:
    path = base / name
    if not path.is_file():
        raise PolicyError(f"{path} isn't a file")
    return path


def _from_old(line: str) -> str:
    return line.replace("$include:", "!include ").replace("$", "@").replace(",", " ")


def _old_files(folder: Path) -> Iterator[tuple[str, str | None, Path]]:
    """Yield service, argument and path, in the order that Qubes reads them."""
    found = []
    for path in folder.iterdir():
        name = path.name
        if name[0] == "." or path.suffix in OLD_IGNORED or not CALL_CHARACTERS.issuperset(name):
            continue
        if path.is_file():
            service, plus, argument = name.partition("+")
            found.append((service, not plus, f"+{argument}" if plus else None, path))
    for entry in sorted(found, key=lambda entry: (entry[:2], entry[3].name)):
        yield entry[0], entry[2], entry[3]


@dataclass(frozen=True)
class Override:
    """A rule of another file that comes first.

    Attributes:
        rule: our rule, as written.
        by: file and line.
        entirely: our rule never decides; else for some calls only.
    """

    rule: str
    by: str
    entirely: bool


def overrides(ours: list[Line], earlier: list[Line]) -> Iterator[Override]:
    """Yield the rules of earlier files that decide otherwise about calls which ours match."""
    for rule, line in ours:
        for other, where in earlier:
            if not overlaps(other, rule):
                continue
            entirely = covers(other, rule)
            if other.effect != rule.effect:
                yield Override(line, where, entirely)
            if entirely:
                break
