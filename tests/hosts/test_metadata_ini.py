"""`metadata.ini`, and the entry for the index of extensions.

The former under the rules of the WebUI's `modules/extensions.py`, `modules/scripts.py` and `modules/util.py`.
"""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OURS, BLOCK_WEIGHT = "sd-webui-blocktrain", "sd-webui-lora-block-weight"


@pytest.fixture
def metadata() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    assert found.read(ROOT / "metadata.ini") == [str(ROOT / "metadata.ini")]
    return found


def listed(metadata: configparser.ConfigParser, field: str) -> list[str]:
    """As `ExtensionMetadata.get_script_requirements` has it for our script; no name here has alternatives (`|`)."""
    sections = ("scripts/blocktrain.py", "scripts")
    text = ", ".join(metadata.get(section, field, fallback="") for section in sections).lower()
    return [name for name in re.split(r"[,\s]+", text.strip()) if name]


def load_order(metadata: configparser.ConfigParser, folders: list[str]) -> list[str]:
    """As `list_scripts` orders extensions of one script each: depth first, in the order of the folders."""
    names = {folder.lower(): folder for folder in folders}
    after: dict[str, list[str]] = {folder: [] for folder in folders}
    after[OURS] = [names[name] for name in listed(metadata, "After") if name in names]
    order: list[str] = []

    def visit(folder: str) -> None:
        if folder not in order:
            for other in after[folder]:
                visit(other)
            order.append(folder)

    for folder in folders:
        visit(folder)
    return order


def test_only_sections_and_fields_that_the_webui_reads(metadata):
    assert metadata.sections() == ["Extension", "scripts"]
    assert metadata["Extension"]["Name"] == OURS
    assert (ROOT / "scripts" / "blocktrain.py").is_file()
    assert list(metadata["Extension"]) == ["name"]
    assert list(metadata["scripts"]) == ["after"]


def test_nothing_is_required(metadata):
    """A requirement that is not installed is an error in the console, and Forge has no extension `lora`."""
    assert listed(metadata, "Requires") == []


@pytest.mark.parametrize("lora", ["Lora", "sd_forge_lora"])
@pytest.mark.parametrize("others", [[], [BLOCK_WEIGHT], ["a-first-one", BLOCK_WEIGHT, "z-last-one"]])
def test_loaded_after_lora_and_block_weight(metadata, lora, others):
    order = load_order(metadata, [lora, *sorted([OURS, *others])])
    assert order.index(OURS) > order.index(lora)
    assert BLOCK_WEIGHT not in others or order.index(OURS) > order.index(BLOCK_WEIGHT)
    assert sorted(order) == sorted([OURS, lora, *others])


def test_the_entry_for_the_index():
    """The form of `extensions/*.json` in AUTOMATIC1111's stable-diffusion-webui-extensions, tags of its tags.json."""
    entry = json.loads((ROOT / "docs" / "extension-index.json").read_text("utf-8"))
    assert list(entry) == ["name", "url", "description", "tags"]
    source = (ROOT / "scripts" / "blocktrain.py").read_text("utf-8")
    assert f'TITLE = "{entry["name"]}"' in source
    assert re.fullmatch(rf"https://github\.com/[\w-]+/{OURS}\.git", entry["url"])
    assert re.fullmatch(r".{40,160}", entry["description"])
    does = {"tab": "on_ui_tabs(build_tab)", "script": "class BlockWeightsScript(scripts.Script)"}
    assert all(call in source for call in does.values())
    assert sorted(entry["tags"]) == sorted([*does, "training"])
