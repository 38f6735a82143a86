# SPDX-License-Identifier: GPL-3.0-or-later
"""The exceptions of the client library: names and parents of qubesadmin/exc.py.

Their meaning is that of their names; ruff's rules for names don't apply to an API of others.
"""
# ruff: noqa: D101, N818

from __future__ import annotations


class QubesException(Exception):
    """An error that can be shown to the user."""

    def __init__(self, message_format: str, *args: str) -> None:
        """Take a message, with its %-placeholders' values."""
        values = tuple(int(arg) if arg.isdigit() else arg for arg in args)
        super().__init__(message_format % values)


class _KeyError(QubesException, KeyError):
    def __str__(self) -> str:
        """Return the message, not KeyError's quoted form of it."""
        return QubesException.__str__(self)


class QubesVMNotFoundError(_KeyError): ...


class QubesVMInvalidUUIDError(QubesException): ...


class QubesVMError(QubesException): ...


class QubesVMInUseError(QubesVMError): ...


class QubesVMNotStartedError(QubesVMError): ...


class QubesVMNotRunningError(QubesVMNotStartedError): ...


class QubesVMNotPausedError(QubesVMNotStartedError): ...


class QubesVMNotHaltedError(QubesVMError): ...


class QubesVMShutdownTimeoutError(QubesVMError): ...


class QubesNoTemplateError(QubesVMError): ...


class QubesVMAlreadyStartedError(QubesVMError): ...


class QubesPoolInUseError(QubesException): ...


class QubesValueError(QubesException, ValueError): ...


class QubesPropertyValueError(QubesValueError): ...


class QubesNoSuchPropertyError(QubesException, AttributeError): ...


class QubesNotImplementedError(QubesException, NotImplementedError): ...


class BackupCancelledError(QubesException): ...


class BackupAlreadyRunningError(QubesException): ...


class QubesMemoryError(QubesVMError, MemoryError): ...


class QubesFeatureNotFoundError(_KeyError): ...


class QubesTagNotFoundError(_KeyError): ...


class QubesLabelNotFoundError(_KeyError): ...


class ProtocolError(AssertionError): ...


class PermissionDenied(Exception): ...


class StoragePoolException(QubesException): ...


class QubesDaemonCommunicationError(QubesException): ...


class BackupRestoreError(QubesException):
    """Restoring a backup failed."""

    def __init__(self, msg: str, backup_log: bytes | None = None) -> None:
        """Take the message and the log."""
        super().__init__(msg.replace("%", "%%"))
        self.backup_log = backup_log


class QubesDaemonAccessError(QubesDaemonCommunicationError): ...


class QubesPropertyAccessError(QubesDaemonAccessError, AttributeError):
    """A property can't be read or written, for a reason that qubesd doesn't tell."""

    def __init__(self, prop: str) -> None:
        """Take the property's name."""
        super().__init__("Failed to access '%s' property", prop)


class QubesNotesError(QubesException): ...


QubesDaemonNoResponseError = QubesDaemonAccessError
