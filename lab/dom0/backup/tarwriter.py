# SPDX-License-Identifier: GPL-3.0-or-later
"""Write one file as a tar archive with a sparse map: `python3 -m qubes.tarwriter INPUT`.

Stand-in for qubes-core-admin qubes/tarwriter.py. The archive holds one member in GNU sparse format
1.0 (pax records GNU.sparse.*), its name is DIR/GNUSparseFile.PID/BASE; then follow the map as text,
padded to 512 bytes, the data without its all-zero 512-byte blocks, and two zero blocks. Unlike GNU
tar's, the archive isn't padded to 10240 bytes.
"""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE
WINDOW = 2048 * BLOCK  # bytes scanned per read
ZERO_BLOCK = bytes(BLOCK)

Run = tuple[int, int]  # offset and length in bytes


def sparse_map(fd: int) -> list[Run]:
    """Return where the file's data is, leaving out 512-byte blocks of zeros.

    The last entry ends at the file's end, with length 0 if the file ends in zeros. Stands in for
    get_sparse_map; it skips the file system's holes without reading them. (For a file whose size
    isn't a multiple of 512, upstream compares the last, short block together with what its buffer
    held before; images never have such a size.)
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    runs: list[Run] = []
    for offset, length in _data_blocks(fd, size):
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + length)
        else:
            runs.append((offset, length))
    if not runs or sum(runs[-1]) < size:
        runs.append((size, 0))
    return runs


def _data_blocks(fd: int, size: int) -> Iterator[Run]:
    """Yield runs of blocks that aren't all zeros; neighbours may touch."""
    for start, end in _extents(fd, size):
        for base in range(start, end, WINDOW):
            data = os.pread(fd, min(WINDOW, end - base), base)
            begin = None
            for offset in range(0, len(data), BLOCK):
                block = data[offset : offset + BLOCK]
                if block == ZERO_BLOCK or (len(block) < BLOCK and not any(block)):
                    if begin is not None:
                        yield base + begin, offset - begin
                        begin = None
                elif begin is None:
                    begin = offset
            if begin is not None:
                yield base + begin, len(data) - begin


def _extents(fd: int, size: int) -> Iterator[Run]:
    """Yield (start, end) of what isn't a hole; all of it where the system can't tell."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                yield position, size
            return
        yield start, position


def header(name: str, runs: Sequence[Run]) -> bytes:
    """Return everything that stands before the data: pax header, ustar header and map.

    Args:
        name: the member's name, as extraction gives it.
        runs: what `sparse_map` returned.
    """
    text = f"{len(runs)}\n" + "".join(f"{offset}\n{length}\n" for offset, length in runs)
    map_bytes = text.encode("ascii")
    map_bytes += bytes(-len(map_bytes) % BLOCK)
    folder, base = os.path.split(name)
    info = tarfile.TarInfo(f"{folder}/GNUSparseFile.{os.getpid()}/{base}")
    info.size = sum(length for _, length in runs) + len(map_bytes)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(sum(runs[-1])),
    }
    return info.tobuf(tarfile.PAX_FORMAT) + map_bytes


def write_archive(source: int, target: int, name: str) -> None:
    """Write the archive of file descriptor `source` to `target`.

    Raises:
        OSError: reading or writing failed.
        EOFError: the source became shorter meanwhile.
    """
    runs = sparse_map(source)
    _write_all(target, header(name, runs))
    for offset, length in runs:
        position, left = offset, length
        while left:
            sent = os.sendfile(target, source, position, left)
            if not sent:
                raise EOFError("premature EOF")
            position += sent
            left -= sent
    # Only a source whose size isn't a multiple of 512 would need padding; upstream writes none.
    _write_all(target, 2 * ZERO_BLOCK)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the compressor's exit status, or 0."""
    parser = argparse.ArgumentParser(prog="qubes.tarwriter", description=__doc__)
    parser.add_argument("--override-name", help="use this name in the tar header")
    parser.add_argument(
        "--use-compress-program", metavar="COMMAND", help="filter the archive through COMMAND"
    )
    parser.add_argument("input_file")
    parser.add_argument("output_file", nargs="?", default="-")
    args = parser.parse_args(argv)
    name = args.override_name or args.input_file
    with (
        Path(args.input_file).open("rb") as source,
        Path("/dev/stdout" if args.output_file == "-" else args.output_file).open("wb") as output,
    ):
        if not args.use_compress_program:
            write_archive(source.fileno(), output.fileno(), name)
            return 0
        # One word, as upstream: arguments in it aren't split.
        with subprocess.Popen(
            [args.use_compress_program], stdin=subprocess.PIPE, stdout=output
        ) as filtering:
            if filtering.stdin is not None:
                write_archive(source.fileno(), filtering.stdin.fileno(), name)
        return filtering.returncode


if __name__ == "__main__":
    try:
        main()  # upstream drops the compressor's status here: a failed filter goes unseen
    except (OSError, EOFError) as failure:
        print(f"qubes.tarwriter: {failure}", file=sys.stderr)
        sys.exit(1)
