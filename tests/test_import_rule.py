"""One direction of data flow, held by reading every import in the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "recsys_vae"
# What a package may import of its siblings. Modules at the top of the package compose, like cli.
ALLOWED = {
    "interactions": set(),
    "models": {"estimation", "graphical"},
    "ranking": set(),
    "evaluation": set(),
    "training": {"models"},
    "samplers": set(),
    "graphical": set(),
    "estimation": set(),
    "posterior": {"models", "samplers"},
    "exports": {"interactions"},
    "cli": {
        "interactions",
        "models",
        "ranking",
        "evaluation",
        "training",
        "samplers",
        "posterior",
        "exports",
    },
}
LEAVES = {"errors", "atomic", "bundled"}


def imported_parts(path: Path) -> set[str]:
    """First name below recsys_vae of every import in a file; '' for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        found |= {[*name.split("."), ""][1] for name in names if name.split(".")[0] == "recsys_vae"}
    return found


def test_every_package_is_ruled() -> None:
    packages = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert packages == set(ALLOWED)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_it_may(package) -> None:
    top_modules = {path.stem for path in PACKAGE.glob("*.py")} - LEAVES
    for path in sorted((PACKAGE / package).rglob("*.py")):
        allowed = ALLOWED[package] | LEAVES | {package} | (top_modules if package == "cli" else set())
        assert imported_parts(path) <= allowed, path


def test_nothing_imports_cli() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "cli" and path.name != "__main__.py":
            assert "cli" not in imported_parts(path), path
