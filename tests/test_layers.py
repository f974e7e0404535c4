"""Who imports whom: the layers of the package's docstring, and the third parties that each may know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lib_blocktrain"

# From the bottom up; a module imports from its own row or a lower one.
LAYERS = (
    ("files",),
    ("blocks",),
    ("text_spans", "block_weights", "kohya_arguments", "preset_strings", "presets", "preset_files", "prompt_tags"),
    ("preset_links",),
    ("safetensors_header", "metadata_tables", "network_keys", "leaf_layers", "attention_projections"),
    ("adapters",),
    ("formats", "placement", "hooks", "merge"),
    ("unet_forward", "freezing", "diffusion", "model", "demo_model"),
    ("analysis", "training", "bake", "ldm_export"),
    ("hosts", "pictures"),
    ("runner", "inquiry"),
    ("ui", "api"),
    (
        "environment",
        "commands",
        "train_commands",
        "analyse_commands",
        "probe_commands",
        "tab_command",
        "webui_page",
        "remote",
        "remote_commands",
    ),
    ("__main__",),
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
TORCH_FREE = {
    "__init__", "files", "blocks", "block_weights", "preset_strings", "presets", "text_spans", "kohya_arguments",
    "preset_links",
    "preset_files", "prompt_tags", "webui_page", "safetensors_header", "metadata_tables",
    "network_keys", "environment", "commands", "train_commands", "analyse_commands", "probe_commands", "tab_command",
    "__main__",
    "remote", "remote_commands",
}  # fmt: skip
PLACES = ("preview_place", "preset_panel", "analyse_place", "train_place", "runs_place")
ONLY_IN = {
    "diffusers": ("hosts/standalone.py",),
    "transformers": ("hosts/standalone.py",),
    "gradio": ("ui/shim.py", "ui/widgets.py", "ui/tab.py", "ui/server.py", *(f"ui/{name}.py" for name in PLACES)),
    "fastapi": ("ui/server.py", "api/"),
    "starlette": ("api/",),
    "pydantic": ("api/",),
    "uvicorn": ("ui/server.py",),
    "modules": ("hosts/",),
    "backend": ("hosts/",),
    "ldm_patched": ("hosts/",),
    "modules_forge": ("hosts/",),
}
CORE_PACKAGES = {"torch", "safetensors", "numpy", "PIL"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, top_level_only: bool = False) -> list[str]:
    """Dotted names that a file imports; ``if TYPE_CHECKING`` blocks do not count."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(tree.body if top_level_only else ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden = set(map(id, ast.walk(node)))
            nodes = [n for n in nodes if id(n) not in hidden]
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            deeper = node.module == "lib_blocktrain"
            names += [f"{node.module}.{a.name}" for a in node.names] if deeper else [node.module]
    return names


def room(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    here = room(path)
    if here == "__init__":
        assert not imports(path)
        return
    assert here in RANK, f"{here} has no layer: give it one"
    for name in imports(path):
        if name.startswith("lib_blocktrain.") and name.split(".")[1] != "__version__":
            there = name.split(".")[1]
            assert RANK[there] <= RANK[here], f"{path.name} ({here}) imports {name}, which lies above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_parties(path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        package = name.split(".")[0]
        allowed = ONLY_IN.get(package)
        assert allowed is None or place.startswith(allowed), f"{place} imports {package}"
        if RANK.get(room(path), 99) < RANK["hosts"]:
            import sys

            known = {*sys.stdlib_module_names, *CORE_PACKAGES, "lib_blocktrain"}
            assert package in known, f"{place} is core and imports {package}"


@pytest.mark.parametrize("name", sorted(TORCH_FREE))
def test_torch_free(name):
    """The light modules, and all that they import when they are imported, stay light."""
    seen, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        path = PACKAGE / f"{current}.py"
        if current in seen or not path.exists():
            continue
        seen.add(current)
        for imported in imports(path, top_level_only=True):
            assert imported.split(".")[0] not in CORE_PACKAGES, f"{name} imports {imported} by way of {current}"
            if imported.startswith("lib_blocktrain."):
                waiting.append(imported.split(".")[1])


def test_table_has_no_strangers():
    planned = {"analysis", "training", "ui", "api"}  # rooms of the design whose issues are still open
    there = {room(path) for path in FILES} - {"__init__"}
    assert set(RANK) - there <= planned
