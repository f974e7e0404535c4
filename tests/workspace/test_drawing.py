"""Which tags of the prompt a comparison leaves out."""

from __future__ import annotations

import pytest

from lib_blocktrain.workspace.drawing import PreviewRenderer, Settings, comparison, grid, lora_cells
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS, LoraEntry, LoraSelection
from tests.fakes import write_lora

PROMPT = "a fox <lora:robot:1:bw=OUTD> <lora:painted:0.5> <lora:other:1>"


@pytest.fixture
def drawn(host, lora_index, jobs):
    """Return the requests of a comparison's variants, drawn with a prompt that has tags."""
    host.reads_prompt_syntax = True
    write_lora(host.lora_dirs[0] / "style.safetensors", ss_output_name="painted")
    renderer = PreviewRenderer(host, lora_index)

    def draw(variants) -> list:
        host.requests.clear()
        job = jobs.start(renderer.work(variants, Settings(PROMPT, sampler="Euler", steps=1, width=64, height=64)), "x")
        for _ in job.reports():
            pass
        job.result()
        return list(host.requests)

    return draw


def selection(*keys: str, muted: str = "") -> LoraSelection:
    entries = {key: LoraEntry(weights=dict.fromkeys(WEIGHT_IDS, 0.5), muted=key == muted) for key in keys}
    return LoraSelection(entries, active=keys[0])


def test_without_a_lora_is_without_its_tag(drawn):
    """Every picture, also the one that has no LoRA placed; tags of LoRAs that are not compared stay."""
    requests = drawn(comparison(selection("robot"), "sd1"))
    assert [len(request.placements) for request in requests] == [0, 1, 1]
    assert [request.ignored for request in requests] == [{"robot"}] * 3


def test_a_lora_alone_is_without_the_others_tags(drawn):
    """A tag may have the name in the file's metadata."""
    requests = drawn(grid(lora_cells(selection("robot", "style")), "sd1"))
    assert [len(request.placements) for request in requests] == [0, 1, 1]
    assert [request.ignored for request in requests] == [{"robot", "painted"}] * 3


def test_another_lora_draws_the_picture_without_again(drawn):
    """Kept for `robot`, the first picture has the tag of `style`."""
    drawn(comparison(selection("robot"), "sd1"))
    assert len(drawn(comparison(selection("robot"), "sd1"))) == 0
    assert [request.ignored for request in drawn(comparison(selection("style"), "sd1"))] == [{"painted"}] * 3


def test_a_muted_lora_does_not_act_by_its_tag(drawn, host):
    """One whose file is gone, or cannot be read, has no tag that acts."""
    requests = drawn(comparison(selection("robot", "style", muted="style"), "sd1"))
    assert [len(request.placements) for request in requests] == [0, 1, 1]
    assert [request.ignored for request in requests] == [{"robot", "painted"}] * 3
    (host.lora_dirs[0] / "style.safetensors").write_bytes(b"broken")
    requests = drawn(comparison(selection("robot", "style", "gone", muted="style"), "sd1")[:1])
    assert [request.ignored for request in requests] == [{"robot"}]


def test_what_the_host_draws_with_is_drawn_again_when_it_changes(drawn, host):
    """Another VAE or clip skip in the same model: the earlier pictures came back as "nothing has changed"."""
    assert len(drawn(comparison(selection("robot"), "sd1"))) == 3
    host.state = ("another VAE",)
    assert len(drawn(comparison(selection("robot"), "sd1"))) == 3
    host.presets_path.write_text("MINE:1", "utf-8")  # a tag in the prompt may name it
    assert len(drawn(comparison(selection("robot"), "sd1"))) == 3
    assert len(drawn(comparison(selection("robot"), "sd1"))) == 0
