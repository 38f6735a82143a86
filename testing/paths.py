# SPDX-License-Identifier: GPL-3.0-or-later
"""Where this checkout and its parts are."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
LAB = PROJECT / "lab"
PAYLOAD = PROJECT / "payload"
# for programs that import this package, outside of pytest
PYTHONPATH = f"{PROJECT}:{LAB}:{LAB / 'dom0'}"
