# SPDX-License-Identifier: GPL-3.0-or-later
"""The update of a file of dom0's qrexec policy to its description (library/qrexec_policy.py)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import dedup_policy_files as files
from .dedup_common import ProvisionError, error_text
from .dedup_files import Rights, remove_file, replace_file

MODE = 0o664
WARNINGS_MAX = 10
LINT = "qubes-policy-lint"


def lint(text: str) -> None:
    """Check a file's text with Qubes' own tool, if it is installed.

    Raises:
        ProvisionError: it found an error.
    """
    program = shutil.which(LINT)
    if program is None:
        return
    try:
        done = subprocess.run(
            [program, "-"], input=text, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ProvisionError(f"can't run {program}: {error.strerror}") from error
    if done.returncode:
        raise ProvisionError(f"{LINT} refuses the rules: {error_text(done.stdout + done.stderr)}")


class PolicyApplier:
    """An update of one policy file, for Ansible's module or Salt's state.

    Attributes:
        params: the options of library/qrexec_policy.py, all of them.
        check_mode: nothing is written.
        warn: takes each warning for the user.
    """

    def __init__(
        self, params: dict[str, Any], check_mode: bool, warn: Callable[[str], None]
    ) -> None:
        self.params = params
        self.check_mode = check_mode
        self.warn = warn
        self.name: str = self.params["name"]
        self.root = Path(self.params["root"])
        self.path: Path = self.root / files.POLICY_DIR / self.name
        self.rights = Rights.of(self.params["owner"], self.params["group"], MODE)

    def apply(self) -> dict[str, object]:
        """Validate, write if something differs, and return the result.

        Raises:
            ProvisionError: something is wrong; the file is as before.
        """
        files.check_file_name(self.name)
        if not self.path.parent.is_dir():
            raise ProvisionError(f"{self.path.parent} does not exist: is this dom0?")
        if self.params["state"] == "absent":
            return self._remove()
        files.check_order(self.name)
        text = files.render(self.params["rules"] or [])
        lint(text.content)
        found = self._overrides(text)
        before = self._content()
        after = text.content
        rights = before is None or self.rights.are_those_of(self.path)
        changed = before != after or not rights
        if changed and not self.check_mode:
            replace_file(self.path, after, self.rights)
        diff = [self._diff(before or "", after)]
        if not rights:
            diff.append({"before": "other rights\n", "after": f"rights 0{MODE:o}\n"})
        return {"changed": changed, "path": str(self.path), "diff": diff, **found}

    def _remove(self) -> dict[str, object]:
        before = self._content()
        if before is not None and not self.check_mode:
            remove_file(self.path)
        return {
            "changed": before is not None,
            "path": str(self.path),
            "overridden": [],
            "errors": [],
            "diff": [self._diff(before or "", "")],
        }

    def _diff(self, before: str, after: str) -> dict[str, str]:
        header = str(self.path)
        return {
            "before": before,
            "after": after,
            "before_header": header,
            "after_header": header,
        }

    def _content(self) -> str | None:
        """Return the file's present text, None when there is none."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "" if self.path.is_symlink() else None
        except OSError as error:
            raise ProvisionError(f"can't read {self.path}: {error.strerror}") from error

    def _overrides(self, text: files.PolicyText) -> dict[str, object]:
        """Find rules of other files that override these, and warn about them."""
        policy = files.Policy(self.root)
        policy.load_before(self.name)
        for error in policy.errors[:WARNINGS_MAX]:
            self.warn(f"{error}: Qubes denies every call until you correct this")
        instead = self.root / files.RUNTIME_DIR / self.name
        if instead.is_file():
            self.warn(f"{instead} takes the place of {self.path} until it is removed")
            found = [files.Override(line, str(instead), True) for _, line in text.rules]
            return {"overridden": [vars(entry) for entry in found], "errors": policy.errors}
        found = list(files.overrides(text.rules, policy.rules))
        for entry in found[:WARNINGS_MAX]:
            extent = "all" if entry.entirely else "some"
            self.warn(
                f"{entry.by} comes before {self.name} and decides otherwise about {extent} calls "
                f"that match its rule: {entry.rule}"
            )
        return {"overridden": [vars(entry) for entry in found], "errors": policy.errors}
