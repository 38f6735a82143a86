# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as YAML spells them, and as qubesd keeps them."""

from __future__ import annotations

import pytest
from ansible.module_utils import dedup_values as values
from ansible.module_utils.dedup_common import ProvisionError, error_text


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("1KiB", 1024),
        ("3 MiB", 3 * 2**20),
        ("20GiB", 20 * 2**30),
        ("2TiB", 2 * 2**40),
    ],
)
def test_sizes(size: object, expected: int) -> None:
    assert values.parse_size(size) == expected


@pytest.mark.parametrize("size", ["20GB", "20G", "1.5GiB", "-1", "", True, None, "GiB", "20 GiB x"])
def test_sizes_that_could_be_mistaken_are_refused(size: object) -> None:
    with pytest.raises(ProvisionError, match="can't be a volume's size"):
        values.parse_size(size)


@pytest.mark.parametrize(
    ("current", "wanted", "expected"),
    [
        (True, True, True),
        (True, "yes", True),
        (True, "True", True),
        (False, False, True),
        (False, "no", True),
        (True, False, False),
        (False, "banana", False),
        (400, 400, True),
        (400, "400", True),
        (400, "0400", False),
        (None, None, True),
        (None, "", True),
        (None, "sys-firewall", False),
        ("sys-firewall", None, False),
        ("sys-firewall", "sys-firewall", True),
        ("1", 1, True),
    ],
)
def test_same(current: values.Plain, wanted: object, expected: bool) -> None:
    assert values.same(current, wanted) is expected


def test_features_and_services_are_strings() -> None:
    assert values.parse_features({"a": True, "b": False, "c": None, "d": 5}, {"cups": True}) == {
        "a": "1",
        "b": "",
        "c": None,
        "d": "5",
        "service.cups": "1",
    }


@pytest.mark.parametrize("name", ["dedup-backup", "a", "Work_2.x", "x" * 31])
def test_names(name: str) -> None:
    assert values.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "1a", "-a", "a b", "a/b", "none", "default", "Domain-0", "x-dm", "x" * 32, "a\n"]
)
def test_names_that_qubes_refuses(name: str) -> None:
    with pytest.raises(ProvisionError, match="can't be a qube's name"):
        values.check_name(name)


@pytest.mark.parametrize("tag", ["", "a b", "a.b", "é", "a\n"])
def test_tags_that_qubes_refuses(tag: str) -> None:
    with pytest.raises(ProvisionError, match="can't be a tag"):
        values.check_tag(tag)


def test_errors_are_told_in_one_bounded_line_without_control_characters() -> None:
    told = error_text(ValueError("one\ntwo \x1b[31mred" + "x" * 1000))
    assert told.startswith("one two ?[31mred")
    assert len(told) == 500


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 KiB"),
        (1048575, "1024 KiB"),
        (2**20, "1.0 MiB"),
        (2 * 2**30, "2.0 GiB"),
        (5 * 2**39, "2.5 TiB"),
    ],
)
def test_sizes_as_people_read_them(size: int, expected: str) -> None:
    assert values.show_size(size) == expected
