# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine, as dedup-store needs it: streams, processes, files, the terminal."""
