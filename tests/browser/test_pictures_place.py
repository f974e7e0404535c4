"""Pictures: from 24 dropped files to a run, without a path typed. Nothing in it depends on gradio's version."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image
from test_access_page import LOW_CONTRAST, NAMELESS
from test_train import STATE, STEP

COUNT = 24
DROP = """([place, files]) => {
    const data = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        data.items.add(new File([bytes], name));
    }
    const event = new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector(place).dispatchEvent(event);
}"""
IN_CAPTION = "document.activeElement.closest('.blocktrain-pic')?.dataset.key"


def picture(number: int) -> str:
    """A PNG, each of another colour and pattern, in base64."""
    image = Image.new("RGB", (96, 64 + 32 * (number % 2)), (10 * number, 250 - 10 * number, (70 * number) % 256))
    image.paste((255, 255, 255), (number * 2, number, number * 2 + 20, number + 24))
    content = io.BytesIO()
    image.save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")


def test_from_24_dropped_pictures_to_a_run(opened):
    page, folder = opened.page, opened.folder / "out/datasets/bots/10_bots"
    opened.go("Pictures")
    files = [[f"{number:03}.png", picture(number)] for number in range(COUNT)]
    hostile = [["CON.png", picture(0)], ["<img src=x onerror=alert(1)>.png", picture(1)]]
    broken = [["page.png", base64.b64encode(b"<script>alert(1)</script>").decode()], ["run.exe", "AAAA"]]
    opened.page.wait_for_selector(".blocktrain-drop")
    page.evaluate(DROP, ["#blocktrain_place_pictures", [*files, *hostile, *broken]])

    # the name of a new set; one that is a path is refused where it was typed
    page.fill("dialog [name=name]", "../bots")
    page.click("dialog [type=submit]")
    page.locator("dialog [role=alert]", has_text="cannot name a file").wait_for()
    page.fill("dialog [name=name]", "bots")
    page.click("dialog [type=submit]")
    opened.wait("dataset_message", "24 files added. 4 files not taken")
    said = opened.text("dataset_message")
    assert "'CON' cannot name a file" in said
    assert "page.png" in said or "run.exe" in said
    assert not page.locator("#blocktrain_dataset_message img").count()
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:03}.png" for number in range(COUNT)]
    page.wait_for_function("() => document.querySelectorAll('.blocktrain-pic img[src]').length === 24")
    assert page.locator(".blocktrain-wl[data-flag='no caption'] em").inner_text() == "24"

    # tags by three gestures: to all, to those chosen with Shift, and typed in place
    page.click("#blocktrain_menu_caption_all [data-menu]")
    page.click("#blocktrain_menu_caption_all .blocktrain-mi >> nth=0")
    page.fill("dialog [name=word]", "ohwx bot")
    page.get_by_role("dialog").get_by_text("24 captions of 24 would change").wait_for()
    page.click("dialog [type=submit]")
    opened.wait("dataset_message", "24 captions changed")

    cells = page.locator(".blocktrain-pic-b")
    cells.nth(0).click()
    cells.nth(3).click(modifiers=["Shift"])
    page.get_by_role("button", name="Add tag…").click()
    page.fill("dialog [name=tag]", "red hat")
    page.click("dialog [type=submit]:not([disabled])")
    opened.wait("dataset_message", "4 captions changed")
    assert (folder / "003.txt").read_text("utf-8").strip() == "ohwx bot, red hat"
    assert (folder / "004.txt").read_text("utf-8").strip() == "ohwx bot"

    page.locator(".blocktrain-pic > p").nth(4).click()
    page.keyboard.type(", running")
    opened.wait("dataset_message", "1 caption not saved")
    page.keyboard.press("Enter")
    opened.wait("dataset_message", "Caption of 004.png saved")
    assert page.evaluate(IN_CAPTION) == "bots/005.png"
    assert (folder / "004.txt").read_text("utf-8").strip() == "ohwx bot, running"
    page.locator(".blocktrain-tag", has_text="running").first.wait_for()

    # what is typed stays over a switch of the place, and a reload; Undo takes back what was done last
    page.keyboard.type(", unsaved")
    opened.go("Runs")
    page.reload()
    page.wait_for_selector("#blocktrain_model_line .blocktrain-note")
    opened.go("Pictures")
    opened.wait("dataset_message", "1 caption not saved")
    page.locator(".blocktrain-pic", has_text="unsaved").locator(".blocktrain-pic-b").click()
    caption = page.locator("#blocktrain_dataset_caption")
    assert caption.input_value() == "ohwx bot, unsaved"
    caption.press("Enter")
    opened.wait("dataset_message", "Caption of 005.png saved")
    assert (folder / "005.txt").read_text("utf-8").strip() == "ohwx bot, unsaved"
    page.locator("#blocktrain_dataset_message").get_by_role("button", name="Undo").click()
    opened.wait("dataset_message", "Taken back: caption of 005.png")
    assert (folder / "005.txt").read_text("utf-8").strip() == "ohwx bot"

    # a mask
    cells.nth(1).click()
    page.click("[data-mode=mask]")
    at = page.locator(".blocktrain-painter-stage canvas").bounding_box()
    page.mouse.move(at["x"] + at["width"] / 4, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.up()
    page.get_by_role("button", name="Save the mask").click()
    opened.wait("dataset_message", "Mask of 001.png saved")
    mask = Image.open(folder / "001.mask.png").convert("L")
    assert mask.getpixel((mask.width // 3, mask.height // 2)) == 255
    assert mask.getpixel((mask.width - 2, mask.height // 2)) == 0
    page.locator(".blocktrain-wl[data-flag=masked] em", has_text="1").wait_for()
    page.locator("#blocktrain_dataset_chosen .blocktrain-facts", has_text="of the picture counts").wait_for()

    # a mask from a word is proposed, and not saved before it is asked for
    cells.nth(2).click()
    page.fill(".blocktrain-dataset-word [name=word]", "bot")
    page.click(".blocktrain-dataset-word [type=submit]")
    page.locator("#blocktrain_dataset_chosen .blocktrain-note", has_text="of the picture").wait_for()
    assert not (folder / "002.mask.png").exists()
    page.get_by_role("button", name="Save the mask").click()
    opened.wait("dataset_message", "Mask of 002.png saved")
    assert (folder / "002.mask.png").exists()

    # tags in an order, by keyboard
    tags = page.locator("#blocktrain_dataset_sets .blocktrain-tag")
    tags.filter(has_text="red hat").press("Alt+ArrowLeft")
    assert tags.first.inner_text().startswith("red hat")
    page.get_by_role("button", name="Order the captions…").click()
    page.get_by_role("dialog").get_by_text("4 captions of 24 would change").wait_for()
    page.click("dialog [type=submit]:not([disabled])")
    opened.wait("dataset_message", "4 captions changed")
    assert (folder / "003.txt").read_text("utf-8").strip() == "red hat, ohwx bot"

    assert page.evaluate(LOW_CONTRAST) == []
    assert page.evaluate(NAMELESS) == []

    # Train shows the set, and trains it
    opened.click("dataset_use")
    page.locator(".blocktrain-train-set", has_text="24 pictures × 10 repeats").wait_for()
    assert page.locator(".blocktrain-train-set img").count() == 8
    assert opened.box("train_name") == "bots"
    for field, value in {"network_weights": "OUT09-OUT11=1", "steps": 40, "dataset_size": 64}.items():
        opened.type(f"train_{field}", value)
    opened.wait("train_understood", "OUT09-OUT11 = 1")
    opened.click("train_start")
    page.wait_for_function(f"() => {STATE} === 'finished' && {STEP} === 40")
    assert opened.text("runs_head").startswith("bots")


MASK_SEEN = """() => {
    const canvas = document.querySelector('.blocktrain-painter-stage canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.some((value, at) => at % 4 === 3 && value);
}"""


def stroke(page) -> None:
    at = page.locator(".blocktrain-painter-stage canvas").bounding_box()
    page.mouse.move(at["x"] + at["width"] / 4, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.up()


def test_a_mask_that_is_not_saved_stays(opened):
    """Over another picture, another look at this one, and what changes on the disk, until it is saved or discarded."""
    page = opened.page
    make_set(opened, "painted")
    drop(opened, "a.png", "b.png")
    opened.wait("dataset_message", "2 files added.")
    cells = page.locator(".blocktrain-pic-b")
    save = page.get_by_role("button", name="Save the mask")
    cells.nth(0).click()
    page.click("[data-mode=mask]")
    page.locator(".blocktrain-painter-stage img").evaluate("image => image.decode()")
    stroke(page)
    page.select_option(".blocktrain-painter-tools select", label="fine brush")
    page.evaluate("blocktrain.pictureSets.picture().version = 'another'")
    page.evaluate("blocktrain.pictureSets.set({})")
    assert page.locator(".blocktrain-painter-tools select").input_value() == "0.02"  # the painter is the same
    assert page.evaluate(MASK_SEEN)
    cells.nth(1).click()
    page.locator(".blocktrain-dataset-mask").wait_for()
    assert not page.evaluate(MASK_SEEN)
    assert save.is_disabled()
    page.click("[data-mode=plain]")
    cells.nth(0).click()
    page.click("[data-mode=mask]")
    assert page.evaluate(MASK_SEEN)
    assert save.is_enabled()
    assert cells.nth(0).locator(".blocktrain-badge", has_text="not saved").count() == 1
    assert cells.nth(1).locator(".blocktrain-badge", has_text="not saved").count() == 0

    # nor does a reload lose it
    page.reload()
    page.wait_for_selector("#blocktrain_model_line .blocktrain-note")
    opened.go("Pictures")
    cells.nth(0).locator(".blocktrain-badge", has_text="not saved").wait_for()
    cells.nth(1).click()
    opened.wait("dataset_message", "1 mask not saved")
    page.locator("#blocktrain_dataset_message").get_by_role("button", name="Show").click()
    page.locator(".blocktrain-painter-stage img").evaluate("image => image.decode()")
    assert page.evaluate(MASK_SEEN)
    assert save.is_enabled()

    # training would not see it
    opened.click("dataset_use")
    page.get_by_role("dialog").get_by_text("1 mask is painted but not saved").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Discard").click()
    assert not page.evaluate(MASK_SEEN)
    assert page.locator(".blocktrain-badge", has_text="not saved").count() == 0
    assert save.is_disabled()
    stroke(page)
    save.click()
    opened.wait("dataset_message", "Mask of a.png saved")
    assert list((opened.folder / "out/datasets/painted").rglob("a.mask.png"))
    assert save.is_disabled()
    page.locator("#blocktrain_dataset_chosen .blocktrain-facts", has_text="of the picture counts").wait_for()
    page.wait_for_function(MASK_SEEN)


@pytest.mark.long
def test_the_probe_of_a_set_is_seen_at_that_set(opened):
    """Another set says which one is probed; back at the first one it can be cancelled. Its row was gone."""
    page = opened.page
    for name in ("probed", "beside"):
        make_set(opened, name)
        drop(opened, f"{name}.png")
        opened.wait("dataset_message", "1 file added.")
    opened.go("Preview")
    opened.type("steps", 150)
    opened.click("draw")  # the probe waits for the model
    opened.wait("status", "step")
    opened.go("Pictures")
    sets = page.locator("#blocktrain_dataset_sets .blocktrain-set")
    probe = page.get_by_role("button", name="Where would training move?")
    sets.filter(has_text="probed").click()
    page.wait_for_function("() => blocktrain.pictureSets.openSet()?.name === 'probed'")
    probe.click()
    row = page.locator(".blocktrain-dataset-job", has_text="Probing the pictures")
    row.wait_for()
    sets.filter(has_text="beside").click()
    opened.wait("dataset_sets", "probed is being probed.")
    assert row.count() == probe.count() == 0
    sets.filter(has_text="probed").click()
    row.get_by_role("button", name="Cancel").click()
    probe.wait_for()
    assert row.count() == 0
    opened.go("Preview")
    opened.click("cancel")
    opened.wait("status", "Cancelled")


REFUSED = {"status": 413, "content_type": "text/html", "body": "<h1>413 Request Entity Too Large</h1>"}


def make_set(opened, name: str) -> None:
    """Make a new set: another test may have left one open."""
    opened.go("Pictures")
    opened.page.get_by_role("button", name="New set").click()
    opened.page.get_by_role("textbox", name="Name of the new set").fill(name)
    opened.page.get_by_role("button", name="Make", exact=True).click()
    opened.page.wait_for_function("name => blocktrain.pictureSets.openSet()?.name === name", arg=name)


def drop(opened, *names: str) -> None:
    files = [[name, picture(number % COUNT)] for number, name in enumerate(names)]
    opened.page.evaluate(DROP, ["#blocktrain_place_pictures", files])


@pytest.mark.both_gradios
def test_files_that_do_not_arrive(opened):
    """A proxy in between refuses them: the page says so at once, and the next time they come."""
    make_set(opened, "late")
    opened.page.route(lambda url: "/upload" in url, lambda route: route.fulfill(**REFUSED))
    drop(opened, "a.png", "b.png")
    opened.wait("dataset_message", "0 files added. 2 files not taken: a.png, b.png: The files did not arrive: ")
    assert "refused them (HTTP 413)." in opened.text("dataset_message")
    opened.page.unroute_all()
    opened.problems.clear()  # the browser tells of the answer
    drop(opened, "a.png", "b.png")
    opened.wait("dataset_message", "2 files added.")
    assert len(list((opened.folder / "out/datasets/late").rglob("*.png"))) == 2


@pytest.mark.long
def test_what_arrived_before_a_part_that_did_not_is_there(opened):
    make_set(opened, "half")
    uploads = []

    def second_is_refused(route):
        uploads.append(route)
        route.fulfill(**REFUSED) if len(uploads) == 2 else route.continue_()

    opened.page.route(lambda url: "/upload" in url, second_is_refused)
    drop(opened, *(f"{number:03}.png" for number in range(70)))  # in parts of 32
    opened.wait(
        "dataset_message",
        "32 files added. 38 files not taken: 032.png, 033.png, 034.png, …: The files did not arrive: ",
    )
    opened.problems.clear()
    opened.page.wait_for_function("() => blocktrain.pictureSets.pictures().length === 32")
    assert len(uploads) == 2
