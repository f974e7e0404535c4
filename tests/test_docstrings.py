"""Docstrings say what names do not: the core's public functions and classes have one, and none is filler.

Elsewhere a name may stand alone. A method of one statement needs none either, nor what a base class or a protocol
describes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import CORE, layer

PACKAGE = Path(__file__).resolve().parent.parent / "lib_blocktrain"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in FILES}
CLASSES = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
PROTOCOLS = [node for node in CLASSES if any("Protocol" in ast.unparse(base) for base in node.bases)]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.ClassDef, *FUNCTION)
FEWEST_WORDS = 3
# Words that add nothing to a name.
EMPTY_WORDS = {"a", "an", "and", "as", "by", "for", "from", "in", "is", "it", "its", "of", "on", "the", "this", "to"}


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
    """What is public in here and has no docstring."""
    if isinstance(node, ast.ClassDef) and not ast.get_docstring(node):
        yield name
    for inner in node.body:
        if not isinstance(inner, DOCUMENTED) or inner.name.startswith("_"):
            continue
        if isinstance(inner, ast.ClassDef):
            yield from silent(inner, f"{name}: {inner.name}")
        elif not ast.get_docstring(inner) and not needs_none(inner, node):
            yield f"{name}: {inner.name}"


def stems(text: str) -> set[str]:
    """The words of a text without their endings: "Makes its widgets." has those of `make_widgets`."""
    words = set(re.findall(r"[a-z0-9]+", text.lower())) - EMPTY_WORDS
    return {re.sub(r"(?<=\w\w)(ing|ed|es|s|e)$", "", word) for word in words}


def spaced(name: str) -> str:
    """`make_widgets`, `LoraIndex` as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name)


def filler(tree: ast.Module) -> Iterator[str]:
    """Docstrings of one or two words, and those that repeat the name of what they describe."""
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
        if text is not None and (len(text.split()) < FEWEST_WORDS or stems(text) <= stems(spaced(node.name))):
            yield f'{node.name}: """{text}"""'


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_say_what_they_are_for(path):
    """In the first line; outside the core a module of imports alone needs none."""
    tree = TREES[path]
    code = [node for node in tree.body if not isinstance(node, (ast.Expr, ast.Import, ast.ImportFrom))]
    if code or layer(path) in CORE:
        first = (ast.get_docstring(tree) or "").split("\n")[0]
        assert len(first.split()) >= FEWEST_WORDS, f"{path}: {first!r}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if layer(path) in CORE], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_public_names_of_the_core_have_docstrings(path):
    assert not list(silent(TREES[path], str(path.relative_to(PACKAGE))))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_docstring_is_filler(path):
    assert not list(filler(TREES[path]))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('def close(self):\n    """End."""', 1),
        ('def make_widgets():\n    """Make its widgets."""', 1),
        ('def make_widgets():\n    """Make the widgets of one row, hidden."""', 0),
        ("def close(self): ...", 0),
        ('class LoraIndex:\n    """The index of LoRAs."""', 1),
    ],
)
def test_filler_is_found(code, found):
    assert len(list(filler(ast.parse(code)))) == found
