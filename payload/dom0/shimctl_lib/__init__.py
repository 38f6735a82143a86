# SPDX-License-Identifier: GPL-3.0-or-later
"""shimctl's parts: layout and files below; look, packages, probe find out; plan, guard change."""
