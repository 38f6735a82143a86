# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever comes in, the join gives the same bytes back."""

import functools
import hashlib
import io
import os
import subprocess
import tarfile

import pytest
from dedup_store.archive import splitter
from dedup_store.archive.manifest import from_json
from dedup_store.archive.recipe import COPY, LITERAL, operations
from dedup_store.errors import DamagedError, FormatError
from dedup_store.system.streams import InputStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.store import archives
from testing.store.memory_engine import split

relaxed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds that small examples can cross."""
    monkeypatch.setattr(splitter, "INLINE_BYTES", 2000)
    monkeypatch.setattr(splitter, "OBJECT_BYTES", 9000)


def made_with_tarfile(member_format: int, kind: bytes, name: str, size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=member_format) as archive:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        archive.addfile(info, io.BytesIO(archives.noise(size)))
    return out.getvalue()


def sparse_member() -> bytes:
    """An outer archive with a really sparse file, as only GNU tar --sparse writes it."""
    with archives.tempfile.TemporaryDirectory() as folder:
        path = archives.Path(folder) / "sparse"
        with path.open("wb") as file:
            for offset in range(0, 30 << 16, 1 << 16):
                file.seek(offset)
                file.write(archives.noise(4096))
        base = ["tar", "-cO", "--sparse", "-C", folder, "sparse"]
        return b"".join(
            subprocess.run([*base, *more], check=True, capture_output=True).stdout
            for more in ([], ["--posix"])
        )


@functools.cache
def pieces() -> list[bytes]:
    """Building blocks of streams: members of a real backup, and strange ones."""
    parts = list(archives.members(archives.small_qubes()))
    result = [archives.outer(name, data) for name, data in parts]
    sizes = (0, 1, 127, 128, 129, 511, 512, 513, 1999, 2000, 2001, 9000, 9216, 10240)
    for size in sizes:
        result.append(archives.outer(f"vm7/private.img.{size % 7:03}.enc", archives.noise(size)))
        wrapped = archives.container(archives.noise(size))
        result.append(archives.outer(f"vm7/private.img.{size % 7:03}.enc", wrapped))
    result.append(archives.outer("vm8/private.img.000.enc", archives.container(b"x" * 5000, 0x81)))
    result.append(archives.outer("vm8/private.img.000.enc", archives.container(b"x" * 5000, 0)))
    result.append(archives.outer("long/" * 40 + "name" * 30, archives.noise(700)))
    for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
        result.append(made_with_tarfile(tarfile.PAX_FORMAT, kind, "strange", 0))
    result.append(made_with_tarfile(tarfile.GNU_FORMAT, tarfile.REGTYPE, "n" * 300, 3000))
    result.append(made_with_tarfile(tarfile.USTAR_FORMAT, tarfile.REGTYPE, "plain", 3000))
    result.append(sparse_member())
    huge = bytearray(made_with_tarfile(tarfile.GNU_FORMAT, tarfile.REGTYPE, "huge", 0)[:512])
    info = tarfile.TarInfo("huge")
    info.size = 1 << 40  # base-256 in the header, but no such data behind it
    huge[:] = info.tobuf(tarfile.GNU_FORMAT)
    result.append(bytes(huge) + archives.noise(3000))
    return result


strange = st.one_of(
    st.binary(max_size=1500),
    st.integers(1, 45).map(lambda count: bytes(512 * count)),
    st.integers(1, 600).map(bytes),
)
any_piece = st.one_of(st.deferred(lambda: st.sampled_from(pieces())), strange)


@pytest.mark.usefixtures("small_limits")
@relaxed
@given(st.binary(max_size=4000))
def test_random_bytes_come_back(stream: bytes) -> None:
    assert split(stream).join() == stream


@pytest.mark.usefixtures("small_limits")
@relaxed
@given(st.lists(any_piece, max_size=8), st.floats(0, 1))
def test_archives_real_strange_and_cut_come_back(parts: list[bytes], cut: float) -> None:
    stream = b"".join(parts)
    assert split(stream).join() == stream
    stream = stream[: int(len(stream) * cut)]
    assert split(stream).join() == stream


@pytest.mark.usefixtures("small_limits")
@relaxed
@given(st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=6))
def test_a_backup_with_flipped_bytes_comes_back(flips: list[tuple[int, int]]) -> None:
    stream = bytearray(backup())
    for position, bits in flips:
        stream[position % len(stream)] ^= bits
    assert split(bytes(stream)).join() == stream


@pytest.mark.usefixtures("small_limits")
@relaxed
@given(st.integers(0))
def test_a_backup_cut_anywhere_comes_back_partial(position: int) -> None:
    stream = backup()[: position % len(backup())]
    result = split(stream)
    assert result.join() == stream
    assert result.verdict.status == "partial"


@functools.cache
def backup() -> bytes:
    return archives.join(archives.members(archives.small_qubes()))


def test_each_strange_piece_alone() -> None:
    for piece in pieces():
        assert split(piece).join() == piece


def test_limits_of_objects_as_they_are() -> None:
    """Volumes around the real limits, and which of them share an object."""
    sizes = [10, 65_000, 65_536, 65_537, 100_000, 17_000_000, 70_000, 300_000]
    sizes += [16_777_215, 16_777_216]
    parts = [
        (f"vm{number}/private.img.000.enc", archives.container(archives.noise(size, number)))
        for number, size in enumerate(sizes, 1)
    ]
    stream = archives.join(parts)
    result = split(stream)
    assert result.join() == stream
    where = [(m.object, m.object_offset) for m in result.manifest.members]
    assert where == [
        (None, 0),
        (None, 0),
        (None, 0),
        (0, 0),
        (0, 65_537),
        (1, 0),
        (2, 0),
        (2, 70_000),
        (2, 370_000),
        (3, 0),
    ]


def test_payload_objects_hold_nothing_that_changes_from_run_to_run() -> None:
    """Same volumes, new process ids, salts, times: the same payload objects."""
    qube = archives.Qube("one", 7, volumes={"private": archives.image(400_000, 1)})
    one = split(archives.join(archives.members([qube])))
    two = split(archives.join(archives.members([qube])))
    assert one.payload.objects == two.payload.objects
    assert one.recipe != two.recipe


def test_recipe_is_small_and_wrapping_only() -> None:
    data = archives.noise(3_000_000)
    name = "vm7/private.img"
    inner = archives.sparse_archive(name, data)
    result = split(archives.outer(f"{name}.000.enc", archives.container(inner)))
    literal = sum(count for kind, count, _ in operations(result.recipe) if kind == LITERAL)
    copied = sum(count for kind, count, _ in operations(result.recipe) if kind == COPY)
    assert literal < 3000
    assert data in bytes(result.payload.objects[0])
    assert copied == len(result.payload.objects[0])


@pytest.mark.parametrize("holes", [3, 60])  # a map in the header, and one that needs more blocks
def test_volumes_that_gnu_tar_archived(holes: int) -> None:
    """On pools of files upstream archives volumes by `tar --sparse`, not by its own tarwriter."""
    name = "vm7/private.img"
    data = b"".join(archives.noise(65_536, seed) + bytes(8192) for seed in range(holes))
    one, two = (archives.gnu_sparse_archive(name, data) for _ in range(2))
    assert one != two, "the time in the header differs"
    assert len(one) % 10240 == 0
    results = [
        split(archives.outer(f"{name}.000.enc", archives.container(inner))) for inner in (one, two)
    ]
    assert results[0].payload.objects == results[1].payload.objects
    assert archives.noise(65_536, holes - 1) in bytes(results[0].payload.objects[0])
    literal = sum(count for kind, count, _ in operations(results[0].recipe) if kind == LITERAL)
    assert literal < 3000


def test_members_are_described_as_the_ledger_needs_them() -> None:
    parts = list(archives.members(archives.small_qubes()))
    found = split(archives.join(parts)).manifest
    assert [member.name for member in found.members] == [name for name, _ in parts]
    offset = 0
    for member, (name, data) in zip(found.members, parts, strict=True):
        payload = data if name == "backup-header" else data[96:-32]
        assert member.payload_length == len(payload)
        assert member.payload_sha256 == hashlib.sha256(payload).hexdigest()
        assert member.offset == offset
        offset += member.length
    assert offset == found.stream_length


def test_manifest_survives_json_and_unknown_keys() -> None:
    found = split(backup()).manifest
    line = found.to_json()
    assert from_json(line, found.run) == found
    newer = line.replace(b'{"run"', b'{"later":{"more":[1]},"run"', 1)
    assert from_json(newer, found.run) == found


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"format":2}',
        b"[" * 100_000,
        b'{"format":2,"members":[{"name":[]}]}',
    ],
)
def test_a_manifest_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(DamagedError):
        from_json(line, "20261123T231500Z-x")


@pytest.mark.parametrize("number", [b"1", b"3", b"null"])
def test_a_manifest_of_another_format_is_refused(number: bytes) -> None:
    with pytest.raises(FormatError):
        from_json(b'{"format":' + number + b"}", "20261123T231500Z-x")


@relaxed
@given(st.data())
def test_altered_payload_is_noticed(data: st.DataObject) -> None:
    result = split(medium_backup())
    item = data.draw(st.sampled_from(result.payload.objects))
    item[data.draw(st.integers(0, len(item) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError, match="is damaged"):
        result.join()


@pytest.mark.parametrize("change", ["shorter", "longer", "swapped"])
def test_payload_of_another_length_is_noticed(change: str) -> None:
    result = split(big_backup())
    objects = result.payload.objects
    if change == "shorter":
        del objects[-1][-1:]
    elif change == "longer":
        objects[-1] += b"x"
    else:
        objects.reverse()
    with pytest.raises(DamagedError):
        result.join()


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_cut_recipe_is_noticed(keep: int) -> None:
    result = split(backup())
    result.recipe = result.recipe[:keep]
    with pytest.raises(DamagedError):
        result.join()


@functools.cache
def medium_backup() -> bytes:
    qubes = [
        archives.Qube(f"q{n}", n, volumes={"private": archives.image(300_000, n)}) for n in (1, 2)
    ]
    return archives.join(archives.members(qubes))


@functools.cache
def big_backup() -> bytes:
    qubes = [
        archives.Qube(f"q{n}", n, volumes={"private": archives.image(300_000, n)}) for n in (1, 2)
    ]
    qubes[1].volumes["root"] = archives.noise(17_000_000)
    return archives.join(archives.members(qubes))


def test_stream_through_a_slow_pipe(tmp_path: archives.Path) -> None:
    """Reads of every size give the same result as one large read."""
    stream = os.urandom(200_000)
    read, write = os.pipe()
    with (tmp_path / "stream").open("wb") as file:
        file.write(stream)
    command = ["dd", f"if={tmp_path / 'stream'}", "bs=777", "status=none"]
    with subprocess.Popen(command, stdout=write):
        os.close(write)
        source = InputStream(read)
        got = b""
        while head := source.peek(1000):
            assert stream[len(got) :].startswith(head)
            got += source.exactly(333) + bytes(source.some(5000))
            assert source.position == len(got)
    os.close(read)
    assert got == stream
