# SPDX-License-Identifier: GPL-3.0-or-later
"""whole, partial, opaque: a run must never look more complete than it is."""

import bz2
import functools
import gzip
import lzma
from collections.abc import Callable

import pytest
from backup_format import qubesxml
from backup_format.limits import CHUNK_BYTES
from dedup_store.archive.completeness import Verdict

from testing.store import archives
from testing.store.archives import Qube
from testing.store.memory_engine import split

Parts = list[tuple[str, bytes]]
SMALL = 65_536  # bytes of a chunk


@functools.cache
def parts() -> tuple[tuple[str, bytes], ...]:
    return tuple(archives.members(archives.small_qubes()))


def judge(members: Parts, chunk: int = CHUNK_BYTES) -> Verdict:
    return split(archives.join(members), chunk).verdict


def judge_small(members: Parts) -> Verdict:
    return judge(members, SMALL)


def test_a_complete_backup_is_whole() -> None:
    verdict = judge(list(parts()))
    assert (verdict.status, verdict.reason) == ("whole", "")
    assert [(q["name"], q["class"], q["path"]) for q in verdict.qubes] == [
        ("debian", "TemplateVM", "vm5/"),
        ("work", "AppVM", "vm7/"),
        ("disp", "AppVM", "vm9/"),
        ("dom0", "AdminVM", "dom0-home/user"),
    ]
    volumes = verdict.qubes[0]["volumes"]
    assert [(v["name"], v["chunks"], v["end"]) for v in volumes] == [
        ("root.img", 1, "seen"),
        ("private.img", 1, "seen"),
    ]


def test_cut_between_members_is_never_whole() -> None:
    """Such a cut is a plain end of file: only what is missing shows it."""
    for count in range(len(parts())):
        verdict = judge(list(parts()[:count]))
        assert verdict.status == "partial", f"after {count} members"
        assert verdict.reason


@pytest.mark.parametrize("name", ["backup-header", "backup-header.hmac", "qubes.xml.000.enc"])
def test_without_one_of_the_first_members(name: str) -> None:
    verdict = judge([part for part in parts() if part[0] != name])
    assert verdict.status == "partial"
    assert f"{name} is missing" in verdict.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vm5/root.img.000.enc", "debian: root.img is missing"),
        ("vm7/private.img.000.enc", "work: private.img is missing"),
        ("vm9/empty.000.enc", "disp is missing"),
        ("dom0-home/user.000.enc", "dom0 is missing"),
    ],
)
def test_without_a_volume(name: str, reason: str) -> None:
    verdict = judge([part for part in parts() if part[0] != name])
    assert (verdict.status, verdict.reason) == ("partial", reason)


@pytest.fixture
def small_chunks() -> Parts:
    """A volume of four chunks, without 400 MiB of data."""
    qube = Qube("work", 7, volumes={"private": archives.noise(200_000)})
    found = list(archives.members([qube], chunk=SMALL))
    assert [name for name, _ in found[3:]] == [f"vm7/private.img.{n:03}.enc" for n in range(4)]
    assert judge_small(found).status == "whole"
    return found


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (3, "vm7/private.img.000.enc is missing"),
        (4, "vm7/private.img.001.enc is missing"),
        (6, "vm7/private.img.003.enc is missing: a full chunk is before it"),
    ],
)
def test_without_a_chunk(small_chunks: Parts, missing: int, reason: str) -> None:
    del small_chunks[missing]
    verdict = judge_small(small_chunks)
    assert verdict.status == "partial"
    assert reason in verdict.reason


@pytest.mark.parametrize("kind", ["scrypt", "authenticated"])
def test_hidden_volume_that_ends_with_a_full_chunk(kind: str) -> None:
    """The next chunk is missing, even where the inner archive can't be seen."""
    qube = Qube("work", 7, volumes={"private": archives.noise(200_000)})
    is_compressed = kind == "authenticated"
    found = list(archives.members([qube], kind=kind, compressed=is_compressed, chunk=SMALL))
    assert judge_small(found).status == ("opaque" if kind == "scrypt" else "whole")
    verdict = judge_small(found[:-1])
    assert verdict.status == "partial"
    assert "vm7/private.img.003.enc is missing: a full chunk is before it" in verdict.reason


def test_volume_of_exactly_full_chunks(small_chunks: Parts) -> None:
    """dom0 then sends an empty last chunk (_split_and_send)."""
    inner = small_chunks[:3]
    full = archives.sparse_archive("vm7/private.img", archives.noise(65_536 - 1024 - 512 * 4))
    assert len(full) == 65_536
    inner.append(("vm7/private.img.000.enc", archives.container(full)))
    assert "vm7/private.img.001.enc is missing" in judge_small(inner).reason
    inner.append(("vm7/private.img.001.enc", archives.container(b"")))
    assert judge_small(inner).status == "whole"


@pytest.mark.parametrize("holes", [2, 200])
def test_volume_that_gnu_tar_archived(small_chunks: Parts, holes: int) -> None:
    """Several chunks of the old sparse format; without the last one its end isn't reached."""
    name = "vm7/private.img"
    data = b"".join(archives.noise(8192, seed) + bytes(8192) for seed in range(holes))
    inner = archives.gnu_sparse_archive(name, data)
    found = small_chunks[:3]
    found += [
        (f"{name}.{number:03d}.enc", archives.container(inner[start : start + 65_536]))
        for number, start in enumerate(range(0, len(inner), 65_536))
    ]
    assert judge_small(found).status == "whole"
    if holes > 2:
        assert judge_small(found[:-1]).status == "partial"
        assert ".enc is missing: a full chunk is before it" in judge_small(found[:-1]).reason


def test_chunks_in_disorder(small_chunks: Parts) -> None:
    small_chunks[4], small_chunks[5] = small_chunks[5], small_chunks[4]
    assert judge_small(small_chunks).status == "partial"


def test_short_chunk_in_the_middle(small_chunks: Parts) -> None:
    name, data = small_chunks[4]
    small_chunks[4] = (name, archives.container(data[96:-33]))
    assert "vm7/private.img.001.enc is too short" in judge_small(small_chunks).reason


def test_chunks_of_another_size() -> None:
    """The archive itself shows the size of its chunks, if a volume has several."""
    volumes = {"private": archives.noise(200_000), "root": archives.noise(100_000)}
    found = list(archives.members([Qube("work", 7, volumes=volumes)], chunk=65_536))
    assert judge(found).status == "whole"
    assert ".001.enc is missing: a full chunk is before it" in judge(found[:-1]).reason
    name, data = found[4]
    found[4] = (name, archives.container(data[96:-33]))
    assert f"{name} is too short" in judge(found).reason


def test_chunk_that_is_too_long(small_chunks: Parts) -> None:
    name, data = small_chunks[-1]
    longer = archives.container(data[96:-32] + bytes(SMALL))
    assert f"{name} is too long" in judge_small([*small_chunks[:-1], (name, longer)]).reason


def test_chunks_apart(small_chunks: Parts) -> None:
    small_chunks.insert(
        5, ("vm9/empty.000.enc", archives.container(archives.file_archive("e", b"")))
    )
    assert "not together" in judge_small(small_chunks).reason


def test_inner_archive_that_was_cut_by_its_maker() -> None:
    name, data = parts()[3]
    cut = archives.container(data[96:-32][:-512])
    verdict = judge([*parts()[:3], (name, cut), *parts()[4:]])
    assert (verdict.status, verdict.reason) == ("partial", "vm5/root.img does not reach its end")


def test_image_that_contains_zero_blocks_and_tar_headers() -> None:
    """The end marker counts only where the inner archive ends."""
    inside = archives.file_archive("x", b"y") * 3
    inner = archives.file_archive("vm7/private.img", inside + bytes(4096))
    qubes = [Qube("work", 7, volumes={"private": b""})]
    first = list(archives.members(qubes))[:3]
    name = "vm7/private.img.000.enc"
    assert judge([*first, (name, archives.container(inner))]).status == "whole"
    cut = inner[: 512 + len(inside)]
    assert judge([*first, (name, archives.container(cut))]).status == "partial"


def test_really_encrypted_backup_is_opaque() -> None:
    found = list(archives.members(archives.small_qubes(), kind="scrypt"))
    verdict = judge(found)
    assert verdict.status == "opaque"
    assert [q["path"] for q in verdict.qubes] == ["vm5/", "vm7/", "vm9/", "dom0-home/user"]
    assert judge([part for part in found if "hmac" not in part[0]]).status == "partial"


def test_plain_backup_of_the_guides_script_is_whole() -> None:
    found = list(archives.members(archives.small_qubes(), kind="plain"))
    assert judge(found).status == "whole"
    assert judge(found[:-1]).status == "partial"


@pytest.mark.parametrize("version", [0, 0x81, None], ids=["scrypt", "sealed", "none"])
@pytest.mark.parametrize("compressed", [False, True])
def test_mixed_containers_are_no_whole_run(version: int | None, compressed: bool) -> None:
    """The shim was changed, or removed, during the backup."""
    found = list(archives.members(archives.small_qubes(), compressed=compressed))
    for at in (1, 2, 4, len(found) - 1):
        name, data = found[at]
        other = data[96:-32] if version is None else archives.container(data[96:-32], version)
        verdict = judge([(n, other if n == name else d) for n, d in found])
        assert verdict.status == "partial"
        assert "mixed containers: backup-header.hmac is in" in verdict.reason


def test_compressed_backup_is_whole_with_ends_unseen() -> None:
    found = list(archives.members(archives.small_qubes(), compressed=True))
    verdict = judge(found)
    assert verdict.status == "whole"
    assert verdict.qubes[0]["volumes"][0]["end"] == "unseen"
    assert judge(found[:-1]).status == "partial"


def replaced(name: str, data: bytes, source: tuple[tuple[str, bytes], ...] | None = None) -> Parts:
    return [(n, data if n == name else d) for n, d in source or parts()]


def test_header_and_its_copy_differ() -> None:
    verdict = judge(replaced("backup-header", archives.header(backup_id="other")))
    assert verdict.reason == "backup-header and backup-header.hmac differ"


def test_another_format_version() -> None:
    header = archives.header(version=3)
    found = replaced("backup-header", header)
    found[1] = (found[1][0], archives.container(header))
    assert judge(found).reason == "the backup is not of format version 4"


def test_member_twice() -> None:
    assert "is there twice" in judge([*parts(), parts()[-1]]).reason


def test_foreign_member() -> None:
    verdict = judge([*parts(), ("readme.txt", b"hello")])
    assert verdict.reason == "readme.txt is not what a backup contains"


def test_damaged_container() -> None:
    name, data = parts()[4]
    broken = data[:20] + bytes([data[20] ^ 1]) + data[21:]
    verdict = judge(replaced(name, broken))
    assert verdict.status == "partial"
    assert f"{name}: its container is damaged" in verdict.reason


def test_later_container_version_is_opaque() -> None:
    """0x81 is kept for the sealed container; what it hides can't be judged."""
    found = list(archives.members([Qube("work", 7, volumes={"private": b"x"})]))
    sealed = [found[0]] + [
        (name, archives.container(data[96:-32], 0x81)) for name, data in found[1:]
    ]
    assert judge(sealed).status == "opaque"


def with_xml(text: bytes, pack: Callable[[bytes], bytes] = bytes, **options: bool) -> Verdict:
    inner = archives.file_archive("qubes.xml", text)
    qubes = archives.small_qubes()
    found = tuple(archives.members(qubes, **options))
    return judge(replaced("qubes.xml.000.enc", archives.container(pack(inner)), found))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressions_of_qubes_xml(pack: Callable[[bytes], bytes]) -> None:
    text = archives.qubes_xml(archives.small_qubes())
    assert with_xml(text, pack, compressed=True).status == "whole"


def test_unknown_compression_is_opaque() -> None:
    text = archives.qubes_xml(archives.small_qubes())
    verdict = with_xml(text, lambda data: b"\x28\xb5\x2f\xfd" + data, compressed=True)
    assert verdict.status == "opaque"


BOMB = b'<!DOCTYPE q [<!ENTITY a "xxxx"><!ENTITY b "&a;&a;">]><qubes><domains>&b;</domains></qubes>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "it has a document type"),
        (b"<qubes><domains>", "it isn't well-formed (line 1)"),
        (b"<other/>", "it has no list of domains"),
        (b"", "it isn't well-formed (line 1)"),
    ],
)
def test_hostile_qubes_xml(text: bytes, reason: str) -> None:
    verdict = with_xml(text)
    assert verdict.status == "partial"
    assert f"qubes.xml can't be read: {reason}" in verdict.reason


def test_qubes_xml_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qubesxml, "MAX_XML", 100_000)
    bomb = with_xml(b"<qubes>" + b" " * 200_000, gzip.compress, compressed=True)
    assert bomb.status == "partial"
    assert with_xml(b"<qubes>" + b" " * 200_000).status == "partial"


def test_qubes_xml_inside_is_no_archive() -> None:
    found = replaced("qubes.xml.000.enc", archives.container(b"<qubes/>" * 100))
    assert "qubes.xml can't be read" in judge(found).reason


def test_hostile_qube_name_is_not_passed_on() -> None:
    verdict = judge(list(archives.members([Qube("a\x1b[2J", 7, volumes={"private": b"x"})][:0])))
    assert verdict.status == "whole"  # a backup of nothing
    qube = Qube("a b;rm", 7, volumes={"private": b"x"})
    verdict = judge(list(archives.members([qube])))
    assert verdict.status == "whole"
    assert verdict.qubes[0]["name"] is None
