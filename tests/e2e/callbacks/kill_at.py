# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills the playbook at a task: the number in the file $HOME/kill-at counts down to it.

Plays on qubes run in an ansible-playbook of their own, which belongs to the same process group; it
counts on, so that each task of all plays can be the one.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kill_at
type: aggregate
short_description: Kill the playbook at a task
description: For tests. The number in the file ~/kill-at says at which.
author: The qubes-dedup-backup authors (@qubes-dedup-backup)
"""
COUNT = Path.home() / "kill-at"


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core has no type information
    """Counts tasks."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill_at"

    def v2_playbook_on_task_start(self, *_: object, **__: object) -> None:
        """Count down, and kill at zero."""
        if not COUNT.exists():
            return
        left = int(COUNT.read_text()) - 1
        COUNT.write_text(str(left))
        if left == 0:
            os.killpg(0, signal.SIGKILL)
