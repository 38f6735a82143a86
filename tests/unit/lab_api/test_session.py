# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demo and the end-to-end tests compare images with."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qubeslab.session import BLOCK, same_content

SIZE = 3 * BLOCK + 5


def image(path: Path, size: int, bytes_at: dict[int, int]) -> Path:
    """Make a sparse file with single bytes here and there."""
    with path.open("wb") as handle:
        handle.truncate(size)
        for at, value in bytes_at.items():
            handle.seek(at)
            handle.write(bytes([value]))
    return path


@given(st.dictionaries(st.integers(0, SIZE - 1), st.integers(0, 255), max_size=4))
def test_holes_and_zeros_are_the_same_and_any_other_byte_is_not(
    tmp_path_factory: pytest.TempPathFactory, content: dict[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("images")
    sparse = image(folder / "sparse", SIZE, content)
    full = folder / "full"
    full.write_bytes(sparse.read_bytes())
    assert same_content(sparse, full)
    for at in (0, BLOCK, SIZE - 1):
        other = content | {at: content.get(at, 0) ^ 1}
        assert not same_content(full, image(folder / "other", SIZE, other))
    assert not same_content(full, image(folder / "longer", SIZE + 1, content))
