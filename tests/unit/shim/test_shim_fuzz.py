# SPDX-License-Identifier: GPL-3.0-or-later
"""Properties of the container reader, the line splitter and the routes, over made-up input."""

import hashlib
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.shim.fuzz import LINE, Fuzzed, slow_scrypt

WORDS = ["enc", "dec", "info", "-f", "-", "--", "-P", "-v", "--version", "", "x", "a.000.enc"]
WORDS += [
    "/t/backup-header.hmac",
    "-a.000.enc",
    "/dev/null",
    "/",
    "a.000.encx",
    "b.00.enc",
    "\n.000.enc",
    "é.1000.enc",
]
PATHS = [
    "/t/a.000.enc",
    "/t/vm7/private.img.000.enc",
    "/t/backup-header.hmac",
    "a.000.enc",
    "/.enc",
]
many = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    """The shim in this process."""
    try:
        yield Fuzzed()
    finally:
        hashlib.scrypt = slow_scrypt


def header(log_n: int, r: int, p: int, salt: bytes) -> bytes:
    """Make a header with a right checksum."""
    start = struct.pack(">6sBBII", b"scrypt", 0x80, log_n, r, p) + salt
    return start + hashlib.sha256(start).digest()[:16]


@many
@given(data=st.binary(max_size=400))
def test_arbitrary_input_is_refused(fuzzed: Fuzzed, data: bytes) -> None:
    fuzzed.check_container(data)


@many
@given(
    start=st.builds(
        header,
        st.integers(0, 255),
        st.one_of(st.just(8), st.integers(0, 2**32 - 1)),
        st.one_of(st.just(1), st.integers(0, 2**32 - 1)),
        st.binary(min_size=32, max_size=32),
    ),
    rest=st.binary(max_size=200),
)
def test_header_with_any_parameters_is_refused(fuzzed: Fuzzed, start: bytes, rest: bytes) -> None:
    fuzzed.check_container(start + rest)


@many
@given(change=st.binary(max_size=40))
def test_altered_container_is_refused(fuzzed: Fuzzed, change: bytes) -> None:
    fuzzed.check_changed(change)


@many
@given(cut=st.integers(0, 140), more=st.binary(max_size=80))
def test_cut_or_longer_container_is_refused(fuzzed: Fuzzed, cut: int, more: bytes) -> None:
    fuzzed.check_container(fuzzed.exact[:cut] + more)


@many
@given(payload=st.binary(max_size=300), line=st.binary(max_size=300))
def test_container_comes_back_under_its_own_line_only(
    fuzzed: Fuzzed, payload: bytes, line: bytes
) -> None:
    stored = fuzzed.container(payload, line)
    assert fuzzed.decode(stored, line) == payload
    assert fuzzed.decode(stored, line + b"x") is None


@many
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from([b"!", b"backup-header", b"a.000", b"vm7/private.img.000", b"1-2"]),
            st.binary(max_size=9),
        ),
        max_size=9,
    ),
    path=st.one_of(st.sampled_from(PATHS), st.text(max_size=30)),
)
def test_line_is_split_as_it_was_joined(fuzzed: Fuzzed, parts: list[bytes], path: str) -> None:
    fuzzed.check_line(b"".join(parts), path.replace("\ud800", ""))


@many
@given(words=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=9)), max_size=6))
def test_only_the_calls_of_qubes_are_taken(fuzzed: Fuzzed, words: list[str]) -> None:
    fuzzed.check_route(["scrypt", *words])


def test_the_calls_of_qubes_are_taken(fuzzed: Fuzzed) -> None:
    assert fuzzed.check_route(["scrypt", "enc", "-", "/t/a.000.enc"]) == "encode"
    assert fuzzed.check_route(["scrypt", "enc", "/t/h", "/t/backup-header.hmac"]) == "encode"
    assert fuzzed.check_route(["scrypt", "dec", "-f", "/t/a.000.enc", "/t/a.000"]) == "decode"
    assert fuzzed.check_route(["scrypt", "dec", "/t/a.000.enc", "/t/a.000"]) == "exec_real"
    for call in ("enc - -a.000.enc", "dec -f - /t/a", "dec -f /t/a -", "dec -f /t/a /dev/null"):
        assert fuzzed.check_route(["scrypt", *call.split()]) == "exec_real"
    assert fuzzed.decode(fuzzed.exact, LINE) == b"payload"
