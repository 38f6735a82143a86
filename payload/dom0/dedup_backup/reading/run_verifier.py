# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of a run: its member list, the beginning of its stream, or all of it."""

import hashlib
import os
import re
from collections.abc import Iterator

from backup_format import qubesxml
from backup_format.container import (
    AUTHENTICATED,
    ENCRYPTED,
    HEAD_BYTES,
    NONE,
    OVERHEAD,
    TRAILER_BYTES,
)
from backup_format.limits import MAX_HEADER, MAX_XML
from backup_format.members import HEADER, HMAC, XML
from dom0_common.text import clean

from dedup_backup.calls.backup_qube import Member
from dedup_backup.calls.service import Call
from dedup_backup.errors import BackupError, WrongError
from dedup_backup.reading.archive_reader import ArchiveReader, CutError
from dedup_backup.reading.completeness import Comparison, Completeness, wrong_container
from dedup_backup.reading.container_verifier import ContainerVerifier, DamagedError
from dedup_backup.reading.ends import Ends
from dedup_backup.reading.report import EnoughError, Report
from dedup_backup.records.ledger import Row

# What Qubes 4.x writes (qubes/backup.py BackupHeader); the id goes into all passphrase lines
_HEADER = re.compile(
    rb"version=4\nencrypted=True\ncompressed=(?:True|False)\n(?:compression-filter=[!-~]{1,64}\n)?"
    rb"hmac-algorithm=scrypt\nbackup-id=([A-Za-z0-9-]{1,64})\n"
)
_INSIDE = "what is inside really encrypted files: that is for qvm-backup-restore --verify-only"


class RunVerifier:
    """A check of one run.

    Args:
        backup_id: its backup's id, by the run's name.
        ledger: the rows of the backup's ledger, None when dom0 has none.
        report: takes what is found.

    Attributes:
        described: the qubes in its qubes.xml, None when that can't be read.
    """

    def __init__(self, backup_id: str, ledger: list[Row] | None, report: Report) -> None:
        self._id = backup_id
        self._ledger = ledger
        self._report = report
        self._xml: bytes | None = None
        self._ends = Ends()
        self.described: list[qubesxml.Qube] | None = None
        # a ledger is only ever of our own containers
        self._kinds = (AUTHENTICATED, ENCRYPTED) if ledger is None else (AUTHENTICATED,)
        self._proved = False  # whether backup-header.hmac was right under the passphrase

    def member_list(self, members: list[Member], stream: Call, passphrase: bytes | None) -> None:
        """Check the member list that the store reports for the run.

        Only the beginning of the stream is read, for qubes.xml. It is trusted when the ledger
        has its SHA-256, or when its container is right under the passphrase.
        """
        completeness, compare = self._completeness(), self._comparison()
        for member in members:
            completeness.add(member.name, member.container, member.length)
            if compare:
                compare.add(Row(member.name, member.length, member.sha256, None))
            self._report.members += 1
            self._report.bytes += member.length
        if compare:
            compare.finish()
        for row in self._ledger or []:
            self._ends.add(row.name, row.length, row.zeros)
        self._beginning(stream, passphrase)
        completeness.judge(self._included())
        self._demand_ends()

    def data(self, members: list[Member], stream: Call, passphrase: bytes) -> None:
        """Check every byte of the stream, under the passphrase and against ledger and list."""
        completeness = self._completeness()
        said = [Row(member.name, member.length, None, None) for member in members]
        compares = [Comparison(said, "the store's own list", self._report.add_problem)]
        if compare := self._comparison():
            compares.append(compare)
        try:
            for name, kind, length, trailer in self._checked(stream, passphrase):
                completeness.add(name, kind, length)
                for compare in compares:
                    compare.add(Row(name, length, None, trailer))
                self._report.members += 1
                self._report.bytes += length
        except WrongError as error:
            self._report.add_problem(str(error))
            if isinstance(error, CutError):
                self._end(stream)
            return
        self._end(stream)
        self._demand_proof()
        for compare in compares:
            compare.finish()
        completeness.judge(self._included())
        self._demand_ends()

    @property
    def is_compressed(self) -> bool:
        """Whether its files are compressed, so that nothing shows whether they reach their end."""
        return self._xml is not None and qubesxml.is_compressed(self._xml)

    def _demand_ends(self) -> None:
        """Report each file that doesn't reach its end, as far as that shows."""
        if self._xml is not None and not self.is_compressed:
            for name in self._ends.missing():
                self._report.add_problem(f"{name} stops before its end: its backup failed there")

    def _end(self, stream: Call) -> None:
        try:
            stream.finish()
        except BackupError as error:
            self._report.add_problem(str(error))

    def _completeness(self) -> Completeness:
        return Completeness(self._report.add_problem, self._kinds)

    def _demand_proof(self) -> None:
        """Report a missing proof: only a right backup-header.hmac shows whose backup it is."""
        if not self._proved:
            self._report.add_problem(f"{HMAC} wasn't verified under the passphrase")

    def _comparison(self) -> Comparison | None:
        if self._ledger is None:
            return None
        return Comparison(self._ledger, "the ledger", self._report.add_problem)

    def _checked(
        self, stream: Call, passphrase: bytes
    ) -> Iterator[tuple[str, str, int, str | None]]:
        """Check all members; yield each one's name, container, bytes of payload, trailer."""
        archive = ArchiveReader(stream)
        containers = ContainerVerifier(archive.spool, passphrase)
        header, before = b"", len(self._report.problems)
        for name, size in archive.members():
            if name == HEADER:
                header = os.pread(archive.spool, MAX_HEADER, 0)
                self._check_header(header)
                yield name, NONE, size, None
                continue
            kind = containers.kind()
            self._check_container(containers, kind, name, header)
            length, trailer = size if kind == NONE else max(0, size - OVERHEAD), ""
            if kind == AUTHENTICATED:  # only ours have a trailer that a ledger could have
                trailer = containers.trailer()
                self._ends.add(name, length, containers.zeros())
            yield name, kind, length, trailer
            if name == HMAC and len(self._report.problems) > before:
                raise EnoughError

    def _check_header(self, header: bytes) -> None:
        found = _HEADER.fullmatch(header)
        if not found:
            self._report.add_problem(f"{HEADER}: it is not what Qubes writes")
        elif found[1].decode() != self._id:
            self._report.add_problem(
                f"{HEADER}: it is of backup {found[1].decode()}, not {self._id}"
            )

    def _check_container(
        self, containers: ContainerVerifier, kind: str, name: str, header: bytes
    ) -> None:
        """Check the container in the spool under the passphrase; keep what is needed of it."""
        if wrong := wrong_container(name, kind, self._kinds):
            self._report.add_problem(wrong)
            return
        prefix = "backup-header!" if name == HMAC else f"{self._id}!{name.removesuffix('.enc')}!"
        limits, payload = {HMAC: MAX_HEADER + 1, XML: MAX_XML}, None
        try:
            if kind == ENCRYPTED:
                containers.check_encrypted(prefix)
                self._report.add_unchecked(_INSIDE)
            else:
                payload = containers.check(prefix, limit=limits.get(name, 0))
        except DamagedError as error:
            reason = "it was altered, or comes from another place or backup"
            if name == HMAC:
                reason = "the passphrase is wrong, or it was altered"
            self._report.add_problem(f"{name}: {reason} ({error})")
            return
        if name == HMAC and payload not in (header, None):
            self._report.add_problem(f"{HEADER}: it is not the one that {HMAC} has")
        elif name == HMAC:
            self._proved = True
        elif name == XML:
            self._xml = payload

    def _beginning(self, stream: Call, passphrase: bytes | None) -> None:
        """Read the stream up to qubes.xml."""
        try:
            if self._ledger is None and passphrase is not None:
                for name, *_ in self._checked(stream, passphrase):
                    if name == XML:
                        self._demand_proof()
                        return
            elif self._ledger is not None:
                archive = ArchiveReader(stream)
                for name, size in archive.members():
                    if name == XML:
                        self._take_xml(os.pread(archive.spool, size, 0)[HEAD_BYTES:-TRAILER_BYTES])
                        return
                    if name not in (HEADER, HMAC):
                        break
            else:
                return
            self._report.add_problem(f"{XML} is not at the beginning of the stream")
        except WrongError as error:
            self._report.add_problem(str(error))

    def _take_xml(self, payload: bytes) -> None:
        """Take a qubes.xml for which the ledger has the SHA-256."""
        wanted = {row.name: row.sha256 for row in self._ledger or []}
        if hashlib.sha256(payload).hexdigest() == wanted.get(XML):
            self._xml = payload
        else:
            self._report.add_problem(f"{XML} is not what the ledger says")

    def _included(self) -> list[qubesxml.Qube] | None:
        """List the qubes that must be there."""
        if self._xml is None:
            self._report.add_unchecked("which qubes must be in it: qubes.xml can't be read")
            return None
        try:
            described = qubesxml.described(qubesxml.unpack(self._xml))
        except qubesxml.UnknownCompressionError:
            self._report.add_unchecked(
                "which qubes must be in it: qubes.xml is compressed in another way"
            )
            return None
        except qubesxml.XmlError as error:
            self._report.add_problem(f"{XML}: {error}")
            return None
        qubes = [qube for qube in described if qube.path]
        self._report.qubes = [qube.name or clean(qube.path) for qube in qubes]
        self.described = described
        return qubes
