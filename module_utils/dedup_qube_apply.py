# SPDX-License-Identifier: GPL-3.0-or-later
"""The update of a qube to the options of a front-end (library/qube.py)."""

from __future__ import annotations

from typing import Any

from .dedup_common import ProvisionError, Qubes
from .dedup_qube import Outcome, QubeProvisioner, QubeSpec
from .dedup_qube_removal import QubeRemover
from .dedup_values import RESET, check_name, check_tag, parse_features, parse_size


def read(params: dict[str, Any]) -> QubeSpec:
    """Return the options as a specification of the qube.

    Raises:
        ProvisionError: one of them can't be understood.
    """
    properties = dict(params["properties"])
    if params["netvm"] is not None:
        properties["netvm"] = None if params["netvm"] in ("", "none") else params["netvm"]
    for name, option in (("label", "label"), ("template", "template")):
        if name in properties:
            raise ProvisionError(f"give {name} by the option {option}, not in properties")
    for sure in (params["name"], params["template"], params["clone_of"]):
        if sure is not None:
            check_name(sure)
    if properties.get("netvm") not in (None, "", RESET):
        check_name(str(properties["netvm"]))
    return QubeSpec(
        name=params["name"],
        state=params["state"],
        klass=params["klass"],
        template=params["template"],
        clone_of=params["clone_of"],
        label=params["label"],
        properties=properties,
        features=parse_features(params["features"], params["services"]),
        tags=tuple(check_tag(tag) for tag in params["tags"]),
        volume_sizes={name: parse_size(size) for name, size in params["volume_sizes"].items()},
    )


def apply(params: dict[str, Any], check_mode: bool) -> Outcome:
    """Validate the options, then apply them.

    Raises:
        ProvisionError: it can't be done.
    """
    name = params["name"]
    wanted = read(params)
    qubes = Qubes()
    try:
        if params["state"] == "absent":
            return QubeRemover(qubes, name, params["confirm_removal"], check_mode).run()
        return QubeProvisioner(qubes, wanted, check_mode).run()
    except qubes.errors as error:
        raise ProvisionError(f"{name}: qubesd can't do it: {qubes.error_text(error)}") from error
