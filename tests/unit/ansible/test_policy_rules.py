# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of two rules decides, held against the lab's evaluator."""

from __future__ import annotations

import itertools
import logging

import pytest
from ansible.module_utils import dedup_policy as policy
from qubeslab import policy as lab

from testing.ansible.policy_table import DOMAINS, TARGETS

TOKENS = (
    *("*", "@anyvm", "@adminvm", "dom0", "work", "vault", "nope", "@tag:office", "@tag:none"),
    *("@type:AppVM", "@type:AdminVM", "@type:TemplateVM", f"uuid:{DOMAINS['work']['uuid']}"),
    *("@dispvm:dvm", "@dispvm:work", f"@dispvm:uuid:{DOMAINS['dvm']['uuid']}"),
    *("@dispvm:@tag:office", "@dispvm", "@default"),
    "uuid:00000000-0000-0000-0000-000000000000",
)
SOURCES = tuple(token for token in TOKENS if token not in ("@dispvm", "@default"))


def reached(token: str, column: str) -> set[tuple[str, str]]:
    """Return the pairs of caller and wanted target that the lab finds in a rule's column."""
    found = set()
    for source, wanted in itertools.product(DOMAINS, TARGETS):
        try:
            target = lab._verified(wanted, DOMAINS)
            if lab.matches(token, source if column == "source" else target, source, DOMAINS):
                found.add((source, target))
        except (lab.Denied, lab.PolicySyntaxError):
            continue
    return found


@pytest.mark.parametrize(("column", "tokens"), [("source", SOURCES), ("target", TOKENS)])
def test_tokens_that_match_one_call_overlap(column: str, tokens: tuple[str, ...]) -> None:
    logging.disable(logging.WARNING)
    reach = {token: reached(token, column) for token in tokens}
    logging.disable(logging.NOTSET)
    apart = 0
    for one, other in itertools.product(tokens, repeat=2):
        words = ["work", "work"]
        rules = []
        for token in (one, other):
            words[column == "target"] = token
            rules.append(policy.parse_rule(f"a * {' '.join(words)} deny"))
        overlap, cover = policy.overlaps(*rules), policy.covers(*rules)
        if reach[one] & reach[other]:
            assert overlap, (one, other)
        if cover:
            assert reach[other] <= reach[one], (one, other)
            assert overlap, (one, other)
        apart += not overlap
    assert apart > len(tokens) ** 2 / 4


@pytest.mark.parametrize("one", ["* *", "a *", "a +", "a +x", "b *", "b +x"])
@pytest.mark.parametrize("other", ["* *", "a *", "a +", "a +x", "b *", "b +x"])
def test_services_and_arguments(one: str, other: str) -> None:
    def calls(words: str) -> set[str]:
        service, argument = words.split()
        return {
            f"{name}{arg}"
            for name in ("a", "b", "c")
            for arg in ("+", "+x", "+y")
            if service in ("*", name) and argument in ("*", arg)
        }

    rules = [policy.parse_rule(f"{words} work vault deny") for words in (one, other)]
    assert policy.overlaps(*rules) == bool(calls(one) & calls(other))
    assert policy.covers(*rules) == (calls(other) <= calls(one))
