# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that qubesd reports; a client picks its own class by the name of ours.

Names and texts: qubes-core-admin qubes/exc.py.
"""

from __future__ import annotations


class QubesException(Exception):  # noqa: N818 - this name goes over the wire
    """An error that the client shows to the user."""


class ProtocolError(Exception):
    """The request itself is wrong; a correct client never sees this."""


class NoAnswer(Exception):  # noqa: N818 - not an error of the protocol
    """The connection is closed without a word, as upstream does after an unforeseen error."""


class QubesVMNotFoundError(QubesException):
    """There is no such qube."""

    def __init__(self, name: str) -> None:
        """Take the name that wasn't found."""
        super().__init__(f"No such domain: {name!r}")


class QubesVMInvalidUUIDError(QubesException):
    """The destination is a malformed UUID."""


class QubesVMAlreadyExistsError(QubesException):
    """A qube with this name exists already."""


class QubesVMInUseError(QubesException):
    """The qube is in use and can't be removed or shut down."""


class QubesVMError(QubesException):
    """The operation makes no sense for this qube."""


class QubesVMNotStartedError(QubesException):
    """The qube is powered off."""


class QubesVMNotRunningError(QubesException):
    """The qube isn't running."""


class QubesVMNotHaltedError(QubesException):
    """The qube is running, but must not be."""


class QubesVMShutdownTimeoutError(QubesException):
    """The qube didn't shut down in time."""


class QubesValueError(QubesException):
    """A value is invalid."""


class QubesPropertyValueError(QubesValueError):
    """A property can't have this value."""


class QubesNoSuchPropertyError(QubesException):
    """There is no such property."""

    def __init__(self, holder: str, prop: str) -> None:
        """Take the qube (or "app") and the property's name."""
        super().__init__(f"Invalid property {prop!r} of {holder}")


class QubesNotImplementedError(QubesException):
    """The lab doesn't have this."""


class QubesFeatureNotFoundError(QubesException):
    """The feature isn't set."""

    def __init__(self, qube: str, feature: str) -> None:
        """Take the qube's and the feature's name."""
        super().__init__(f"Feature not set for domain {qube}: {feature}")


class QubesTagNotFoundError(QubesException):
    """The tag isn't set."""

    def __init__(self, qube: str, tag: str) -> None:
        """Take the qube's name and the tag."""
        super().__init__(f"Tag not set for domain {qube}: {tag}")


class QubesLabelNotFoundError(QubesException):
    """There is no such label."""

    def __init__(self, label: str) -> None:
        """Take the label's name."""
        super().__init__(f"Label does not exist: {label}")


class QubesVolumeCopyTokenNotFoundError(ProtocolError):
    """There is no such token, or it was used already."""

    def __init__(self) -> None:
        """Use upstream's text."""
        super().__init__("Token to clone volume of qube was not found")


class QubesInvalidTagError(ProtocolError):
    """The tag has characters that a tag can't have."""


class QubesInvalidLabelError(ProtocolError):
    """The label has characters that a label can't have."""


class PermissionDenied(Exception):  # noqa: N818 - this name goes over the wire
    """The request is well formed, but not allowed."""


class StoragePoolException(QubesException):
    """A volume can't be changed that way."""


class QubesBackupProfileNotFoundError(QubesException):
    """There is no such backup profile."""


class BackupAlreadyRunningError(QubesException):
    """This backup runs already."""

    def __init__(self) -> None:
        """Use upstream's text."""
        super().__init__("Backup already running")


class BackupCancelledError(QubesException):
    """The backup was cancelled."""

    def __init__(self) -> None:
        """Use upstream's text."""
        super().__init__("Backup cancelled")
