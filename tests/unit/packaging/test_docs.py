# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents: links lead somewhere, and every page says for whom it is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from testing.paths import PROJECT

LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"\b(docs/[a-z/-]+\.md|README\.md|CONTRIBUTING\.md|SECURITY\.md)")
CODE = re.compile(r"`([^` ]+/[^` ]*)`")
BRACES = re.compile(r"\{([^{}]+)\}")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def tracked(*patterns: str) -> list[str]:
    """List files of the repository, also those that are new."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=PROJECT)
    return [name for name in done.stdout.splitlines() if (PROJECT / name).is_file()]


PAGES = tracked("*.md")
PAGES_FOR_SOMEBODY = [name for name in PAGES if name.startswith("docs/")]
MAX_README = 6000  # characters


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub and GitLab make them."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    page = PROJECT / name
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_pages_that_programs_and_settings_name_exist() -> None:
    missing = {
        (name, page)
        for name in tracked(":!*.md", ":!lab/**", ":!tests/upstream/**", ":!testing/upstream/**")
        for page in NAMED.findall((PROJECT / name).read_text(errors="replace"))
        if not (PROJECT / page).is_file()
    }
    assert missing == set()


@pytest.mark.parametrize("name", PAGES_FOR_SOMEBODY)
def test_first_line_says_for_whom_a_page_is(name: str) -> None:
    first, second, third, *_ = (PROJECT / name).read_text().splitlines()
    assert re.fullmatch(r"\*For people who .+\.\*", first)
    assert (second, third[:2]) == ("", "# ")


def test_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text()) <= MAX_README


def test_each_page_is_linked_from_readme() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall((PROJECT / "README.md").read_text())}
    assert set(PAGES_FOR_SOMEBODY) <= linked


def alternatives(path: str) -> list[str]:
    """Expand `{a,b}` as a shell does."""
    if match := BRACES.search(path):
        names = match[1].split(",")
        return [one for name in names for one in alternatives(BRACES.sub(name, path, count=1))]
    return [path]


def test_each_path_on_the_map_exists() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text()
    table = text.partition("## To change X, start in Y")[2].partition("\n## ")[0]
    paths = [path for found in CODE.findall(table) for path in alternatives(found)]
    assert len(paths) > 100
    assert [path for path in paths if not list(PROJECT.glob(path.rstrip("/")))] == []
