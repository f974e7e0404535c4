"""The layers of the package: imports go down only, one layer per row, no cycle between layers or files."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lib_blocktrain"
BENCHMARKS = PACKAGE.parent / "benchmarks"

# From the bottom up: a layer imports from the layers above it in this list, never from one below. `ui` and `api` do not
# import each other (see APART).
LAYERS = (
    "files",
    "blocks",
    "weights",
    "networks",
    "model",
    "training",
    "analysis",
    "hosts",
    "runner",
    "workspace",
    "api",
    "ui",
    "server",
    "cli",
    "__main__",
)
RANK = {name: rank for rank, name in enumerate(LAYERS)}
APART = {"ui": "api", "api": "ui"}
CORE = LAYERS[: RANK["hosts"]]
CORE_PACKAGES = {"torch", "safetensors", "numpy", "PIL", "filelock"}
# Importing these, and whatever they import at their top level, must not import torch: the command line answers
# `presets` and `inspect` without it, and the WebUI starts with some of them.
TORCH_FREE = (
    "files", "blocks", "weights", "networks.header", "networks.keys", "networks.contents", "cli", "server.webui",
    "hosts.webui.integration", "training.status", "__main__",
)  # fmt: skip
ONLY_IN = {
    "diffusers": ("hosts/standalone.py",),
    "transformers": ("hosts/standalone.py",),
    "gradio": ("ui/", "server/"),
    "markupsafe": ("ui/",),
    "fastapi": ("api/", "server/"),
    "starlette": ("api/", "server/"),
    "pydantic": ("api/",),
    "uvicorn": ("server/",),
    "modules": ("hosts/",),
    "backend": ("hosts/",),
    "ldm_patched": ("hosts/reforge/",),
    "modules_forge": (),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False, for_types: bool = False) -> list[str]:
    """Dotted names that a file imports; those behind ``if TYPE_CHECKING`` only with `for_types`."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(tree.body if top_level_only else ast.walk(tree))
    for node in () if for_types else ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden = set(map(id, ast.walk(node)))
            nodes = [n for n in nodes if id(n) not in hidden]
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def module_file(name: str) -> Path | None:
    """The file of the longest part of a dotted name that is a module of the project; None for other packages."""
    parts = name.split(".")
    if parts[0] not in ("lib_blocktrain", "benchmarks"):
        return None
    for count in range(len(parts), 0, -1):
        path = PACKAGE.parent.joinpath(*parts[:count])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def layer_faults(graph: dict[Path, set[Path]], layer_of: dict[Path, str]) -> list[str]:
    """Imports that go up, or between two layers that must not know each other."""
    return [
        f"{relative(path)} ({layer_of[path]}) imports {relative(other)} ({layer_of[other]})"
        for path, imported in graph.items()
        for other in imported
        if other in layer_of
        and path in layer_of
        and (RANK[layer_of[other]] > RANK[layer_of[path]] or APART.get(layer_of[path]) == layer_of[other])
    ]


def cycle(graph: dict[Path, set[Path]]) -> list[Path]:
    """The files of one import cycle, in order; [] where there is none."""
    done: set[Path] = set()

    def visit(path: Path, trail: list[Path]) -> list[Path]:
        if path in trail:
            return trail[trail.index(path) :]
        if path in done:
            return []
        for other in sorted(graph.get(path, ())):
            if found := visit(other, [*trail, path]):
                return found
        done.add(path)
        return []

    return next((found for path in sorted(graph) if (found := visit(path, []))), [])


def graph_of(files: list[Path]) -> dict[Path, set[Path]]:
    """The project's files that each file imports, wherever in it, for types as well."""
    names = {path: imports(path, for_types=True) for path in files}
    return {path: {file for name in names[path] if (file := module_file(name)) and file != path} for path in files}


PACKAGE_GRAPH = graph_of(FILES)
LAYER_OF = {path: layer(path) for path in FILES if layer(path) != "__init__"}


def test_every_layer_has_its_row():
    assert set(LAYER_OF.values()) == set(LAYERS)


def test_the_package_imports_nothing():
    assert not imports(PACKAGE / "__init__.py")


def test_imports_go_down():
    assert not layer_faults(PACKAGE_GRAPH, LAYER_OF)


def test_no_cycle():
    """An import of the package's own version is none: `__init__` imports nothing."""
    assert not cycle(PACKAGE_GRAPH)
    assert not cycle(graph_of(sorted(BENCHMARKS.rglob("*.py"))))


def test_a_fault_is_seen():
    ui, api, hosts = (next(path for path in FILES if layer(path) == name) for name in ("ui", "api", "hosts"))
    assert layer_faults({hosts: {ui}}, LAYER_OF)
    assert layer_faults({ui: {api}}, LAYER_OF)
    assert layer_faults({api: {ui}}, LAYER_OF)
    assert not layer_faults({ui: {hosts}}, LAYER_OF)
    assert cycle({ui: {api}, api: {hosts}, hosts: {ui}}) == [api, hosts, ui]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_parties(path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        package = name.split(".")[0]
        allowed = ONLY_IN.get(package)
        assert allowed is None or place.startswith(allowed), f"{place} imports {package}"
        if layer(path) in CORE:
            known = {*sys.stdlib_module_names, *CORE_PACKAGES, "lib_blocktrain"}
            assert package in known, f"{place} is core and imports {package}"


def test_exemptions_are_used():
    """No stale row: each package of ONLY_IN is imported in each place that may."""
    for package, places in ONLY_IN.items():
        for place in places:
            users = [p for p in FILES if p.relative_to(PACKAGE).as_posix().startswith(place)]
            assert any(package == name.split(".")[0] for p in users for name in imports(p)), f"{package} in {place}"


@pytest.mark.parametrize("name", TORCH_FREE)
def test_torch_free(name):
    """The light modules, and all that they import when they are imported, stay light."""
    start = [p for p in FILES if relative(p).removesuffix(".py").replace("/", ".").startswith(f"lib_blocktrain.{name}")]
    assert start
    seen: set[Path] = set()
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        packages = {PACKAGE / "__init__.py", *(parent / "__init__.py" for parent in path.parents if parent != PACKAGE)}
        waiting += [init for init in packages if init in PACKAGE_GRAPH]
        for imported in imports(path, top_level_only=True):
            assert imported.split(".")[0] not in CORE_PACKAGES, f"{name} imports {imported} by way of {relative(path)}"
            if other := module_file(imported):
                waiting.append(other)
