"""The words of the page: every widget is explained, and all of them can be translated."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytest.importorskip("diffusers")

import gradio as gr

from lib_blocktrain.hosts.standalone import StandaloneHost
from lib_blocktrain.server.app import build
from lib_blocktrain.ui.field_help import HELP
from lib_blocktrain.ui.lora_controls import weight_name
from lib_blocktrain.ui.train_handlers import SLIDERS
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS

ROOT = Path(__file__).resolve().parent.parent.parent
LONGEST = 110  # characters of a help: two lines


@pytest.fixture(scope="module")
def widgets():
    _, tab = build(StandaloneHost())
    yield tab.widgets
    tab.close()
    tab.runner.close()


def test_every_widget_is_explained_in_one_line(widgets):
    silent = (gr.State, gr.HTML, gr.Column, gr.Tabs)
    unseen = {name for name, widget in widgets.items() if "blocktrain-unseen" in (widget.elem_classes or ())}
    hidden = {"export"} | unseen
    prefixes = (weight_name(""), SLIDERS)  # the U maps tell what they are
    of_blocks = {f"{prefix}{block_id}" for prefix in prefixes for block_id in WEIGHT_IDS}
    asked = {name for name, widget in widgets.items() if not isinstance(widget, silent)} - of_blocks - hidden
    assert asked - set(HELP) == set()
    assert set(HELP) - asked - hidden == set(), "help without a widget"
    assert {name: text for name, text in HELP.items() if len(text) > LONGEST} == {}
    explained = {name for name in asked if getattr(widgets[name], "info", None)} | set(widgets.titles)
    assert explained == asked


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("make_localization", ROOT / "docs" / "make_localization.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_template_for_translators_has_all_words(made):
    assert json.loads(made.TEMPLATE.read_text("utf-8")) == made.words(), "run docs/make_localization.py"


def test_composed_texts_are_those_of_the_sources(made):
    """Every piece of a text with numbers and names is in a script of the page or in the package."""
    paths = (*(ROOT / "javascript").glob("*.js"), *(ROOT / "lib_blocktrain").rglob("*.py"))
    source = "\n".join(path.read_text("utf-8") for path in paths)
    source = re.sub(r'"\s*\+?\s*f?"', "", source).lower()  # strings in two parts
    between = r"\{\} [a-z]+(?=[ .]|$)|\{(?:name)?\}|[·;]"  # with a counted word, which may be made in another place
    pieces = {piece.strip() for text in made.COMPOSED for piece in re.split(between, text)}
    assert sorted(piece for piece in pieces if piece.lower() not in source) == []


@pytest.mark.parametrize("path", sorted((ROOT / "localizations").glob("*.json")), ids=lambda path: path.stem)
def test_translations_are_current(made, path):
    template = json.loads(made.TEMPLATE.read_text("utf-8"))
    words = json.loads(path.read_text("utf-8"))
    assert path.read_text("utf-8") == made.written(made.kept(words, template)), "run docs/make_localization.py"
    assert len(words) > 0.95 * len(template)  # what has just been added may wait for somebody who knows the language
    for text, translation in words.items():
        count = len(re.findall(r"\{(?:name)?\}", text))
        places = re.findall(r"\{(\d*)\}", translation)
        used = {int(place) for place in places if place} or set(range(1, len(places) + 1))
        assert used == set(range(1, count + 1)), f"{text!r}: {translation!r} leaves out or repeats what is in braces"
