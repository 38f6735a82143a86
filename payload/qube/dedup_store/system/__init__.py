# SPDX-License-Identifier: GPL-3.0-or-later
"""What dedup-store needs of the machine: streams, processes, files, the terminal."""
