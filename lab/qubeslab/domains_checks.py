# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of names and values that come from a client."""

from __future__ import annotations

import re
import string

from .qubesd_exc import (
    NoAnswer,
    ProtocolError,
    QubesInvalidLabelError,
    QubesInvalidTagError,
    QubesPropertyValueError,
    QubesValueError,
)

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]*\Z")
_TAG = re.compile(r"[A-Za-z0-9_-]+\Z")
_LABEL = re.compile(r"[A-Za-z0-9_.-]+\Z")
_FEATURE = re.compile(r"[a-zA-Z0-9_.-]+\Z")
_USER = re.compile(r"[A-Za-z0-9_+,.-]*\Z")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
_KEYBOARD = re.compile(r"[a-zA-Z]+\+[a-zA-Z0-9_-]*\+[a-zA-Z0-9_:,-]*\Z")
NAME_MAX = 31
TRUE = ("1", "yes", "true", "on")
FALSE = ("0", "no", "false", "off")


def qube_name(name: str) -> str:
    """Return a well-formed name of a qube; qubes-core-admin qubes/vm/__init__.py validate_name.

    Raises:
        QubesValueError: the name isn't one a qube can have.
    """
    if len(name) > NAME_MAX:
        raise QubesValueError("VM name must be shorter than 32 characters")
    if name[:1] in tuple(string.digits + "_.-"):
        raise QubesValueError("VM name cannot start with hyphen, underscore, dot or numbers")
    if not _NAME.match(name):
        raise QubesValueError("VM name contains illegal characters")
    if name == "Domain-0":
        raise QubesValueError("VM name cannot be 'Domain-0'")
    if name in ("none", "default"):
        raise QubesValueError("VM name cannot be 'none' nor 'default'")
    if name.endswith("-dm"):
        raise QubesValueError("VM name cannot end with -dm")
    return name


def tag_name(tag: str) -> str:
    """Return a well-formed tag; qubes-core-admin qubes/vm/__init__.py Tags.validate_tag.

    Raises:
        QubesInvalidTagError: it isn't one.
    """
    if not _TAG.match(tag):
        raise QubesInvalidTagError("disallowed characters" if tag else "tag cannot be empty")
    return tag


def label_name(label: str) -> str:
    """Return a well-formed label; qubes-core-admin qubes/utils.py validate_label_name.

    Raises:
        QubesInvalidLabelError: it isn't one.
    """
    if not _LABEL.match(label):
        raise QubesInvalidLabelError(
            "Label must be in safe set" if label else "Label name must be set"
        )
    return label


def feature(name: str, payload: bytes) -> str:
    """Return a feature's value; qubes-core-admin qubes/api/admin.py vm_feature_set.

    Raises:
        ProtocolError: its name or value has other characters than allowed.
    """
    if not _FEATURE.match(name):
        raise ProtocolError("feature name contains illegal characters")
    if not all(0x20 <= byte <= 0x7E for byte in payload):
        raise ProtocolError(f"{name} value contains illegal characters")
    return payload.decode("ascii")


def number(payload: bytes, what: str, negative: bool = False) -> int:
    """Return a number; qubes-core-admin qubes/api/__init__.py validate_number.

    Raises:
        ProtocolError: it isn't a plain decimal number.
    """
    sign = -1 if negative and payload.startswith(b"-") else 1
    digits = payload[1:] if sign < 0 else payload
    if not digits.isdigit():
        raise ProtocolError(f"{what.capitalize()} contains non ASCII digits")
    if len(digits) >= 20:
        raise ProtocolError(f"{what.capitalize()} is bigger than 19 decimal digits")
    if digits[:1] == b"0" and digits != b"0":
        raise ProtocolError(f"{what.capitalize()} contains spurious leading zeros")
    return sign * int(digits)


def boolean(text: str) -> bool:
    """Return a truth value; qubes-core-admin qubes/__init__.py property.bool.

    Raises:
        QubesValueError: it is neither yes nor no.
    """
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise QubesValueError(f"Invalid literal for boolean property: {text!r}")


# What follows is for single properties: each returns the value to store or raises
# QubesPropertyValueError. Source: the _setter_* functions of qubes-core-admin qubes/vm/qubesvm.py.


def positive(prop: str, value: int) -> int:
    """Accept numbers above zero."""
    if value <= 0:
        raise QubesPropertyValueError(f"{prop} must be positive")
    return value


def not_negative(prop: str, value: int) -> int:
    """Accept zero and more."""
    if value < 0:
        raise QubesPropertyValueError(f"{prop} must be positive or zero")
    return value


def user_name(_prop: str, value: str) -> str:
    """Accept what can be a user's name."""
    if not _USER.match(value):
        raise QubesPropertyValueError("Username can contain only letters, digits and _-+,.")
    return value


def virt_mode(_prop: str, value: str) -> str:
    """Accept hvm, pv and pvh."""
    if value.lower() not in ("hvm", "pv", "pvh"):
        raise QubesPropertyValueError("Invalid virtualization mode, supported values: hvm, pv, pvh")
    return value.lower()


def kernel_options(_prop: str, value: str) -> str:
    """Accept up to 512 characters."""
    if len(value) > 512:
        raise QubesPropertyValueError("Kernelopts value too long (512 chars max)")
    return value


def mac_address(_prop: str, value: str) -> str:
    """Accept six pairs of hexadecimal digits."""
    if not _MAC.match(value.lower()):
        raise NoAnswer("Invalid MAC address value")  # upstream's ValueError is unforeseen there
    return value.lower()


def keyboard_layout(_prop: str, value: str) -> str:
    """Accept layout+variant+options."""
    if not _KEYBOARD.match(value):
        raise QubesPropertyValueError("Invalid keyboard layout provided")
    return value
