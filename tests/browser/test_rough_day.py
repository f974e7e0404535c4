"""A reload in the middle, a slow server, a server that ends and begins anew; in Chromium."""

from __future__ import annotations

import socket

import pytest
from breakable import breakable
from journeys import SECOND, Opened, serving, write_loras

pytestmark = pytest.mark.long

LATE = 1.5 * SECOND
MOVE = """(slider, value) => {
    slider.value = value;
    for (const name of ["input", "pointerup"]) slider.dispatchEvent(new Event(name, { bubbles: true }));
}"""
ANSWERED = "document.querySelector('#blocktrain_runs_beat [data-beat]')?.dataset.beat"


def test_a_reload_in_the_middle_of_a_preview(opened):
    """What nobody waits for any more is given up: the model is free for the page as it is now."""
    opened.type("steps", 150)
    opened.click("draw")
    opened.wait("status", "step")
    opened.page.reload()
    opened.page.wait_for_selector(".blocktrain-loras [data-key]")
    opened.active("robot")
    opened.small()
    opened.type("seed", 12)
    assert len(set(opened.preview())) == 2  # every weight is 1: the third is the second


def test_two_tabs_of_one_browser_have_weights_of_their_own(opened):
    """Both draw at the same time, one after the other on the model; each shows what was asked in it."""
    other = opened.another()
    for tab, value in ((opened, 0.35), (other, -0.5)):
        tab.small()
        tab.drag("OUT05", value)
    opened.page.bring_to_front()
    opened.click("draw")
    other.page.bring_to_front()
    theirs = other.preview()
    opened.page.bring_to_front()
    opened.page.wait_for_selector("#blocktrain_status [data-ended]", state="attached")
    ours = opened.pixels()
    assert (opened.weight("OUT05"), other.weight("OUT05")) == (0.35, -0.5)
    assert ours[:2] == theirs[:2]
    assert ours[2] != theirs[2]
    assert other.problems == []


def test_on_a_slow_server_the_page_waits_and_the_hand_does_not(opened):
    network = opened.context.new_cdp_session(opened.page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": LATE, "downloadThroughput": -1, "uploadThroughput": -1}
    opened.small()
    network.send("Network.emulateNetworkConditions", slow)
    opened.click("draw")
    opened.drag("OUT05", 0.35)
    shown = "document.querySelector('#blocktrain_u_weights [data-block=OUT05]').ariaValueNow"
    assert float(opened.page.evaluate(shown)) == 0.35
    opened.page.wait_for_selector("#blocktrain_status [data-ended]", state="attached")
    assert opened.weight("OUT05") == 0.35

    asked = []
    opened.go("Runs")
    opened.page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    before = opened.page.evaluate(ANSWERED)
    opened.page.wait_for_function(f"before => {ANSWERED} !== before", arg=before)
    asked.clear()
    opened.page.wait_for_timeout(4 * LATE)
    assert len(asked) <= 4  # one after the other, never before the last answer


@pytest.mark.both_gradios
def test_on_a_slow_server_the_last_change_is_kept(opened):
    """A change while the page waits for the answer to an earlier one: that answer was taken for the newest state."""
    network = opened.context.new_cdp_session(opened.page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": LATE, "downloadThroughput": -1, "uploadThroughput": -1}
    opened.page.wait_for_function("['preview', 'analyse', 'train'].every(blocktrain.restored)")
    network.send("Network.emulateNetworkConditions", slow)
    opened.type("prompt", "one")
    opened.page.wait_for_timeout(900)  # after two looks at the fields the server is asked, and answers after this
    opened.type("prompt", "two")
    opened.page.wait_for_function("blocktrain.recall('preview')?.prompt === 'two'", timeout=30 * SECOND)


@pytest.mark.both_gradios
def test_on_a_slow_server_the_last_move_of_a_slider_of_train_counts(opened):
    """The text followed the first of two moves, and the map said something else."""
    opened.go("Train")
    slider = opened.page.locator("#blocktrain_train_w_OUT05 input[type=range]")
    slider.wait_for(state="attached")
    opened.page.wait_for_function("blocktrain.restored('train')")
    network = opened.context.new_cdp_session(opened.page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": LATE, "downloadThroughput": -1, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", slow)
    for value in (0.25, 0.75):
        slider.evaluate(MOVE, value)
        opened.page.wait_for_timeout(300)
    weights = (
        "document.querySelector('#blocktrain_train_network_weights textarea, #blocktrain_train_network_weights input')"
    )
    opened.page.wait_for_function(f"{weights}.value.includes('OUT05=0.75')")


LOSE = """button => {
    window.asked = 0;
    window.lost = true;
    document.addEventListener("click", (event) => {
        if (event.target.closest(button)) {
            window.asked += 1;
            window.lost && event.stopImmediatePropagation();
        }
    }, true);
}"""


def test_what_is_not_kept_is_asked_for_twice_and_again_when_the_server_is_back(opened):
    """gradio shows an error each time it refuses a field: every five seconds."""
    opened.page.wait_for_function("blocktrain.recall('preview') && blocktrain.restored('preview')")
    opened.page.wait_for_timeout(SECOND)
    opened.page.evaluate(LOSE, opened.button("keep_preview"))
    opened.type("prompt", "not answered")
    opened.page.wait_for_function("() => asked === 2", timeout=20 * SECOND)
    opened.page.wait_for_timeout(7 * SECOND)
    assert opened.page.evaluate("asked") == 2
    opened.type("prompt", "another")
    opened.page.wait_for_function("() => asked === 3")
    opened.page.evaluate("lost = false")
    opened.page.evaluate("document.dispatchEvent(new CustomEvent('blocktrain:back'))")
    opened.page.wait_for_function("blocktrain.recall('preview').prompt === 'another'", timeout=4 * SECOND)


def test_an_answer_later_than_the_next_question_is_not_taken_for_its_answer(opened):
    """After five seconds the page asks again: an answer to the first question left what was asked then unkept."""
    opened.page.wait_for_function("blocktrain.recall('preview') && blocktrain.restored('preview')")
    opened.page.wait_for_timeout(SECOND)
    opened.page.evaluate(LOSE, opened.button("keep_preview"))
    for count, prompt in enumerate(("one", "two"), 1):
        opened.type("prompt", prompt)
        opened.page.wait_for_function("count => asked === count", arg=count, timeout=20 * SECOND)
    opened.page.evaluate(
        """() => {
            window.lost = false;
            const answer = document.createElement("div");
            answer.className = "blocktrain-kept";
            answer.dataset.kept = JSON.stringify({ ...blocktrain.recall("preview"), prompt: "one" });
            document.getElementById("blocktrain_kept_preview").append(answer);
        }"""
    )
    opened.page.wait_for_function("blocktrain.recall('preview').prompt === 'one'")
    opened.page.wait_for_function("blocktrain.recall('preview').prompt === 'two'", timeout=4 * SECOND)


@pytest.mark.parametrize(
    ("question", "button"),
    [
        ("blocktrain.pictureSets.ask('sets')", "dataset_answer_now"),
        ("blocktrain.pictures.ask({ do: 'refuse', name: 'notes.doc' })", "pictures_answer"),
    ],
    ids=["Pictures", "Preview"],
)
def test_a_question_that_was_lost_is_asked_again_when_the_server_is_back(opened, question, button):
    """At once, and from then on as often as a new one. It waited as long again as the server had been away."""
    opened.page.evaluate(LOSE, opened.button(button))
    opened.page.evaluate(f"() => {{ {question}; }}")
    opened.page.wait_for_function("() => asked === 3")  # the next one is due in six seconds
    opened.page.evaluate("document.dispatchEvent(new CustomEvent('blocktrain:back'))")
    opened.page.wait_for_function("() => asked === 4", timeout=0.5 * SECOND)
    opened.page.wait_for_function("() => asked === 5", timeout=2.5 * SECOND)
    opened.page.evaluate("lost = false")
    opened.page.wait_for_function("() => asked === 6")
    opened.page.wait_for_timeout(LATE)
    opened.page.evaluate("document.dispatchEvent(new CustomEvent('blocktrain:back'))")  # nothing waits any more
    opened.page.wait_for_timeout(LATE)
    assert opened.page.evaluate("asked") == 6


@pytest.mark.both_gradios
def test_a_connection_that_breaks_off_in_a_drawing(browser, served):
    """The drawing is lost, which the page says; the next one is drawn. It hung, and so did all after it in gradio 4."""
    with breakable(served[0]) as (connection, through):
        opened = Opened(browser, through, served[1])
        opened.small()
        before = opened.preview()
        opened.type("steps", 150)
        opened.type("seed", 5)
        opened.click("draw")
        opened.page.wait_for_selector("#blocktrain_status [data-drawing]")
        connection.cut()
        opened.wait("status", "The connection broke off before this was done. Start it again.")
        assert opened.page.locator(opened.button("cancel")).first.is_disabled()
        opened.small()
        opened.type("seed", 1)
        assert opened.preview() == before
        opened.problems.clear()  # of the connection
        opened.close()


def test_a_server_that_begins_anew(browser, python, random_model, tmp_path):
    """The page says that the server does not respond, keeps its settings and each LoRA's weights, and reconnects."""
    write_loras(random_model, tmp_path / "loras")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = (python, random_model, tmp_path, "--lora", "robot", "--port", port)
    with serving(*arguments) as address:
        opened = Opened(browser, address, tmp_path)
        opened.small()
        opened.drag("OUT05", 0.35)
        opened.page.evaluate("blocktrain.loras.add('style')")
        opened.page.wait_for_function("!document.getElementById('blocktrain_section_weights').inert")
        opened.drag("OUT05", 0.8)
        before = opened.preview()
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "Traceback" not in log
    assert opened.problems == [] or all("net::ERR" in problem for problem in opened.problems)
    opened.click("draw")
    opened.page.get_by_text("Connection errored out").first.wait_for()
    opened.problems.clear()
    gone = opened.page.locator("#blocktrain_server_gone")
    gone.get_by_text("Start it again: this page will reconnect").wait_for()
    beat = "document.querySelector('#blocktrain_job_beat [data-beat]').dataset.beat"
    last = opened.page.evaluate(beat)
    with serving(*arguments):
        gone.get_by_text("The server is back").wait_for()
        gone.wait_for(state="detached")
        # at once, not a minute after the question that was lost
        opened.page.wait_for_function(f"last => {beat} !== last", arg=last, timeout=20 * SECOND)
        opened.problems.clear()  # of asking while nobody answered
        assert opened.weight("OUT05") == 0.8
        assert opened.preview() == before
        opened.page.evaluate("blocktrain.loras.activate('robot')")
        opened.page.wait_for_function("!document.getElementById('blocktrain_section_weights').inert")
        assert opened.weight("OUT05") == 0.35
        opened.close()
