"""A run's history: read row by row as it grows, thinned where it is long."""

from __future__ import annotations

from pathlib import Path

from lib_blocktrain.training.config import load
from lib_blocktrain.training.runs import create
from lib_blocktrain.ui.history import HistoryReader, read_history, thinned

READY = Path(__file__).resolve().parent.parent.parent / "demo" / "runs"
ROWS = (
    {"step": 0, "event": "started"},
    {"step": 1, "loss": 0.5, "smoothed": 0.5, "lr": 1e-3, "seconds_a_step": 0.5},
    {"step": 1, "norms": {"OUT09": 1.0, "IN<b>": 2.0}, "gradients": {"OUT09": 0.1}, "shares": {"OUT09": 0.25}},
    {"step": 1, "event": "weights", "weights": {"weights": {"OUT06": 0.5, "OUT07": 0.5, "OUT08": 0.5, "M00": 0}}},
    {"step": 2, "loss": "nan", "smoothed": 0.4, "lr": 1e-3, "validation": 0.3},
    {"step": 2, "sample": "000002-00.png", "prompt": "<script>a robot</script>"},
    {"step": 2, "sample": "../../../secret.png", "prompt": "outside"},
    {"step": 2, "event": "frozen", "blocks": ["OUT09"], "reason": "helps no more"},
    {"step": 2, "event": "diverged", "reason": "the loss is <b>nan</b>"},
)


def test_curves_have_the_finite_numbers_of_the_rows():
    assert read_history(ROWS).curves["loss"] == [(1, 0.5)]


def test_events_are_in_words_with_their_time():
    rows = [
        {"step": 0, "event": "started", "modules": {"OUT09": 12, "M00": 3}, "time": 5, "dataset": {"pictures": 24}},
        {"step": 2, "sample": "000002-00.png", "prompt": "a"},
        {"step": 2, "sample": "000002-01.png", "prompt": "b"},
        {"step": 3, "checkpoint": "robot-000003.safetensors"},
        {"step": 3, "event": "frozen", "blocks": ["IN01", "IN02", "BASE"], "reason": "helps no more"},
        {"step": 4, "event": "frozen", "blocks": ["BASE"]},
        {"step": 4, "event": "frozen", "blocks": "all"},
        {"step": 4, "event": "stopped", "saved": False},
        {"step": 4, "event": "finished", "saved": True, "early": "all blocks are frozen"},
        *ROWS[-1:],
    ]
    history = read_history(rows)
    assert [event.text for event in history.events] == [
        "Started: 2 blocks, 15 modules",
        "Sample drawn",
        "Checkpoint saved: robot-000003",
        "Frozen, since validation got no better by it: IN01, IN02, BASE",
        "Frozen: BASE",
        "Frozen",
        "Stopped without saving",
        "Finished early: all blocks are frozen",
        "Failed: the loss is <b>nan</b>",
    ]
    assert [event.time for event in history.events] == [5, *[None] * 8]
    assert history.frozen == {"IN01": 3, "IN02": 3, "BASE": 4}
    assert history.pictures == 24
    changed = next(event for event in read_history(ROWS).events if event.text.startswith("The block weights"))
    assert changed.text == "The block weights were changed: OUT06-OUT08 = 0.5"


def test_thinned_curves_end_at_the_last_step():
    points = [(step, 1.0 / step) for step in range(1, 5001)]
    assert thinned(points, 100)[-1][0] == 5000
    assert len(thinned(points, 100)) == 100


def test_a_history_grows_with_its_run(tmp_path):
    """Read bit by bit it is that of the whole file, also after the run went back to what was saved."""
    run = create(load(READY / "2-robot-out.json"), tmp_path / "run")
    reader = HistoryReader(run.metrics_path)
    for row in ROWS:
        run.add_metrics(row)
        assert reader.read() == read_history(run.metrics())
    shown = reader.read()
    before = len(shown.curves["loss"])
    run.add_metrics({"step": 9, "loss": 0.5, "norms": {"IN04": 1.0}})
    reader.read()
    assert len(shown.curves["loss"]) == before  # what one page draws does not grow when another asks
    assert "IN04" not in shown.by_block["norms"]
    run.drop_metrics_after(1)
    assert reader.read() == read_history(run.metrics())
    assert reader.read().curves["loss"]


def test_a_long_history_is_thinned():
    """Of a curve of many steps there stay so many points as can be told apart, from the first step to the last."""
    rows = [{"step": step, "loss": float(step), "norms": {"OUT09": 1.0}} for step in range(1, 5001)]
    history = read_history(rows)
    for points in (history.curves["loss"], history.by_block["norms"]["OUT09"]):
        assert 400 < len(points) <= 1000
        assert points[-1][0] == 5000
    assert all(step - 15 <= value <= step for step, value in history.curves["loss"])
