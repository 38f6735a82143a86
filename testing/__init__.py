# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests and benchmarks share: drivers, stand-ins, corpora. No test imports another test."""
