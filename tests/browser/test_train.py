"""A LoRA from a folder of pictures to Preview, by clicks alone; the page is closed in the middle."""

from __future__ import annotations

import time

import pytest

STEP = "Number(document.querySelector('#blocktrain_runs_head [data-step]')?.dataset.step ?? -1)"
STATE = "document.querySelector('#blocktrain_runs_head [data-state]')?.dataset.state"


def fill(opened, name: str) -> None:
    """The first ready run, made small enough for a test."""
    opened.go("Train")
    opened.choose("train_ready", "1-robot")
    opened.page.wait_for_function(
        "() => document.querySelector('#blocktrain_train_name textarea, "
        "#blocktrain_train_name input').value === 'robot'"
    )
    changes = {"network_weights": "OUT09-OUT11=1", "steps": 20000, "batch": 1, "dataset_size": 64}
    for field, value in {**changes, "samples_every": 5, "samples_steps": 1, "name": name}.items():
        opened.type(f"train_{field}", value)
    opened.wait("train_estimate", "The backward pass stops at OUT09")
    opened.wait("train_understood", "OUT09-OUT11 = 1")


@pytest.mark.both_gradios
def test_blocks_are_chosen_on_the_map_and_an_error_is_at_its_field(opened):
    fill(opened, f"mapped-{time.time_ns()}")
    block = opened.page.locator("#blocktrain_u_train [data-block=IN05]")
    block.focus()
    block.press("End")  # the slider's most
    opened.wait("train_understood", "IN05 = ")
    text = (
        "document.querySelector('#blocktrain_train_network_weights textarea, #blocktrain_train_network_weights input')"
    )
    opened.page.wait_for_function(f"() => {text}.value.includes('IN05')")
    opened.type("train_network_weights", "OUT=1,IN05=0.5")
    opened.page.wait_for_function(
        "() => document.querySelector('#blocktrain_train_w_IN05 input[type=range]').value === '0.5'"
    )

    # what a folded group holds stands beside its title
    title = opened.page.locator("[id^=blocktrain_train_fold_] > .label-wrap", has_text="Loss and noise")
    title.click()
    opened.type("train_loss_noise_offset", "0.05")
    title.click()
    said = title.locator("span[data-said]")
    opened.page.wait_for_function(
        "title => title.dataset.said.endsWith('Noise offset 0.05')", arg=said.element_handle()
    )
    shown = said.evaluate("title => getComputedStyle(title, '::after').content")
    assert "Noise offset 0.05" in shown

    opened.type("train_dataset_size", "100")
    opened.click("train_start")
    opened.wait("train_message", "expected a multiple of 8")
    field = opened.page.locator("#blocktrain_train_dataset_size")
    assert "blocktrain-wrong" in field.first.get_attribute("class")
    assert field.locator("[aria-invalid=true]").count() == 1


@pytest.mark.both_gradios
def test_from_a_folder_to_preview(opened, second):
    name = f"trained-{time.time_ns()}"
    fill(opened, name)
    opened.page.wait_for_selector("#blocktrain_train_set .blocktrain-thumbs img")  # though the folder is not open
    opened.click("train_look")
    opened.wait("train_dataset", "with their repeats")
    opened.click("train_start")
    opened.page.wait_for_function(f"() => {STATE} === 'training' && {STEP} >= 3")
    assert name in opened.text("runs_head")

    opened.page.reload()
    opened.page.wait_for_function("window.blocktrain?.loras?.store.complete")
    opened.go("Runs")
    opened.page.wait_for_function(f"() => {STATE} === 'training'")
    step = opened.page.evaluate(STEP)
    opened.page.wait_for_function(f"step => {STEP} > step", arg=step)
    opened.page.wait_for_selector(".blocktrain-sample .blocktrain-film img")
    opened.page.wait_for_selector(".blocktrain-loss polyline", state="attached")
    second.go("Runs")
    second.page.locator(f'#blocktrain_runs_list tr[data-run*="{name}"]').click()  # it may show an earlier run
    second.page.wait_for_function(f"() => {STATE} === 'training'")
    assert name in second.text("runs_head")

    second.click("runs_stop_save")
    opened.page.wait_for_function(f"() => {STATE} === 'stopped'")
    opened.page.wait_for_selector(f"{opened.button('runs_preview')}:not([disabled])")
    opened.click("runs_preview")
    opened.row(name).first.wait_for()
    opened.small()
    without, at_1, weighted = opened.preview()
    assert weighted == at_1 != without


def test_stop_asks_before_something_is_lost(opened):
    """No answers leave the run in training; yes ends it without saving. What the bar says follows its state."""
    name = f"stopped-{time.time_ns()}"
    fill(opened, name)
    opened.click("train_start")
    opened.wait("runs_head", name)
    opened.page.wait_for_function(f"() => {STATE} === 'training' && {STEP} >= 2")
    opened.click("runs_stop")
    opened.page.locator("dialog").get_by_text("Stop without saving?").wait_for()
    opened.page.keyboard.press("Escape")
    step = opened.page.evaluate(STEP)
    opened.page.wait_for_function(f"step => {STATE} === 'training' && {STEP} > step", arg=step)
    opened.click("runs_stop")
    opened.page.locator("dialog").get_by_role("button", name="Stop").click()
    opened.page.wait_for_function(f"() => {STATE} === 'stopped'")
    opened.wait("runs_state", "Nothing was saved: Resume begins at step 0.")
    assert not opened.page.locator(opened.button("runs_stop")).first.is_visible()


def test_what_cannot_be_trained_is_said_beside_the_button(opened):
    opened.go("Train")
    opened.wait("train_estimate", "A step, beside all blocks")
    opened.click("train_start")
    opened.wait("train_message", "no folder of pictures yet")
    opened.type("train_network_weights", "OUT=oops")
    opened.wait("train_understood", "'oops': expected a number")
