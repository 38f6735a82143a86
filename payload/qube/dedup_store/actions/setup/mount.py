# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `mount`: mounts the repository's device."""

import argparse

from dedup_store.config import Config
from dedup_store.repository import device
from dedup_store.system import notify


def run(arguments: argparse.Namespace, settings: Config) -> int:
    """Mount the device, as each other command does, and report obstacles."""
    device.require(settings)
    place = str(settings.mount_point) if settings.mount_point else None
    text = f"{settings.device} is mounted at {place}" if place else "the repository has no device"
    notify.report({"device": settings.device, "mounted": place}, text, to_program=arguments.json)
    return 0
