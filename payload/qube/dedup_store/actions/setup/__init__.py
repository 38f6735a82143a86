# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that prepare and describe a repository, in the form of actions/."""
