"""Everything public says what it is: modules, classes, functions.

A method of one statement says it by its name, and what a base class or a protocol says need not be said again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lib_blocktrain"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in FILES}
CLASSES = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
PROTOCOLS = [node for node in CLASSES if any("Protocol" in ast.unparse(base) for base in node.bases)]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def bases(node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """The classes of the package from which this one inherits."""
    names = {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
    for known in CLASSES:
        if known.name in names and known is not node:
            yield known
            yield from bases(known)


def says(known: ast.ClassDef, name: str) -> bool:
    """Whether a class says what its method or attribute of this name is."""
    return any(
        (isinstance(inner, FUNCTION) and inner.name == name and ast.get_docstring(inner))
        or (isinstance(inner, ast.AnnAssign) and ast.unparse(inner.target) == name and known in PROTOCOLS)
        for inner in known.body
    )


def needs_none(method: ast.FunctionDef | ast.AsyncFunctionDef, owner: ast.Module | ast.ClassDef) -> bool:
    """Whether everything is said of a method already."""
    if isinstance(owner, ast.Module):
        return False
    setter = any(ast.unparse(decorator).endswith(".setter") for decorator in method.decorator_list)
    return setter or len(method.body) == 1 or any(says(known, method.name) for known in (*bases(owner), *PROTOCOLS))


def silent(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    """What is public in here and says nothing of itself."""
    if not ast.get_docstring(node):
        yield name
    for inner in node.body:
        if not isinstance(inner, (ast.ClassDef, *FUNCTION)) or inner.name.startswith("_"):
            continue
        if isinstance(inner, ast.ClassDef):
            yield from silent(inner, f"{name}: {inner.name}")
        elif not ast.get_docstring(inner) and not needs_none(inner, node):
            yield f"{name}: {inner.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_have_docstrings(path):
    assert not list(silent(TREES[path], str(path.relative_to(PACKAGE))))
