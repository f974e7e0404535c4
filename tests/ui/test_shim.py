"""The shim between gradio 3.41 and 4.40: named values in, named changes out; and the tab built on a fake host."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")
import gradio as gr
from markupsafe import Markup

from lib_blocktrain.server.app import build
from lib_blocktrain.ui import shim
from lib_blocktrain.ui.lora_controls import weight_name
from lib_blocktrain.ui.values import Properties
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS


def tied(function, outputs=("x", "y")):
    """The function that gradio would call with positional values."""
    with gr.Blocks() as blocks:
        boxes = {name: gr.Textbox() for name in ("x", "y")}
        button = gr.Button()
        shim.on(button.click, function, boxes, {name: boxes[name] for name in outputs}, queued=True)
    fns = blocks.fns.values() if isinstance(blocks.fns, dict) else blocks.fns
    return next(iter(fns)).fn


def test_values_have_names():
    call = tied(lambda values: {"y": values["x"] + "!"})
    unchanged, y = call("a", "b")
    assert y == "a!"
    assert unchanged == gr.update()


def test_one_output_is_no_list():
    assert tied(lambda values: {"x": "new"}, ("x",))("a", "b") == "new"


def test_text_that_is_no_markup_is_escaped_where_html_is_shown():
    with gr.Blocks() as blocks:
        shown, button = gr.HTML(), gr.Button()
        for text in ("<b>a</b>", Markup("<b>a</b>")):
            shim.on(button.click, lambda values, text=text: {"shown": text}, {}, {"shown": shown})
    fns = blocks.fns.values() if isinstance(blocks.fns, dict) else blocks.fns
    assert [fn.fn() for fn in fns] == ["&lt;b&gt;a&lt;/b&gt;", "<b>a</b>"]


def test_a_group_of_widgets_has_one_name():
    with gr.Blocks() as blocks:
        group = {"a": gr.Number(), "b": gr.Number()}
        name, button = gr.Textbox(), gr.Button()
        named = {"group": group, "name": name}
        shim.on(button.click, lambda values: {"group": {"b": values["group"]["a"] + 1}}, named, named)
    fns = blocks.fns.values() if isinstance(blocks.fns, dict) else blocks.fns
    assert next(iter(fns)).fn(1, 2, "x") == [gr.update(), 2, gr.update()]
    with pytest.raises(KeyError, match="c"):
        shim._in_order({"group": {"c": 1}}, named)


def test_properties():
    change, _ = tied(lambda values: {"x": Properties(value="v", interactive=False)})("a", "b")
    assert change == gr.update(value="v", interactive=False)


def test_streams():
    def count(values):
        yield {"x": 1}
        yield {"y": 2}

    assert [[part for part in parts if part != gr.update()] for parts in tied(count)("a", "b")] == [[1], [2]]


def test_a_change_of_a_widget_that_is_no_output_is_an_error():
    with pytest.raises(KeyError, match="z"):
        tied(lambda values: {"z": 1})("a", "b")


def test_the_sliders_are_in_the_order_of_the_map(host):
    """The keyboard's order is the reading order: the IN side from above, then the OUT side from above."""
    blocks, tab = build(host)
    tab.close()
    ids = [component.elem_id for component in blocks.blocks.values() if isinstance(component, gr.Slider)]
    weights = [elem_id for elem_id in ids if elem_id and elem_id.startswith("blocktrain_w_")]
    ins, outs = ([f"{side}{number:02}" for number in range(12)] for side in ("IN", "OUT"))
    rows = [*ins, "M00", *reversed(outs), "BASE"]
    assert weights == [f"blocktrain_{weight_name(block_id)}" for block_id in rows]
    assert sorted(rows) == sorted(WEIGHT_IDS)


def test_building_the_tab_asks_nothing_of_the_model(host, monkeypatch):
    """The WebUI's start must not feel this extension."""
    monkeypatch.setattr(host, "model", lambda: pytest.fail("asked for the model"))
    monkeypatch.setattr("lib_blocktrain.networks.header.read_header_text", lambda path: pytest.fail("read a file"))
    monkeypatch.setattr("lib_blocktrain.workspace.lora_index.files_in", lambda folder: pytest.fail("listed a folder"))
    build(host)[1].close()
