"""A run's records: whatever is asked of them is what a reading of the whole file would say, and costs little of it."""

from __future__ import annotations

import json
import random
import threading

import pytest

from lib_blocktrain.training import records, runs


@pytest.fixture
def run(config, tmp_path):
    return runs.create(config, tmp_path / "run")


def long_one(run, steps: int) -> list[dict]:
    """Rows as a trainer writes them, with broken lines between; those that can be read."""
    rng, written = random.Random(0), []
    with open(run.metrics_path, "w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            for row in ({"step": step, "loss": rng.random()}, {"step": step, "norms": dict.fromkeys("abc", 1.0)}):
                if rng.random() < 0.7:
                    written.append({**row, "prompt": "ü\u2028\x85" * rng.randint(0, 4)})
                    file.write(json.dumps(written[-1], ensure_ascii=False) + "\n")
            if rng.random() < 0.05:
                file.write(rng.choice(["{", "[1]", "", '{"step": ' + "[" * 3000, "null"]) + "\n")
        file.write('{"step": 9')
    return written


@pytest.mark.parametrize("piece", [7, 64, 1 << 16])
def test_every_way_of_reading_says_the_same(run, monkeypatch, piece):
    monkeypatch.setattr(records, "CHUNK", piece)
    written = long_one(run, 120)
    assert run.metrics() == written
    assert list(records.rows_newest_first(run.metrics_path)) == written[::-1]
    for since in (-1, 0, 1, 50, 119, 120, 500):
        later = [row for row in written if row["step"] > since]
        for most in (1, 10, 1000):
            found, more = run.metrics_after(since, most)
            assert found == later[: len(found)]
            assert more == (len(found) < len(later))
            assert len(found) >= min(most, len(later))
            assert not (more and later[len(found)]["step"] == found[-1]["step"])


def test_little_is_read_of_a_long_one(run, monkeypatch):
    long_one(run, 40_000)
    size, read = run.metrics_path.stat().st_size, 0
    parsed = records._parsed

    def counting(lines):
        nonlocal read
        for line in lines:
            read += len(line)
            yield from parsed([line])

    monkeypatch.setattr(records, "_parsed", counting)
    assert run.latest("step") == 40_000
    assert run.metrics_after(39_000, 100)[0][0]["step"] > 39_000
    assert run.metrics_after(20, 100)[1]
    assert size > 2_000_000
    assert read < 8 * records.CHUNK


def test_following(run):
    follower = records.MetricsTail(run.metrics_path)
    assert follower.read_new() == ([], False)
    run.add_metrics({"step": 1})
    assert follower.read_new() == ([{"step": 1}], True)
    run.add_metrics({"step": 2, "loss": 0.5})
    with open(run.metrics_path, "a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    assert follower.read_new() == ([{"step": 2, "loss": 0.5}], False)
    run.add_metrics({"step": 4})  # the half line of a killed process costs no other
    assert follower.read_new() == ([{"step": 4}], False)
    run.drop_metrics_after(1)
    assert follower.read_new() == ([{"step": 1}], True)
    assert follower.read_new() == ([], False)
    run.metrics_path.unlink()
    assert follower.read_new() == ([], True)


def test_a_look_keeps_nobody_from_a_run(run):
    """Ten threads look without a pause: whoever wants to train holds the run, and they all see it."""
    assert not run.is_held()
    assert not (run.folder / ".lock").exists()
    seen, ended = set(), threading.Event()

    def look():
        while not ended.is_set():
            seen.add(run.status)

    lookers = [threading.Thread(target=look) for _ in range(10)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(20):
            with run.locked():
                assert run.is_held()
    finally:
        ended.set()
        for looker in lookers:
            looker.join()
    assert seen <= {"waiting", "running"}
    assert not run.is_held()


def test_a_second_trainer_is_told(run, monkeypatch):
    monkeypatch.setattr(runs, "_TRAINER_WAITS", 0.05)
    with run.locked(), pytest.raises(runs.RunInUse, match="another process trains this run"), run.locked():
        pass


def test_half_a_surrogate_pair_is_no_error(run):
    run.add_metrics({"step": 1, "prompt": "\ud800"})
    run.metrics_path.write_text('{"step": 1, "prompt": "\\ud800"}\n', "utf-8")
    run.drop_metrics_after(1)
    assert [row["step"] for row in run.metrics()] == [1]


def test_the_first_and_the_last_of_a_name(run):
    for row in ({"step": 0, "model": "a"}, {"step": 1, "model": None}, {"step": 2, "model": "b"}):
        run.add_metrics(row)
    assert (run.first("model"), run.latest("model"), run.latest("published")) == ("a", "b", None)
