"""Minutes of a run, by what another run took."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lib_blocktrain.training import runs
from lib_blocktrain.training.config import NetworkConfig
from lib_blocktrain.training.estimate import UNetSize, estimate
from lib_blocktrain.training.pace import pace_of

SIZE = UNetSize.real("sd1")


def trained(folder, config, model="one", steps=40, seconds=0.5):
    run = runs.create(config, folder)
    run.add_metrics({"step": 0, "model": model})
    run.add_metrics({"step": steps, "loss": 0.1, "seconds_a_step": seconds})
    run.add_metrics({"step": steps, "event": "stopped"})
    return run


@pytest.fixture
def everything(config):
    return replace(config, network=NetworkConfig(rank=4, weights="ALL"))


def test_the_same_run_again_takes_as_long(tmp_path, everything):
    pace = pace_of([trained(tmp_path / "a", everything)], "one", SIZE, "cpu")
    gflop = estimate(everything, SIZE, None, "cpu").gflop
    assert pace.source == "a"
    assert pace.minutes(480, gflop) == pytest.approx(480 * 0.5 / 60)


def test_fewer_blocks_take_their_part_of_it(tmp_path, everything):
    """The share is the one that the form shows beside it; twice the batch is twice the time."""
    pace = pace_of([trained(tmp_path / "a", everything)], "one", SIZE, "cpu")
    less = replace(everything, network=NetworkConfig(rank=4, weights="OUT09-OUT11=1"))
    found = estimate(less, SIZE, None, "cpu")
    assert pace.minutes(120, found.gflop) == pytest.approx(found.relative_time)
    twice = estimate(replace(less, batch=2 * less.batch), SIZE, None, "cpu")
    assert pace.minutes(120, twice.gflop) == pytest.approx(2 * found.relative_time)


def test_only_runs_that_can_tell_are_asked(tmp_path, everything):
    """Not one on another model, not one that has hardly begun, not one whose records are broken: the newest other."""
    broken = trained(tmp_path / "broken", everything)
    broken.metrics_path.write_bytes(b"\x00{")
    asked = [
        trained(tmp_path / "elsewhere", everything, model="another"),
        trained(tmp_path / "begun", everything, steps=2),
        broken,
        runs.create(everything, tmp_path / "waiting"),
    ]
    assert pace_of(asked, "one", SIZE, "cpu") is None
    found = pace_of([*asked, trained(tmp_path / "good", everything), asked[0]], "one", SIZE, "cpu")
    assert found.source == "good"
