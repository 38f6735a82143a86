# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes official backup streams (format version 4) the way dom0 makes them.

One real GNU tar per member (qubes-core-admin qubes/backup.py SendWorker.run), inner archives for
volumes as qubes/tarwriter.py writes them (pax, GNU sparse 1.0) and for files as GNU tar does, and
containers as docs/design/formats.md describes them, with HMACs of a random key: dedup-store can't
check those.
"""

import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

CHUNK = 100 << 20
BACKUP_ID = "20261123T231500-4711"


@dataclass
class Qube:
    """A qube to put into a backup: its volumes' images and its other files."""

    name: str
    qid: int
    klass: str = "AppVM"
    volumes: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    stamp: int | None = None  # its backup_timestamp

    @property
    def path(self) -> str:
        """Where its members are."""
        return "dom0-home/user" if self.qid == 0 else f"vm{self.qid}/"


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that don't compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)  # noqa: S311 (no secret)


def image(size: int, seed: int = 1) -> bytes:
    """A volume's content: data with holes."""
    piece = 3 * 4096 + 512
    blocks = []
    for number in range(size // (2 * piece)):
        blocks += [noise(piece, seed * 1_000_003 + number), bytes(piece)]
    return b"".join(blocks).ljust(size, b"\0")[:size]


def container(payload: bytes, version: int = 0x80) -> bytes:
    """Wrap payload as the shim does (0x80), or in something that looks like scrypt's (0)."""
    start = b"scrypt" + bytes([version, 14]) + bytes([0, 0, 0, 8, 0, 0, 0, 1]) + os.urandom(32)
    head = start + hashlib.sha256(start).digest()[:16] + os.urandom(32)
    if version == 0:
        payload = os.urandom(len(payload))
    return head + payload + os.urandom(32)


def sparse_archive(name: str, data: bytes) -> bytes:
    """The inner archive of a volume."""
    zero = bytes(512)
    runs: list[list[int]] = []
    for offset in range(0, len(data), 512):
        block = data[offset : offset + 512]
        if block == zero[: len(block)]:
            continue
        if runs and runs[-1][0] + runs[-1][1] == offset:
            runs[-1][1] += len(block)
        else:
            runs.append([offset, len(block)])
    if not runs or sum(runs[-1]) != len(data):
        runs.append([len(data), 0])
    numbers = "".join(f"{start}\n{size}\n" for start, size in runs)
    sparse_map = f"{len(runs)}\n{numbers}".encode()
    sparse_map += bytes(-len(sparse_map) % 512)
    folder, _, base = name.rpartition("/")
    info = tarfile.TarInfo(f"{folder}/GNUSparseFile.{os.urandom(3).hex()}/{base}")
    info.size = len(sparse_map) + sum(size for _, size in runs)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(len(data)),
    }
    pieces = [data[start : start + size] for start, size in runs]
    body = sparse_map + b"".join(pieces)
    return info.tobuf(tarfile.PAX_FORMAT) + body + bytes(-len(body) % 512) + bytes(1024)


def gnu_sparse_archive(name: str, data: bytes) -> bytes:
    """The inner archive of a volume that is a file: real GNU tar, as upstream calls it.

    The old GNU sparse format, with the map in the header and in blocks after it, and the archive
    padded to 10240 bytes. Source: qubes-core-admin qubes/backup.py Backup._wrap_and_send_files.
    """
    prefix, _, base = name.rpartition("/")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / base
        with image.open("wb") as file:
            for offset in range(0, len(data), 4096):
                if any(data[offset : offset + 4096]):
                    file.seek(offset)
                    file.write(data[offset : offset + 4096])
            file.truncate(len(data))
        os.utime(image, (0, random.randrange(10**9)))  # noqa: S311 (no secret)
        command = ["tar", "-Pc", "--sparse", "-C", folder, "--dereference"]
        command += [f"--xform=s:^{base}:{prefix}/\\0:", base]
        return subprocess.run(command, check=True, capture_output=True).stdout


def file_archive(name: str, data: bytes) -> bytes:
    """The inner archive of an ordinary file, with GNU tar's defaults."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(data), 1_700_000_000
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def home_archive() -> bytes:
    """The inner archive of dom0's home: many files, long names, sparse ones (real GNU tar)."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "user"
        (home / ("long" * 30) / ("name" * 25)).mkdir(parents=True)
        (home / ("long" * 30) / ("name" * 25) / ("x" * 120)).write_text("deep")
        (home / "link").symlink_to("sparse")
        with (home / "sparse").open("wb") as file:
            for offset in range(0, 40 << 20, 1 << 20):  # more holes than one header can hold
                file.seek(offset)
                file.write(noise(4096, offset + 1))
        command = ["tar", "-Pc", "--sparse", "-C", folder, "--xform=s:^user:dom0-home/\\0:", "user"]
        return subprocess.run(command, check=True, capture_output=True).stdout


def outer(name: str, data: bytes) -> bytes:
    """One member of the stream."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        command = ["tar", "-cO", "--posix", "-C", folder, name]
        return subprocess.run(command, check=True, capture_output=True).stdout


def header(*, compressed: bool = False, backup_id: str = BACKUP_ID, version: int = 4) -> bytes:
    return (
        f"version={version}\nencrypted=True\ncompressed={compressed}\ncompression-filter=gzip\n"
        f"hmac-algorithm=scrypt\nbackup-id={backup_id}\n"
    ).encode()


def qubes_xml(qubes: list[Qube], others: tuple[str, ...] = ("not-in-it",)) -> bytes:
    """qubes.xml in upstream's form: it always describes all qubes."""
    domains = []
    for qube in [*qubes, *[Qube(name, 90 + n) for n, name in enumerate(others)]]:
        klass = "AdminVM" if qube.qid == 0 else qube.klass
        included = qube in qubes
        features = f'<feature name="backup-content">{"1" if included else ""}</feature>'
        if included:
            features += f'<feature name="backup-path">{qube.path}</feature>'
        volumes = "".join(
            f'<volume name="{name}" pool="p" save_on_stop="True"/>' for name in qube.volumes
        )
        name = "" if qube.qid == 0 else f'<property name="name">{escape(qube.name)}</property>'
        if qube.stamp is not None:
            name += f'<property name="backup_timestamp">{qube.stamp}</property>'
        domains.append(
            f'<domain id="domain-{qube.qid}" class="{klass}"><properties>{name}'
            f'<property name="label" ref="label-1">red</property></properties>'
            f"<features>{features}</features><tags/><volume-config>{volumes}"
            f'<volume name="volatile" pool="p" save_on_stop="False"/></volume-config></domain>'
        )
    return f"<?xml version='1.0'?>\n<qubes><domains>{''.join(domains)}</domains></qubes>".encode()


def inner_archives(qubes: list[Qube]) -> Iterator[tuple[str, bytes]]:
    """Names and inner archives of all files of a backup, in order."""
    yield "qubes.xml", file_archive("qubes.xml", qubes_xml(qubes))
    for qube in qubes:
        if qube.qid == 0:
            yield "dom0-home/user", home_archive()
        for name, data in qube.volumes.items():
            yield f"{qube.path}{name}.img", sparse_archive(f"{qube.path}{name}.img", data)
        for name, data in qube.files.items():
            yield f"{qube.path}{name}", file_archive(f"{qube.path}{name}", data)


def members(
    qubes: list[Qube],
    *,
    kind: str = "authenticated",
    compressed: bool = False,
    chunk: int = CHUNK,
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all members.

    Args:
        qubes: what is in the backup.
        kind: `authenticated`, `scrypt`, or `plain` (no container, the guide's script).
        compressed: inner archives go through gzip.
        chunk: bytes of a chunk.
    """
    versions = {"authenticated": 0x80, "scrypt": 0}

    def wrap(data: bytes) -> bytes:
        return container(data, versions[kind]) if kind in versions else data

    text = header(compressed=compressed)
    yield "backup-header", text
    yield "backup-header.hmac", wrap(text)
    for name, data in inner_archives(qubes):
        packed = gzip.compress(data, 1, mtime=0) if compressed else data
        for number, offset in enumerate(range(0, len(packed) + 1, chunk)):
            yield f"{name}.{number:03}.enc", wrap(packed[offset : offset + chunk])


def join(parts: Iterator[tuple[str, bytes]] | list[tuple[str, bytes]]) -> bytes:
    """The stream of these members."""
    return b"".join(outer(name, data) for name, data in parts)


def small_qubes() -> list[Qube]:
    """A few qubes of all kinds, with little in them."""
    return [
        Qube("debian", 5, "TemplateVM", {"root": image(300_000, 5), "private": image(70_000, 6)}),
        Qube("work", 7, volumes={"private": image(200_000, 7)}, files={"firewall.xml": b"<x/>"}),
        Qube("disp", 9, files={"empty": b""}),
        Qube("dom0", 0),
    ]
