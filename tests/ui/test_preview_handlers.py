"""Drawing, cancelling, saving, loading and baking, on a host whose pictures encode their request."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from html import unescape
from pathlib import Path

import pytest
from markupsafe import escape
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_blocktrain.hosts.host import OutOfMemory
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.ui.picture_requests import PictureRequests
from lib_blocktrain.ui.preview_handlers import PreviewHandlers
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.prompt_tags import PageWeights, read_tag, resolve
from lib_blocktrain.weights.tagged_prompts import tag_items
from lib_blocktrain.workspace import jobs as jobs_module
from lib_blocktrain.workspace.drawing import PreviewRenderer
from lib_blocktrain.workspace.images import read_png
from lib_blocktrain.workspace.lora_selection import WEIGHT_IDS
from tests.fakes import SDXL_LAYERS, write_lora


def sources(page, name="pictures") -> list[str]:
    return re.findall(r'<img [^>]*src="([^"]+)"', page.values[name])


def webui_picture(folder: Path, parameters: str) -> Path:
    """A picture as a WebUI saves it."""
    path, info = folder / "00001-5.png", PngInfo()
    info.add_text("parameters", parameters)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def compare(preview, page):
    return page.run(preview.compare(page.values))


def test_three_pictures_as_they_come(preview, page):
    page.values["weights"]["IN04"] = 0.5
    answers = compare(preview, page)
    counts = [answer["pictures"].count("<img") for answer in answers if "pictures" in answer]
    assert counts == [0, 1, 2, 3, 3]
    assert len(set(sources(page))) == 3
    assert "3 of 3 pictures drawn, seed 7" in page.values["status"]
    assert page.properties["draw"]["interactive"] is False
    page.take(preview.idle(page.values))
    assert page.properties["draw"] == {"value": "Draw", "interactive": True}
    assert page.properties["cancel"]["interactive"] is False


def test_the_picture_is_shown_while_it_is_drawn(host, preview, page):
    host.draft = Image.new("RGBA", (800, 400), "red")
    page.values["weights"]["IN04"] = 0.5
    page.values |= {"steps": 2, "grid_over": "seed", "grid_values": "3"}
    for draw, widget, count in ((preview.compare, "pictures", 3), (preview.compare_cells, "grid_pictures", 2)):
        page.values["seed"] += 1
        lives = [answer["live"] for answer in page.run(draw(page.values)) if "live" in answer]
        shown = [
            re.match(f'<img alt="" data-live="{widget}" data-number="(.)" src="(.+)">', live) for live in lives[1:-1]
        ]
        assert [match[1] for match in shown] == [str(number) for number in range(count) for _ in range(2)]
        content = base64.b64decode(shown[0][2].partition(",")[2])
        assert Image.open(io.BytesIO(content)).size == (384, 192)
        assert (lives[0], lives[-1]) == ("", "")


def test_the_prompts_tags_are_short_and_leave_out_what_is_muted(controls, preview, page):
    page.values["weights"]["IN04"] = 0.5
    page.use("robot", "style", style=0.7)
    page.take(controls.choose(page.values))
    page.values["weights"] |= {"IN04": 1.0, "OUT03": -0.4}
    compare(preview, page)
    tags = "<lora:robot:1:bw=ALL,IN04=0.5> <lora:style:0.7:bw=ALL,OUT03=-0.4>"
    assert f'data-tag="{escape(tags)}"' in page.values["pictures"]
    page.values["loras"] = page.values["loras"].replace('"muted": false', '"muted": true', 1)
    compare(preview, page)
    assert f'data-tag="{escape(tags.split(" ")[1])}"' in page.values["pictures"]


def test_a_moved_slider_draws_the_third_only(host, preview, page, monkeypatch):
    from lib_blocktrain.workspace import lora_index

    reads = []
    read = lora_index.read_network
    monkeypatch.setattr(lora_index, "read_network", lambda path: reads.append(path) or read(path))
    page.values["weights"]["IN04"] = 0.5
    compare(preview, page)
    first = sources(page)
    page.values["weights"]["IN04"] = 0.6
    compare(preview, page)
    second = sources(page)
    assert second[:2] == first[:2]
    assert second[2] != first[2]
    assert len(host.requests) == 4
    assert len(reads) == 1
    assert "1 of 3 pictures drawn" in page.values["status"]
    compare(preview, page)
    assert "0 of 3 pictures drawn, seed 7: nothing has changed" in page.values["status"]


def test_all_weights_0_is_the_first_picture_drawn_again(host, preview, page):
    for block_id in WEIGHT_IDS:
        page.values["weights"][block_id] = 0.0
    compare(preview, page)
    drawn = preview.results[page.values["job"]].values()
    pixels = [set(Image.open(io.BytesIO(one.png)).getdata()) for one in drawn]
    assert pixels[0] == pixels[2] != pixels[1]
    assert len(host.requests) == 3  # drawn, not taken from the first


def test_a_changed_file_is_drawn_again(host, preview, page):
    compare(preview, page)
    write_lora(host.lora_dirs[0] / "robot.safetensors", SDXL_LAYERS | {"x": "lora_unet_input_blocks_4_1_proj_in"})
    compare(preview, page)
    assert "robot is for sdxl" in page.values["status"]


def test_without_a_lora_there_is_one_picture(controls, preview, page):
    page.use()
    page.take(controls.choose(page.values))
    compare(preview, page)
    assert len(sources(page)) == 1


def test_the_pages_list_counts(host, preview, page):
    """A preview between a change of the list and its answer draws what is in the list."""
    page.use("style")
    compare(preview, page)
    assert {p.network.name for request in host.requests for p in request.placements} == {"style"}


def test_a_muted_lora_is_left_out_and_keeps_its_strength(host, controls, preview, page):
    page.use("robot", "style", style=0.5)
    page.values["loras"] = page.values["loras"].replace('0.5, "muted": false', '0.5, "muted": true')
    page.take(controls.choose(page.values))
    compare(preview, page)
    assert {p.network.name for request in host.requests for p in request.placements} == {"robot"}
    page.take(preview.compare_cells({**page.values, "grid_presets": ["OUTALL"]}).__next__())
    assert "style is muted" in page.values["status"]
    page.values["loras"] = page.values["loras"].replace("true", "false")
    page.take(controls.choose(page.values))
    assert page.values["selection"].entries["style"].strength == 0.5
    compare(preview, page)
    assert {p.multiplier for p in host.requests[-1].placements} == {1.0, 0.5}


def test_two_loras_act_together(host, controls, preview, page):
    page.use("robot", "style")
    page.take(controls.choose(page.values))
    page.use("robot", "style", style=0.5)
    page.values["weights"] |= {"OUT03": 0.0}
    compare(preview, page)
    at_1, weighted = host.requests[1:]
    assert [(p.network.name, p.multiplier, p.weights["OUT03"]) for p in at_1.placements] == [
        ("robot", 1.0, 1.0),
        ("style", 0.5, 1.0),
    ]
    assert [(p.network.name, p.multiplier, p.weights["OUT03"]) for p in weighted.placements] == [
        ("robot", 1.0, 1.0),
        ("style", 0.5, 0.0),
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps", None, "steps None"),
        ("steps", 2.5, "whole number"),
        ("seed", -2, "seed -2"),
        ("width", 100, "width 100: expected a multiple of 8"),
        ("cfg", 31, "CFG 31"),
        ("sampler", "Eular", "expected one of DDIM, Euler"),
        ("weights", {**dict.fromkeys(WEIGHT_IDS, 1.0), "IN04": 9}, "IN04 = 9"),
    ],
)
def test_refused_before_anything_is_drawn(host, preview, page, name, value, words):
    page.values[name] = value
    compare(preview, page)
    assert words in page.values["status"]
    assert not host.requests


def test_a_random_seed_is_said(host, preview, page):
    page.values["seed"] = -1
    compare(preview, page)
    seeds = {request.seed for request in host.requests}
    assert len(seeds) == 1
    assert f"seed {seeds.pop()}" in page.values["status"]


def test_what_the_host_says_of_a_picture_stands_there_once(host, preview, page):
    host.says = "robot: 3 of its modules are left out, e.g. <x>"
    compare(preview, page)
    assert page.values["status"].count("left out, e.g. &lt;x&gt;") == 1
    host.says = None
    compare(preview, page)  # the same pictures, kept
    assert page.values["status"].count("left out") == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemory("too little memory"), "too little memory"),
        (RuntimeError("shapes do not fit"), "shapes do not fit"),
        (KeyError("x"), "unexpected KeyError"),
    ],
)
def test_a_failure_is_told_and_the_next_preview_works(host, preview, page, error, words):
    host.fails = error
    compare(preview, page)
    assert words in page.values["status"]
    assert "blocktrain-failure" in page.values["status"]
    compare(preview, page)
    assert len(sources(page)) == 3


def test_cancel_ends_it_before_the_next_step(host, preview, page):
    host.gate.clear()
    generator = preview.compare(page.values)
    page.take(next(generator))
    while "step" not in page.values["status"]:
        page.take(next(generator))
    assert preview.cancel(page.values) == {}
    while "Cancelling" not in page.values["status"]:
        page.take(next(generator))
    host.gate.set()
    page.run(generator)
    assert "Cancelled: 0 of 3 pictures drawn" in page.values["status"]
    assert len(host.requests) == 1
    assert preview.cancel(page.values) == {}


def test_draw_is_not_free_while_a_later_drawing_goes_on(host, preview, page):
    """Two clicks are two drawings under gradio 4: the end of the first left the second without Cancel."""
    page.run(preview.compare(page.values))
    host.gate.clear()
    generator = preview.compare(page.values)
    page.take(next(generator))
    assert preview.idle(page.values) == {}
    host.gate.set()
    page.run(generator)
    assert preview.idle(page.values)["draw"]["interactive"] is True


def test_the_pictures_shown_and_what_cancel_ends_are_two_things(host, preview, page):
    """A picture of the history shown during a drawing took its Cancel, and Save wrote the wrong pictures."""
    host.gate.clear()
    generator = preview.compare(page.values)
    while not host.requests:
        page.take(next(generator))
    job = page.values["job"]
    page.values["job"] = "of-the-history"  # what `PictureRequests` answers
    assert preview.idle(page.values) == {}
    host.gate.set()
    page.run(generator)
    assert page.values["job"] == job
    assert preview.idle(page.values)["draw_grid"]["interactive"] is True


def test_cancel_ends_all_drawings_of_the_page(host, preview, page):
    host.gate.clear()
    first = preview.compare(page.values)
    page.take(next(first))
    second = preview.compare_cells({**page.values, "grid_presets": ["ALL"]})
    page.take(next(second))
    assert len(page.values["drawing"].split()) == 2
    preview.cancel(page.values)
    host.gate.set()
    for drawing in (first, second):
        page.run(drawing)
        assert "Cancelled" in page.values["status"]


def test_cancel_ends_it_at_once_while_another_has_the_model(host, preview, page):
    with host.queued():
        generator = preview.compare(page.values)
        while "Waiting" not in page.values.get("status", ""):
            page.take(next(generator))
        preview.cancel(page.values)
        page.run(generator)
        assert "Cancelled: 0 of 3 pictures drawn" in page.values["status"]
    compare(preview, page)
    assert len(sources(page)) == 3
    assert len(host.requests) == 2  # two are alike; none for what was cancelled


def test_a_second_click_waits_for_its_turn(host, preview, page):
    host.gate.clear()
    first = preview.compare(page.values)
    job = next(first)["job"]
    while not host.requests:
        threading.Event().wait(0.01)
    second = preview.compare({**page.values, "seed": 8})
    assert next(second)["job"] != job
    assert "Waiting" in next(second)["status"]
    assert len(host.requests) == 1
    host.gate.set()
    assert len(page.run(first)) > 3
    page.run(second)
    assert "2 of 3 pictures drawn, seed 8" in page.values["status"]


def test_a_reader_who_leaves_cancels(host, preview, page):
    host.gate.clear()
    generator = preview.compare(page.values)
    next(generator)
    while not host.requests:
        threading.Event().wait(0.01)
    job = preview.jobs.current
    generator.close()
    host.gate.set()
    with pytest.raises(RuntimeError, match="cancelled"):
        job.future.result(10)
    assert len(host.requests) == 1


def test_grid_over_presets(host, preview, page):
    page.values["grid_presets"] = ["NONE", "INALL", "OUTALL"]
    page.run(preview.compare_cells(page.values))
    assert len(sources(page, "grid_pictures")) == 4
    assert "INALL" in page.values["grid_pictures"]
    assert [p.weights["OUT03"] for request in host.requests[1:] for p in request.placements] == [0.0, 0.0, 1.0]


def test_why_two_pictures_are_one(controls, preview, page):
    page.run(preview.compare(page.values))
    assert "every block is at 1" in page.values["status"]
    controls.presets.save("SAME", controls.presets.parse("OUTALL", "sd1").weights)
    page.values["grid_presets"] = ["OUTALL", "SAME"]
    page.run(preview.compare_cells(page.values))
    assert "every block is at 1" not in page.values["status"]


@pytest.mark.parametrize(("presets", "words"), [([], "no preset is chosen"), (["NOSUCH"], "unknown preset")])
def test_grid_refuses(preview, page, presets, words):
    page.values["grid_presets"] = presets
    page.run(preview.compare_cells(page.values))
    assert words in page.values["status"]


def test_save_and_load_again(host, controls, preview, page):
    page.values |= {
        "prompt": "a fox, <b>red</b>\nsecond line",
        "negative": "blur: yes",
    }
    page.use("robot", robot=0.75)
    page.values["weights"]["IN04"] = 0.25
    compare(preview, page)
    page.take(preview.save(page.values))
    paths = sorted((host.output_dir / "blocktrain").glob("*.png"))
    assert [path.stem.split("-", 3)[3] for path in paths] == ["at-1", "weights", "without"]
    assert read_png(paths[2]).loras == ()
    wanted = {**page.weights(), "prompt": page.values["prompt"], "negative": "blur: yes", "seed": 7}
    page.values |= {
        "prompt": "",
        "negative": "",
        "seed": 1,
        "sampler": "Euler",
        "steps": 9,
    }
    page.values["weights"]["IN04"] = 1.0
    page.use()
    page.take(controls.choose(page.values))
    page.take(preview.load({**page.values, "png_file": paths[1]}))
    assert {**page.weights(), **{name: page.values[name] for name in list(wanted)[26:]}} == wanted
    assert page.keys == ["robot"]
    assert page.values["selection"].shown.strength == 0.75
    assert (page.values["sampler"], page.values["steps"], page.values["width"]) == ("DDIM", 3, 64)


def test_loading_says_what_is_missing(host, preview, page):
    compare(preview, page)
    page.take(preview.save(page.values))
    path = next((host.output_dir / "blocktrain").glob("*weights.png"))
    (host.lora_dirs[0] / "robot.safetensors").unlink()
    preview.controls.lora_index.refresh()
    page.take(preview.load({**page.values, "png_file": path}))
    assert "not in the folders: robot" in page.values["status"]
    assert "not taken over" not in page.values["status"]


def test_loading_says_where_a_name_is_that_of_several_files(host, controls, preview, page):
    """A picture has the file's name without its folder."""
    for folder in ("a", "b"):
        (host.lora_dirs[0] / folder).mkdir()
        write_lora(host.lora_dirs[0] / folder / "twice.safetensors")
    controls.lora_index.refresh()
    page.use("a/twice")
    page.take(controls.choose(page.values))
    compare(preview, page)
    page.take(preview.save(page.values))
    path = next((host.output_dir / "blocktrain").glob("*weights.png"))
    page.take(preview.load({**page.values, "png_file": path}))
    assert page.keys == ["b/twice"]
    assert "twice may be a/twice or b/twice: the last is used" in page.values["status"]


def test_loading_another_file_is_refused(preview, page, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"no picture")
    page.take(preview.load({**page.values, "png_file": path}))
    assert "x.png is not a PNG" in page.values["status"]


def test_nothing_to_save(preview, page):
    page.take(preview.save(page.values))
    assert "press Draw first" in page.values["status"]


def test_bake(host, monkeypatch, preview, page):
    page.values |= {"bake_name": "robot-outs"}
    page.values["weights"] |= {"IN04": 0.0, "OUT03": 0.5}
    monkeypatch.setattr(host.loaded, "architecture", "sd2")  # no base to look layers up in
    page.run(preview.bake(page.values))
    baked = read_network(host.lora_dirs[0] / "robot-outs.safetensors")
    assert set(baked.blocks) == {"OUT03", "BASE"}
    assert "robot-outs" in page.values["lora_data"]
    before = baked.path.read_bytes()
    page.values["weights"] |= {"OUT03": 1.0}
    page.run(preview.bake(page.values))
    assert "already" in page.values["bake_status"]
    assert baked.path.read_bytes() == before
    page.values["bake_replace"] = True
    page.run(preview.bake(page.values))
    assert baked.path.read_bytes() != before


def test_bake_is_cancelled_before_anything_is_written(host, preview, page):
    page.values |= {"bake_name": "robot-outs", "bake_job": ""}
    page.values["weights"] |= {"OUT03": 0.5}
    with host.queued():
        going = preview.bake(page.values)
        page.take(next(going))
        page.take(preview.cancel_bake(page.values))
        page.run(going)
    assert "Cancelled" in page.values["bake_status"]
    assert not (host.lora_dirs[0] / "robot-outs.safetensors").exists()


@pytest.mark.parametrize("name", ["", "../robot", "a/b", "a\\b", ".hidden", "con", "a\0b", "x" * 130, "..", "é" * 110])
def test_bake_names_are_no_paths(host, preview, page, name):
    page.values["bake_name"] = name
    before = {path.name for path in host.lora_dirs[0].parent.rglob("*")}
    page.run(preview.bake(page.values))
    assert "cannot name a file" in page.values["bake_status"]
    assert {path.name for path in host.lora_dirs[0].parent.rglob("*")} == before


def test_a_page_that_waits_hears_that_the_work_goes_on(host, preview, page, monkeypatch):
    monkeypatch.setattr(jobs_module, "KEEP_ALIVE", 0.05)
    with host.queued():
        going = preview.compare(page.values)
        said = [next(going) for _ in range(5)]
    assert said[-1] == {}
    assert "Waiting" in str(said[1]["status"])
    page.run(going)
    assert "2 of 3 pictures drawn" in page.values["status"]


def test_threads_end(preview, page):
    before = set(threading.enumerate())
    compare(preview, page)
    begun = set(threading.enumerate()) - before
    assert {thread.name.split("_")[0] for thread in begun} >= {"blocktrain"}
    preview.jobs.close()
    for thread in begun:
        thread.join(20)
    assert set(threading.enumerate()) <= before


def test_waiting_says_who_has_the_model(host, controls, lora_index, jobs, page):
    page.values["weights"]["IN04"] = 0.5
    preview = PreviewHandlers(host, controls, PreviewRenderer(host, lora_index), jobs, lambda: "<b>robot")
    with host.queued():
        changes = preview.compare(page.values)
        said = [next(changes)["status"], next(changes)["status"]]
    page.run(changes)
    assert "Waiting for the model: &lt;b&gt;robot is being trained" in said[1]
    assert "3 of 3 pictures drawn" in page.values["status"]


RANDOM = ",".join(["R", *["1"] * 16])
WEBUI_PICTURE = f"""\
a fox <lora:robot-in-prompts:0.7:bw=OUTD>, red <lora:style:1:bw={RANDOM}> <lora:gone:1>
Negative prompt: blur
Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 64x64, \
Block weights: "style: ALL,IN04=0.5; robot-in-prompts: OUT=0.25\""""


def test_a_webuis_picture_brings_the_loras_of_its_prompt(host, controls, preview, page, tmp_path):
    """With the weights that it was made with, by the name that the WebUI writes: that of the file's metadata."""
    write_lora(host.lora_dirs[0] / "robot_v2.safetensors", ss_output_name="robot-in-prompts")
    controls.lora_index.refresh()
    page.take(preview.load({**page.values, "png_file": webui_picture(tmp_path, WEBUI_PICTURE)}))
    selection = page.values["selection"]
    assert list(selection.entries) == ["robot_v2", "style"]
    robot, style = selection.entries.values()
    assert (robot.strength, robot.weights["OUT03"], robot.weights["IN04"]) == (0.7, 0.25, 0)
    assert (style.weights["IN01"], style.weights["IN04"]) == (1, 0.5)
    assert page.values["prompt"] == "a fox , red"
    assert page.values["seed"] == 5
    assert "not in the folders: gone" in page.values["status"]


def test_a_picture_whose_tag_cannot_be_taken_over_is_loaded_and_keeps_the_tag(preview, page, tmp_path):
    text = "a fox <lora:robot:1:bw=NOSUCH> <lora:style:0.5>\nSteps: 20, Seed: 5, Size: 64x64"
    page.take(preview.load({**page.values, "png_file": webui_picture(tmp_path, text)}))
    assert list(page.values["selection"].entries) == ["style"]
    assert page.values["prompt"] == "a fox <lora:robot:1:bw=NOSUCH>"
    assert re.search("robot: .*unknown preset.*, so its tag stays in the prompt", page.values["status"])


@pytest.mark.parametrize(
    "asked",
    [
        '{"do": "restore", "entry": {"values": {}, "pictures": [{"no": 1}]}, "number": 3}',
        '{"do": "zebra", "number": 3}',
    ],
)
def test_each_request_is_answered_by_its_number(preview, page, asked):
    """Whatever is wrong with it: the page asks until it is answered, and for nothing else."""
    requests = PictureRequests(preview, lambda stored: (dict(stored), []))
    page.values["pictures_ask"] = asked
    page.take(requests.answer(page.values))
    assert 'data-number="3"' in page.values["pictures_answered"]
    assert "blocktrain-failure" in page.values["status"]


def test_what_is_taken_from_txt2img_brings_its_loras(preview, page):
    def take(text="", **values):
        requests = PictureRequests(preview, lambda stored: (dict(stored), []))
        page.values["pictures_ask"] = json.dumps({"do": "take", "values": values, "weights": text})
        page.take(requests.answer(page.values))

    take("OUT=0.5", prompt="a fox <lora:style:0.8>", negative="blur", seed=-1, steps=12)
    entry = page.values["selection"].entries["style"]
    assert (page.keys, entry.strength, entry.weights["OUT09"]) == (["style"], 0.8, 0.5)
    assert (page.values["prompt"], page.values["steps"]) == ("a fox", 12)
    assert "LoRAs: style" in page.values["status"]
    take(prompt="a cat", scheduler="Automatic")
    assert page.keys == ["style"]  # without one in the prompt they stay
    assert page.values["prompt"] == "a cat"
    assert "not taken over" not in page.values["status"]
    take(scheduler="Exponential")
    assert "not taken over: Schedule type Exponential" in page.values["status"]


def test_what_is_not_taken_from_a_picture_is_said(preview, page, tmp_path):
    """A schedule type was left out without a word, and the picture became another."""
    text = "a fox\nSteps: 5, Sampler: DDIM, Schedule type: Exponential, CFG scale: 5, Seed: 9, Size: 64x64, "
    text += "Model hash: 123, Model: x, Clip skip: 2, Version: v1.10.1"
    page.take(preview.load({**page.values, "png_file": webui_picture(tmp_path, text)}))
    assert "not taken over: Schedule type Exponential, Clip skip 2" in page.values["status"]
    assert "Model" not in page.values["status"]


def test_a_dropped_file_of_two_folders_is_not_guessed(host, controls, preview, page):
    for folder in ("a", "b"):
        (host.lora_dirs[0] / folder).mkdir()
        write_lora(host.lora_dirs[0] / folder / "twice.safetensors")
    requests = PictureRequests(preview, lambda stored: (dict(stored), []))
    page.values["pictures_ask"] = json.dumps({"do": "lora", "name": "twice.safetensors"})
    page.take(requests.answer(page.values))
    assert "is in several folders: choose one of a/twice, b/twice" in page.values["status"]
    assert page.keys == ["robot"]


def test_the_prompt_for_txt2img_has_each_lora_once(host, controls, preview, page):
    """By whichever of its names the prompt has it; one that is muted here has no tag there."""
    write_lora(host.lora_dirs[0] / "robot_v2.safetensors", ss_output_name="robot-in-prompts")
    controls.lora_index.refresh()
    page.use("robot_v2", "style", robot_v2=0.5)
    rows = json.loads(page.values["loras"])
    rows["loras"][1]["muted"] = True
    page.values["loras"] = json.dumps(rows)
    page.take(controls.choose(page.values))
    page.values["prompt"] = "a fox <lora:robot-in-prompts:1:bw=OUTD> in snow <lora:style:1> <lora:other:1>"
    compare(preview, page)
    sent = re.search(' data-prompt="([^"]*)"', page.values["pictures"])[1]
    assert unescape(sent) == "a fox in snow <lora:other:1> <lora:robot_v2:0.5:bw=ALL>"
    (*_, items) = tag_items(unescape(sent)).values()
    accordion = PageWeights("OUTD")  # is for tags without weights
    assert resolve(read_tag(items), "sd1", page=accordion).weights == BlockWeights.uniform("sd1", 1.0)


def test_the_prompt_for_txt2img_has_the_name_of_the_file(host, controls, preview, page, tmp_path):
    """Not the one in the list, which tells apart two folders and is not known to a WebUI."""
    more = tmp_path / "more"
    more.mkdir()
    host.lora_dirs = (*host.lora_dirs, more)
    write_lora(more / "robot.safetensors")
    controls.lora_index.refresh()
    page.use("robot (more)")
    page.take(controls.choose(page.values))
    page.values["prompt"] = "a fox <lora:robot:1>"
    compare(preview, page)
    sent = unescape(re.search(' data-prompt="([^"]*)"', page.values["pictures"])[1])
    assert sent.startswith("a fox <lora:robot:1")
    assert sent.count("<lora") == 1
