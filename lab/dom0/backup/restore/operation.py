# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify or restore a backup.

Stands in for BackupRestore of qubes-core-admin-client qubesadmin/backup/restore.py. Its quirks are
kept: failures while data is restored are only logged, and the end says `-> Done.` all the same.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import qubesadmin
from qubesadmin.exc import QubesException

from .. import scrypt
from ..contents import size_to_human
from ..system import problem
from . import choice as choosing
from .choice import Choices, Options
from .extract import Extractor, Handler
from .handlers import handlers_for
from .header import BackupHeader, parse_header
from .metadata import StoredQube, read_qubes_xml
from .qubes import create_qubes, templates_first
from .source import MAX_STDERR_BYTES, Retrieval, Source, retrieve_small, start_retrieval

HEADER = "backup-header"
HMAC_MAX_BYTES = 4096
DISK_FREE_BYTES = 1024**3
CHUNK_BYTES = 100 * 1024 * 1024
FILES_PER_QUBE = 10

log = logging.getLogger("qubesadmin.backup")


class Restore:
    """One restore.

    Attributes:
        options: set these before `choose`.
        stored: the qubes that the backup describes, by name.
    """

    def __init__(
        self,
        app: qubesadmin.Qubes,
        source: Source,
        passphrase: str,
        compression_filter: str | None = None,
    ) -> None:
        """Read the header and qubes.xml; that takes two of the three reads of the source.

        Args:
            app: the system.
            source: where the backup is.
            passphrase: the user's.
            compression_filter: use this program instead of the one that the header names.

        Raises:
            QubesException: the header or qubes.xml can't be had or verified.
            OSError: the source can't be read.
        """
        self.app = app
        self.source = source
        self.options = Options()
        self._passphrase = passphrase
        parent = Path("~/QubesIncoming/backup#restore").expanduser()
        parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            self._header = self._read_header(compression_filter)
            self.stored = self._read_qubes_xml()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def choose(self) -> Choices:
        """Return what can be restored; see `choice.choose`."""
        return choosing.choose(self.app, self.stored, self.options)

    def verify(self, choices: Choices) -> None:
        """Look again for conflicts, after `options` changed."""
        choosing.verify(self.app, choices, self.options)

    def _decrypt(self, name: str, output: str, prefix: str) -> None:
        """Decrypt FOLDER/name into FOLDER/output and delete it.

        Stands in for _verify_and_decrypt.
        """
        source, target = self._folder / name, self._folder / output
        line = f"{prefix}!{self._passphrase}".encode()
        try:
            status, errors = scrypt.decrypt(source, target, line)
        except OSError as error:
            raise problem(f"failed to decrypt {source}: {error}") from error
        if status:
            target.unlink(missing_ok=True)
            raise problem(f"failed to decrypt {source}: {errors!r}")
        source.unlink()

    def _decrypt_member(self, name: str) -> Path:
        plain = name.removesuffix(".enc")
        self._decrypt(name, plain, f"{self._header.backup_id}!{plain}")
        return self._folder / plain

    def _read_header(self, compression_filter: str | None) -> BackupHeader:
        """Get and verify the header; upstream also tries openssl's digests, for old formats."""
        retrieve_small(self.source, self._folder, [HEADER, f"{HEADER}.hmac"])
        clear = self._folder / HEADER
        try:
            if (self._folder / f"{HEADER}.hmac").stat().st_size > HMAC_MAX_BYTES:
                raise problem(f"HMAC file {HEADER}.hmac too large")
            self._decrypt(f"{HEADER}.hmac", f"{HEADER}.dec", HEADER)
            if clear.read_bytes() != (self._folder / f"{HEADER}.dec").read_bytes():
                raise problem(f"Invalid hmac on {HEADER}")
        except QubesException as error:
            log.debug("Failed to verify %s.hmac using scrypt: %r", HEADER, error)
            raise problem(
                "Corrupted backup header (hmac verification failed). Is the password correct?"
            ) from error
        header = parse_header(clear.read_bytes(), compression_filter)
        clear.unlink()
        return header

    def _read_qubes_xml(self) -> dict[str, StoredQube]:
        retrieve_small(self.source, self._folder, ["qubes.xml.000.enc"])
        chunk = self._decrypt_member("qubes.xml.000.enc")
        target = self._folder / "qubes-restored.xml"

        def save(stream: IO[bytes], _size: int | None) -> None:
            with target.open("wb") as file:
                shutil.copyfileobj(stream, file)

        extractor = self._extractor({"qubes.xml": save})
        extractor.put(chunk)
        extractor.finish()
        try:
            return read_qubes_xml(target)
        except (OSError, ElementTree.ParseError, KeyError) as error:
            raise problem(
                "unable to extract the qubes backup. Check extracting process errors."
            ) from error
        finally:
            target.unlink(missing_ok=True)

    def _extractor(self, handlers: dict[str, Handler]) -> Extractor:
        extractor = Extractor(self._folder, handlers, self._header.compression_filter)
        extractor.start()
        return extractor

    def run(self, choices: Choices) -> None:
        """Verify (`options.verify_only`) or restore what is chosen; the third read of the source.

        Raises:
            QubesException: verifying failed, or there is too little space.
            OSError: the source can't be read.
        """
        space = os.statvfs(self._folder)
        if space.f_frsize * space.f_bavail < DISK_FREE_BYTES:
            raise problem(f"Too little space in {self._folder}, needs at least 1GB")
        self.verify(choices)
        restored = create_qubes(self.app, choices, verify_only=self.options.verify_only)
        wanted, size = [], 0
        handlers: dict[str, Handler] = {}
        extractor = self._extractor(handlers)
        for chosen in templates_first(choices.values()):
            if chosen.qube.name not in restored:
                continue
            path = str(chosen.qube.backup_path)
            wanted.append("dom0-home" if chosen.qube.name == "dom0" else path)
            size += chosen.qube.size
            if not self.options.verify_only:
                handlers.update(handlers_for(chosen.qube, restored[chosen.qube.name], extractor))
        log.info("Extracting data: %s to restore", size_to_human(size))
        try:
            self._restore_data(wanted, size, extractor)
        except QubesException as error:
            if self.options.verify_only:
                raise
            log.error("Error extracting data: %s", error)
        finally:
            self.close()
        log.info("-> Done.")
        if not self.options.verify_only:
            log.info("-> Please install updates for all the restored templates.")

    def _restore_data(self, wanted: list[str], size: int, extractor: Extractor) -> None:
        """Get, decrypt and unpack the chunks; stands in for _restore_vm_data."""
        max_files = 2 * (FILES_PER_QUBE * len(wanted) + size // CHUNK_BYTES)
        if self.options.ignore_size_limit:
            max_files = size = 0
        retrieval = None
        try:
            retrieval = start_retrieval(self.source, self._folder, wanted, max_files, size)
            self._take_chunks(retrieval, wanted, extractor)
            self._check_end(retrieval)
        except BaseException:
            if retrieval is not None:
                retrieval.stop()
            extractor.finish(cancel=True)
            raise
        finally:
            if retrieval is not None:
                retrieval.close()
        extractor.finish()
        if extractor.failed:
            raise problem("unable to extract the qubes backup. Check extracting process errors.")

    def _take_chunks(self, retrieval: Retrieval, wanted: list[str], extractor: Extractor) -> None:
        def next_name() -> str:
            return retrieval.names.readline().decode("ascii", "replace").strip()

        name = next_name()
        while name and name != "EOF":
            # tar tells a name before the file is there: it is complete when the next one comes.
            following = next_name() if retrieval.names_come_first else None
            if not name.endswith(".enc"):
                raise problem(f"Invalid file extension found in archive: {name}")
            if not name.startswith(tuple(wanted)):
                (self._folder / name).unlink()
            else:
                chunk = self._decrypt_member(name)
                if self.options.verify_only:
                    chunk.unlink()
                else:
                    extractor.put(chunk)
            name = next_name() if following is None else following

    def _check_end(self, retrieval: Retrieval) -> None:
        status = retrieval.unpacker.wait()
        if status == errno.EDQUOT:
            raise problem(
                "retrieved backup size exceed expected size, if you believe this is ok, use "
                "--ignore-size-limit option"
            )
        if status:
            errors = retrieval.errors.read(MAX_STDERR_BYTES)
            location = self.source.location
            raise problem(f"unable to read the qubes backup file {location} ({status}): {errors!r}")
        if retrieval.service is not None and (code := retrieval.service.wait()):
            raise problem(
                f"Backup completed, but VM sending it reported an error (exit code {code})"
            )
