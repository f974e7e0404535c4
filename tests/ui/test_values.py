"""The typed values of each tab against the widgets that the tab ties to its handlers."""

from __future__ import annotations

import typing
from collections import defaultdict

import pytest

pytest.importorskip("gradio")

from lib_blocktrain.server.app import build
from lib_blocktrain.ui import analyse_tab, dataset_tab, preview_tab, runs_tab, train_tab
from lib_blocktrain.ui.values import AnalyseValues, DatasetValues, PreviewValues, RunsValues, TrainValues

TABS = (preview_tab, analyse_tab, dataset_tab, train_tab, runs_tab)


@pytest.fixture
def given(host, monkeypatch) -> dict[type, set[str]]:
    """Names of the inputs of all events, by the type that the handler's ``values`` have."""
    names = defaultdict(set)

    def record(event, handler, inputs, outputs, **options):
        if handler is not None:
            names[typing.get_type_hints(handler)["values"]] |= inputs.keys()
        return tie(event, handler, inputs, outputs, **options)

    tie = preview_tab.on
    for module in TABS:
        monkeypatch.setattr(module, "on", record)
    build(host)[1].close()
    return names


def test_what_a_host_cannot_do_is_off(host):
    """Where no model can be trained on: Start, Probe, Search, words, and the methods that compare noise.

    The reason is beside them.
    """
    host.no_training = "fake cannot train here"
    blocks, page = build(host)
    try:
        found = {block.elem_id: block for block in blocks.blocks.values() if getattr(block, "elem_id", None)}
    finally:
        page.close()
    assert not found["blocktrain_train_start"].interactive
    assert not any(found[f"blocktrain_{name}"].interactive for name in ("probe", "solve", "collide_effects"))

    def choices(name):
        return [choice if isinstance(choice, str) else choice[0] for choice in found[f"blocktrain_{name}"].choices]

    assert choices("analyse_method") == ["norms", "rendered"]
    assert choices("analyse_kind") == ["Whole", "Box", "Paint", "Mask"]
    assert choices("analyse_against") == ["None", "Box", "Mask"]
    for message in ("train_message", "analyse_message"):
        assert host.no_training in found[f"blocktrain_{message}"].value


def test_a_handler_has_the_same_outputs_in_each_event(host, monkeypatch):
    """After a reload of Analyse one event had less, and ended in a KeyError that no page shows."""
    found, tie = defaultdict(set), preview_tab.on

    def record(event, handler, inputs, outputs, **options):
        if handler is not None and "<locals>" not in handler.__qualname__:
            found[handler.__qualname__].add(tuple(outputs))
        return tie(event, handler, inputs, outputs, **options)

    for module in TABS:
        monkeypatch.setattr(module, "on", record)
    build(host)[1].close()
    assert "AnalyseHandlers.show_weights" in found
    assert {name: outputs for name, outputs in found.items() if len(outputs) > 1} == {}


@pytest.mark.parametrize("kind", [PreviewValues, AnalyseValues, DatasetValues, TrainValues, RunsValues])
def test_each_key_is_an_input_and_each_input_a_key(given, kind):
    assert given[kind] == kind.__required_keys__ | kind.__optional_keys__
