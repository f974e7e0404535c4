"""What the page shows: everything from files is text, and a caret points at its character."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lib_blocktrain.ui import html
from lib_blocktrain.weights.preset_strings import PresetStringError, parse
from lib_blocktrain.workspace.jobs import Step
from tests.fakes import write_lora

UI = sorted(Path(html.__file__).parent.glob("*.py"))
MARKUP = '<img src=x onerror="alert(1)">'


def test_metadata_are_text(host, lora_index):
    write_lora(
        host.lora_dirs[0] / f"{MARKUP}.safetensors",
        **{"modelspec.trigger_phrase": MARKUP, "ss_output_name": MARKUP, "ss_sd_model_name": MARKUP},
        ss_tag_frequency='{"1_x": {"<b>bold</b>": 2}}',
        ss_network_args='{"up_lr_weight": "<i>1</i>"}',
    )
    lora_index.refresh()
    shown = html.facts(lora_index.file(MARKUP))
    assert set(re.findall(r"<(\w+)", shown)) == {"dl", "dt", "dd", "ul", "li", "small", "p", "code"}
    assert shown.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;") == 3


@pytest.mark.parametrize("text", [f"A:{'0,' * 16}oops", f"A:{'0.25,' * 16}oops,1", "\n\n# c", "A:1,\toops"])
def test_the_caret_is_under_the_character(text):
    with pytest.raises(PresetStringError) as error:
        parse(text, "sd1")
    shown = html.not_understood(text, error.value)
    line, caret = shown.split("<pre")[1].split(">", 1)[1].removesuffix("</pre>").split("\n")
    at = caret.index("^")
    assert (line + "\n")[at : at + 4] == (text + "\n")[error.value.position :][:4].replace("\t", " ")


def test_progress_tells_what_is_left():
    shown = html.progress(Step("every block at 1", 1, 3, 10, 20, 30.0))
    assert "Picture 2 of 3 · step 10/20 · 30 s left" in shown
    assert 'value="50"' in shown
    assert 'data-drawing="1" data-done="10" data-steps="20"' in shown


@pytest.mark.parametrize("text", ["*=0", "OUT=1,BASE=0.5", "*=0.5", "IN04-IN05=0.3,IN07-M00=1,OUT00=0.3,OUT11=1"])
def test_understood_names_every_block_that_is_on(text):
    parsed = parse(text, "sd1")
    shown = html.understood(parsed)
    said = shown.split("</li>")[0].split("SD1: ")[1]
    groups = [group.rpartition(" = ") for group in said.split("; ") if " = " in group]
    ranges = ",".join(f"{part}={value}" for ids, _, value in groups for part in ids.split(", "))
    read_back = parse(ranges or "*=0", "sd1").weights  # the ranges of a preset string
    assert dict(read_back.values) == dict(parsed.weights.values)
    assert ("REST = 0.5 has no slider" in shown) == (text == "*=0.5")


@pytest.mark.parametrize("path", UI, ids=lambda path: path.stem)
def test_text_gets_into_markup_by_format_only(path):
    """Every Markup is made from a constant, and no f-string has a tag: neither could escape what is put into it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            texts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            assert not any(re.search(r"</?[a-z]", text) for text in texts), f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Markup":
            assert all(isinstance(argument, ast.Constant) for argument in node.args), f"{path.name}:{node.lineno}"
