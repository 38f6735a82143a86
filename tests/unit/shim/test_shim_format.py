# SPDX-License-Identifier: GPL-3.0-or-later
"""The shim, which is one file, has the numbers of payload/backup_format again."""

import os
import tempfile

from backup_format import container, members

from testing.shim.driver import MEMBER, line
from testing.shim.fuzz import load

DATA = b"what a chunk carries"


def test_numbers() -> None:
    shim = load()
    assert (shim.HEAD, shim.TAIL) == (container.HEAD_BYTES, container.TRAILER_BYTES)
    assert shim.MAGIC == container.MAGIC
    ours = {version for version, kind in container.VERSIONS.items() if kind != container.ENCRYPTED}
    assert set(shim.CONTAINERS) == ours == {shim.AUTHENTICATED}
    assert shim.HEADER.decode() == members.HMAC


def test_container_that_the_shim_makes() -> None:
    shim = load()
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as made:
        source.write(DATA)
        source.seek(0)
        shim.encode_authenticated(source.fileno(), made.fileno(), line())
        stored = os.pread(made.fileno(), 1 << 20, 0)
    head = stored[: container.HEAD_BYTES]
    assert container.kind_of(head) == container.AUTHENTICATED
    assert container.has_sound_head(head, len(stored))
    assert stored[container.HEAD_BYTES : -container.TRAILER_BYTES] == DATA
    assert len(stored) - container.OVERHEAD == len(DATA)


def test_members_that_the_shim_takes_for_outputs() -> None:
    shim = load()
    for name in (MEMBER, members.HMAC, members.XML):
        assert members.is_member_name(name)
        assert shim.OUTPUTS.fullmatch(f"/tmp/{name}")  # noqa: S108 - no file is made
