# SPDX-License-Identifier: GPL-3.0-or-later
"""Splits and joins without an engine: payload objects are byte strings in memory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from backup_format.limits import CHUNK_BYTES
from dedup_store.archive.completeness import Verdict
from dedup_store.archive.joiner import Joiner, MemberSelection
from dedup_store.archive.manifest import Manifest
from dedup_store.archive.recipe import RecipeWriter
from dedup_store.archive.splitter import PayloadSink, Splitter
from dedup_store.system.streams import InputStream


class Objects:
    """Takes payload objects, and gives them back as one stream."""

    def __init__(self) -> None:
        """Start empty."""
        self.objects: list[bytearray] = []
        self._data = memoryview(b"")

    def open_object(self) -> None:
        """See splitter.Writer."""
        self.objects.append(bytearray())

    def write(self, data: memoryview) -> None:
        """See splitter.Writer."""
        self.objects[-1] += data

    def close_object(self) -> None:
        """See splitter.Writer."""
        assert self.objects[-1], "an empty object"

    def rewind(self, objects: Sequence[int]) -> None:
        """Begin to give objects back."""
        self._data = memoryview(b"".join(self.objects[number] for number in objects))

    def readinto(self, buffer: memoryview) -> int:
        """See streams.Stream."""
        piece, self._data = self._data[: len(buffer)], self._data[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """See streams.Stream."""


@dataclass
class Split:
    """A stream that was split."""

    manifest: Manifest
    recipe: bytes
    payload: Objects
    verdict: Verdict

    def join(self, prefixes: Sequence[str] | None = None) -> bytes:
        """Give the stream, or members of it, back."""
        fd = os.memfd_create("joined")
        try:
            selection = MemberSelection(self.manifest, prefixes)
            self.payload.rewind(selection.objects)
            joiner = Joiner(self.manifest, self.payload, fd, selection)
            joiner.run(self.recipe)
            return os.pread(fd, joiner.written + 1, 0)
        finally:
            os.close(fd)


def split(stream: bytes, chunk: int = CHUNK_BYTES) -> Split:
    """Split a stream whose chunks are of at most some bytes."""
    fd = os.memfd_create("stream")
    try:
        os.write(fd, stream)
        os.lseek(fd, 0, os.SEEK_SET)
        recipe, payload = RecipeWriter(), Objects()
        sink = PayloadSink(payload)
        source = InputStream(fd)
        splitter = Splitter(source, recipe, sink, chunk)
        splitter.run()
        verdict = splitter.completeness.judge()
        file, sha256 = recipe.finish()
        packed = file.read()
        file.close()
        assert source.position == len(stream)
        assert [len(item) for item in payload.objects] == sink.objects
        manifest = Manifest(
            run="20261123T231500Z-x",
            created="",
            status=verdict.status,
            reason=verdict.reason,
            qubes=verdict.qubes,
            stream_length=len(stream),
            header=splitter.completeness.header,
            objects=sink.objects,
            recipe_length=len(packed),
            recipe_sha256=sha256,
            members=splitter.members,
        )
        return Split(manifest, packed, payload, verdict)
    finally:
        os.close(fd)
