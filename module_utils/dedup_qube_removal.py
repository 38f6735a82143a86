# SPDX-License-Identifier: GPL-3.0-or-later
"""The removal of a qube, if it was confirmed and nothing uses the qube.

What qubesd refuses, and why: qubes-core-admin qubes/api/admin.py (vm_remove) and qubes/app.py
(VMCollection.__delitem__, on_domain_pre_deleted).
"""

from __future__ import annotations

from .dedup_common import ProvisionError, Qube, Qubes
from .dedup_qube import CLONING, Outcome
from .dedup_values import show_size

# Where other qubes may name this one: qubes-core-admin-client qubesadmin/utils (vm_dependencies).
USES = ("template", "netvm", "guivm", "audiovm", "default_dispvm", "management_dispvm")


class QubeRemover:
    """The removal of one qube."""

    def __init__(self, qubes: Qubes, name: str, confirmation: str | None, check_mode: bool) -> None:
        self.qubes = qubes
        self.name = name
        self.confirmation = confirmation
        self.check_mode = check_mode
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Remove the qube; nothing happens when there is none.

        Raises:
            ProvisionError: it wasn't confirmed, or something is in the way; all is as before.
        """
        if self.name == "dom0":
            raise ProvisionError("dom0 can't be removed: name another qube")
        qube = self.qubes.find(self.name)
        if qube is None:
            self._forget_mark()
            return self.outcome
        volumes = self._volumes(qube)
        self._check_confirmation(qube, volumes)
        self._check_halted(qube)
        self._check_uses()
        self.outcome.power_state = "halted"
        self.outcome.before = {"state": "halted", "klass": qube.klass, "volumes": volumes}
        self.outcome.after = {"state": "absent"}
        if not self.check_mode:
            self._remove()
            self.outcome.power_state = "absent"
        return self.outcome

    @staticmethod
    def _volumes(qube: Qube) -> dict[str, str]:
        """Return how full the volumes are that hold data of the qube's own."""
        return {
            name: f"{show_size(int(volume.usage))} of {show_size(int(volume.size))} in use"
            for name, volume in sorted(qube.volumes.items())
            if volume.save_on_stop
        }

    def _check_confirmation(self, qube: Qube, volumes: dict[str, str]) -> None:
        if self.confirmation == self.name:
            return
        lost = "; ".join(f"volume {volume}: {use}" for volume, use in volumes.items())
        given = ""
        if self.confirmation is not None:
            given = f"confirm_removal names {self.confirmation!r}, another qube. "
        raise ProvisionError(
            f"{given}{self.name} ({qube.klass}) exists, and removing it destroys what it holds, "
            f"for good ({lost or 'no volume of its own'}): if nothing of it is needed, say "
            f"`confirm_removal: {self.name}`"
        )

    def _check_halted(self, qube: Qube) -> None:
        if not qube.is_halted():
            raise ProvisionError(
                f"{self.name} is {qube.get_power_state().lower()} and is not removed: see whether "
                f"somebody needs it, and run `qvm-shutdown --wait {self.name}` first"
            )

    def _check_uses(self) -> None:
        """Refuse a qube that others name; qubesd reports other obstacles."""
        found = [
            f"{use} of {other}"
            for other in self.qubes.app.domains
            if str(other) != self.name
            for use in USES
            if str(getattr(other, use, None)) == self.name and not other.property_is_default(use)
        ]
        if found:
            raise ProvisionError(
                f"{self.name} can't be removed, it is the {', the '.join(found)}: give these "
                "another one with `qvm-prefs`, or remove them first"
            )

    def _remove(self) -> None:
        try:
            del self.qubes.app.domains[self.name]
        except self.qubes.errors as error:
            raise ProvisionError(
                f"{self.name} can't be removed, qubesd says: {self.qubes.error_text(error)}; see "
                f"`journalctl -u qubesd -e` for what uses it"
            ) from error
        self._forget_mark()

    def _forget_mark(self) -> None:
        """Forget that the qube was a half-made clone."""
        marks, mark = self.qubes.app.domains["dom0"].features, f"{CLONING}{self.name}"
        if mark not in marks:
            return
        self.outcome.before.setdefault("mark", "half-made clone")
        if not self.check_mode:
            del marks[mark]
