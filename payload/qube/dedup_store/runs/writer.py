# SPDX-License-Identifier: GPL-3.0-or-later
"""The storing of a stream as a run."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dedup_store.archive.manifest import Manifest, new_run_name, pack_summary
from dedup_store.archive.recipe import RecipeWriter
from dedup_store.archive.splitter import PayloadSink, Splitter
from dedup_store.archive.tar import RECORD
from dedup_store.engines.base import Engine
from dedup_store.system import progress
from dedup_store.system.streams import InputStream

COMPRESSED = (
    "the backup is compressed, so it will hardly deduplicate:"
    " set `compression: false` in the profile, or untick it in the window"
)


def store(
    repository: Engine, fd: int, number: Callable[[], int], warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """Store the stream that comes from a file descriptor.

    The manifest is written after all else is in the repository; without it there is no run.

    Args:
        repository: where to.
        fd: the stream, read to its end (by the caller, when this fails).
        number: gives the run its number; called when something came.
        warn: takes a line for the user.

    Returns:
        The run's summary; None when nothing came, and nothing was stored.

    Raises:
        StoreError: when the engine failed.
    """
    source = InputStream(fd)
    beginning = source.peek(RECORD)
    if not beginning:
        return None
    now = time.gmtime()
    run, order = new_run_name(beginning, now), number()
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", now)
    recipe = RecipeWriter()
    with progress.shown(lambda: source.position), repository.writer(run) as writer:
        sink = PayloadSink(writer)
        splitter = Splitter(source, recipe, sink)
        splitter.run()
        writer.finish()
        verdict = splitter.completeness.judge()
        file, sha256 = recipe.finish()
        manifest = Manifest(
            run=run,
            created=created,
            **asdict(verdict),
            stream_length=source.position,
            header=splitter.completeness.header,
            objects=sink.objects,
            recipe_length=recipe.length,
            recipe_sha256=sha256,
            members=splitter.members,
            order=order,
        )
        if splitter.completeness.is_compressed:
            warn(COMPRESSED)
        summary = manifest.summary()
        with file, tempfile.TemporaryFile() as whole:
            whole.write(manifest.to_json())
            shutil.copyfileobj(file, whole)
            whole.seek(0)
            writer.put_manifest(whole, pack_summary(summary))
    return summary
