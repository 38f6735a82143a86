# SPDX-License-Identifier: GPL-3.0-or-later
"""The format of what is stored, from the archive to payload objects, recipe, manifest, and back.

Nothing in here knows an engine: docs/design/formats.md describes the same.
"""
