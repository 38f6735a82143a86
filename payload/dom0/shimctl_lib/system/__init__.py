# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts and changes of the system, without knowledge of what they are for."""
