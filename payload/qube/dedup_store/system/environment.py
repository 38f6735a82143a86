# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of this process, and of the programs that it starts."""

import os
import pwd


def home() -> str:
    """Return the caller's home folder."""
    return os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir


def environment() -> dict[str, str]:
    """Return the environment for other programs: only where things are, nothing else of ours."""
    variables = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": home(), "PATH": os.defpath}
    for name in ("PATH", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        if value := os.environ.get(name):
            variables[name] = value
    return variables
