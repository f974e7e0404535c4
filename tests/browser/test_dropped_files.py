"""Files that are dropped on Preview, and a grid over the LoRAs in use, in Chromium."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.long


def test_a_grid_over_the_loras_in_use(opened):
    page = opened.page
    opened.small()
    opened.view("grid")
    opened.tick("style")
    opened.active("style")
    page.locator("#blocktrain_grid_over label", has_text="LoRA").locator("input").click()
    opened.press_and_wait("draw_grid")
    assert len(set(opened.pixels("grid_pictures"))) == 3
    page.locator("#blocktrain_grid_pictures figure", has_text="style").get_by_text("Use").click()
    opened.row("robot").locator("[data-act=mute][aria-pressed=true]").wait_for()


def drop(opened, **contents: str) -> None:
    opened.page.evaluate(
        """(contents) => {
            const files = new DataTransfer();
            for (const [name, content] of Object.entries(contents)) {
                files.items.add(new File([content], name.replace("_", ".")));
            }
            document.querySelector("#blocktrain_section_pictures").dispatchEvent(
                new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        contents,
    )


def test_what_is_dropped_is_taken_or_refused_in_sight(opened):
    drop(opened, presets_txt="DROPPED:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0")
    opened.wait("preset_message", "1 presets added")  # waits until it is seen
    opened.page.keyboard.press("Escape")
    drop(opened, style_safetensors="x")
    opened.active("style")
    drop(opened, one_png="x", two_png="x")
    opened.wait("status", "2 files at once: expected a .png")
    drop(opened, notes_doc="x")
    opened.wait("status", "notes.doc: expected a .png")
    red = """() => {
        const shown = getComputedStyle(document.querySelector("#blocktrain_status .blocktrain-failure"));
        const probe = document.getElementById("blocktrain").appendChild(document.createElement("i"));
        probe.style.color = "var(--blocktrain-bad)";
        return shown.color === getComputedStyle(probe).color && shown.backgroundColor !== "rgba(0, 0, 0, 0)";
    }"""
    assert opened.page.evaluate(red)
