# SPDX-License-Identifier: GPL-3.0-or-later
"""How the programs' modules hang together: no circle, no lazy import, no long flat folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from testing.paths import PAYLOAD

# Packages that keep to these rules.
PACKAGES = [
    PAYLOAD / "backup_format",
    PAYLOAD / "dom0/dedup_backup",
    PAYLOAD / "dom0/dom0_common",
    PAYLOAD / "dom0/shimctl_lib",
    PAYLOAD / "server/dedup_server",
    PAYLOAD / "qube/dedup_store",
]
MOST_MODULES = 12  # of a folder
MOST_LINES = 400  # of a file
# From top to bottom: a module imports from its own row, and from those below.
LAYERS = {
    PAYLOAD / "dom0/dedup_backup": (
        ("cli",),
        ("actions",),
        ("examination",),
        ("context",),
        ("reading",),
        ("records",),
        ("calls",),
        ("settings", "output"),
        ("errors",),
    ),
    PAYLOAD / "dom0/shimctl_lib": (
        ("cli",),
        ("alarm", "plan", "status"),
        ("inspection",),
        ("guard", "state"),
        ("notify", "system"),
        ("errors",),
    ),
    PAYLOAD / "qube/dedup_store": (
        ("cli",),
        ("options", "actions"),
        ("runs",),
        ("repository",),
        ("engines",),
        ("archive",),
        ("config",),
        ("engine_options", "system"),
        ("errors",),
    ),
}
package = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)


@cache
def modules(package: Path) -> dict[str, ast.Module]:
    """Give the modules of a package, by their full names."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(), str(path))
    return found


def imports(tree: ast.Module) -> Iterator[str]:
    """Give all that a module imports, wherever it does, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def graph(package: Path) -> dict[str, set[str]]:
    """Give for each module of a package those of the same package that it imports."""
    known = modules(package)
    found: dict[str, set[str]] = {}
    for module, tree in known.items():
        names = (name if name in known else name.rpartition(".")[0] for name in imports(tree))
        found[module] = {name for name in names if name in known}
    return found


@package
def test_no_circle(package: Path) -> None:
    arrows = graph(package)
    assert len(arrows) > 1
    list(TopologicalSorter(arrows).static_order())  # CycleError names the circle


@package
def test_no_lazy_import(package: Path) -> None:
    for module, tree in modules(package).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
                inside = [item for part in node.body for item in ast.walk(part)]
                lazy = [item for item in inside if isinstance(item, ast.Import | ast.ImportFrom)]
                assert not lazy, f"{module}, line {lazy[0].lineno}"


@package
def test_folders_and_files_are_short(package: Path) -> None:
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        names = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
        assert len(names) <= MOST_MODULES, folder
    for path in package.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MOST_LINES, path


@pytest.mark.parametrize("package", LAYERS, ids=lambda path: path.name)
def test_arrows_point_down(package: Path) -> None:
    rows = {name: row for row, names in enumerate(LAYERS[package]) for name in names}
    for module, targets in graph(package).items():
        for target in targets - {package.name}:
            one, other = module.split(".")[1], target.split(".")[1]
            assert rows[one] <= rows[other], f"{module} imports {target}"


def test_one_module_knows_all_engines() -> None:
    arrows = graph(PAYLOAD / "qube/dedup_store")
    engines = {name for name in arrows if name.startswith("dedup_store.engines.")}
    repositories = {name for name in engines if name.endswith(".repository")}
    assert len(repositories) == 3
    users = {module for module, targets in arrows.items() if targets & repositories}
    assert users == {"dedup_store.repository.opening"}
    assert not arrows["dedup_store.engines.base"] & engines


def test_archive_knows_no_engine() -> None:
    arrows = graph(PAYLOAD / "qube/dedup_store")
    seen, todo = set(), [name for name in arrows if name.startswith("dedup_store.archive")]
    while todo:
        seen.add(name := todo.pop())
        todo += arrows[name] - seen
    assert not [name for name in seen if name.startswith("dedup_store.engines")]
