# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that prepare and describe a repository, as actions/ has those for runs."""
