"""The length of a run: in steps, in epochs, and until validation or a block's part of it stops getting better."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from lib_blocktrain.networks.files import read_network
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.control import TrainerControl
from lib_blocktrain.training.dataset import DatasetError
from lib_blocktrain.training.early_stopping import EarlyStopping, Validation
from lib_blocktrain.training.length import Epochs
from lib_blocktrain.ui.history import read_history
from tests.training.test_trainer import same


@pytest.fixture
def judged(config):
    """A run that validates at each step, with a picture held out."""
    dataset = replace(config.dataset, validation_share=0.3)
    return replace(config, dataset=dataset, steps=5, validate_every=1, save_every=0)


def test_epochs_in_steps():
    """As sd-scripts, which rounds up; a step of several batches may have the end of one epoch in it."""
    plain, grouped = Epochs(7), Epochs(5, accumulate=2)
    assert (plain.steps(3), grouped.steps(3)) == (21, 8)
    assert [step for step in range(1, 22) if plain.due(step, 0, 1)] == [7, 14, 21]
    assert [step for step in range(1, 9) if grouped.due(step, 0, 1)] == [3, 5, 8]
    assert [step for step in range(1, 22) if plain.due(step, 5, 2)] == [5, 10, 14, 15, 20]
    assert not any(plain.due(step, 0) for step in range(1, 22))


def test_a_run_of_epochs(train, config):
    """Two repeats of four pictures, two a batch: four batches an epoch; saved and validated at the ends of epochs."""
    said: list[str] = []
    dataset = replace(config.dataset, validation=config.dataset.folders)
    asked = replace(config, dataset=dataset, epochs=2, steps=1000, save_every_epochs=1, validate_every_epochs=2)
    trainer = train(asked, report=lambda row: said.append(row.get("notice", "")))
    assert (trainer.outcome.ended, trainer.outcome.step) == ("finished", 8)
    rows = trainer.run.metrics()
    assert [row["step"] for row in rows if "checkpoint" in row] == [4]
    assert [row["step"] for row in rows if "validation" in row] == [8]
    assert trainer.run.first("steps") == 8
    assert any("epochs = 2 of 4 batches: 8 steps" in notice for notice in said)
    metadata = read_network(trainer.outcome.result).metadata
    assert (metadata["ss_max_train_steps"], metadata["ss_epoch"]) == ("8", "2")
    assert same(trainer.outcome.result, train(replace(config, steps=8), "steps").outcome.result)
    again = train(asked, report=lambda row: said.append(row.get("notice", "")))  # it is over, and nothing has changed
    assert again.outcome.step == 8
    assert not any("was changed" in notice for notice in said)


def test_sd_scripts_names_are_read():
    data = {"name": "a", "dataset": {"folders": [{"path": "."}]}, "max_train_epochs": 3, "save_every_n_epochs": 1}
    config = read(RunConfig, {**data, "validate_every_n_epochs": 2, "max_train_steps": 5})
    assert (config.epochs, config.save_every_epochs, config.validate_every_epochs, config.steps) == (3, 1, 2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs = -1: expected 0"),
        ({"save_every_epochs": -1}, "save_every_epochs = -1"),
        ({"patience": -1}, "patience = -1"),
        ({"patience": 2}, "patience = 2: expected 0, or validate_every"),
        ({"block_patience": 2}, "block_patience = 2: expected 0, or validate_every"),
        ({"patience": 1, "validate_every": 1, "min_delta": 1.0}, r"min_delta = 1\.0: expected 0 up to"),
        ({"min_delta": 0.1}, r"min_delta = 0\.1: expected 0 without patience"),
    ],
)
def test_bad_values_are_named(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(config, **changes)


def test_nothing_to_judge_by_is_an_error(train, config):
    with pytest.raises(DatasetError, match="block_patience = 2, and no picture is held out"):
        train(replace(config, validate_every=1, block_patience=2))


def test_patience_counts_what_is_not_lower_by_enough(config):
    early = EarlyStopping(replace(config, validate_every=1, patience=2, min_delta=0.1))
    reasons = []
    for loss in (1.0, 0.95, 0.89, 0.85, float("nan"), 0.7, 0.69, 0.68):
        early.add(Validation(loss), (), ())
        reasons.append(early.reason is not None)
    # 0.95 is not lower by a tenth, 0.89 is lower than 1.0; neither 0.85 nor nan, which ends it, are
    assert reasons == [False, False, False, False, True, False, False, True]


def test_a_run_ends_when_validation_is_lower_no_more(train, judged):
    """At a rate that breaks the LoRA slowly: its result are the best weights, not the last."""
    config = replace(judged, steps=30, patience=2, optimizer=replace(judged.optimizer, lr=0.3))
    trainer = train(config)
    losses = [row["validation"] for row in trainer.run.metrics() if "validation" in row]
    best = losses.index(min(losses))
    assert trainer.outcome.ended == "finished"
    assert trainer.outcome.step == best + 3 < 30
    assert same(trainer.outcome.result, trainer.run.best)
    assert read_network(trainer.outcome.result).metadata["ss_steps"] == str(best + 1)
    events = read_history(trainer.run.metrics()).events
    assert events[-1].text == "Finished early: the validation loss was not lower in 2 validations in a row"
    assert train(config).outcome.step == best + 3  # resumed, it is over
    assert train(replace(config, patience=0, steps=best + 5)).outcome.step == best + 5  # unless more is asked for


def test_the_parts_of_the_blocks_add_up(train, judged):
    """Of the change of the validation loss between two validations, by small steps to 5 %; and they are the blocks'."""
    trainer = train(replace(judged, block_patience=100, optimizer=replace(judged.optimizer, lr=2e-3)))
    rows = [row for row in trainer.run.metrics() if "validation" in row]
    assert "gains" not in rows[0]
    for before, now in pairwise(rows):
        assert now["gains"].keys() == {"OUT09", "OUT10", "OUT11"}
        assert sum(now["gains"].values()) == pytest.approx(before["validation"] - now["validation"], rel=0.05)
    plain = train(replace(judged, optimizer=replace(judged.optimizer, lr=2e-3)), "plain")
    assert same(trainer.outcome.result, plain.outcome.result)  # judging changes nothing
    assert [row["validation"] for row in plain.run.metrics() if "validation" in row] == [r["validation"] for r in rows]


def frozen_at(trainer) -> dict[str, int]:
    return dict(read_history(trainer.run.metrics()).frozen)


def harmed_by(monkeypatch, blocks):
    """Let what these blocks learn count as harm."""
    add = EarlyStopping.add

    def judge(self, found, names, frozen):
        gains, _ = add(self, found, names, frozen)
        for block in gains:
            if block not in blocks:
                self.waited_by_block[block] = 0
            else:
                self.waited_by_block[block] = max(1, self.waited_by_block[block])
        spent = [b for b in gains if self.waited_by_block[b] >= self.config.block_patience]
        self.none_left = bool(gains) and len(spent) == len(gains)
        return gains, spent

    monkeypatch.setattr(EarlyStopping, "add", judge)


def test_a_frozen_block_keeps_its_weight_and_costs_no_gradient(train, judged, monkeypatch):
    """OUT09 is frozen at step 2: from there on the backward pass ends at OUT10, and resuming goes on so."""
    harmed_by(monkeypatch, {"OUT09"})
    optimizer = replace(judged.optimizer, ema=0.9, arguments={"weight_decay": 0.1})
    config = replace(
        judged, steps=6, block_patience=1, save_every=1, save_dtype="fp32", checkpointing=True, optimizer=optimizer
    )
    whole = train(config, "whole")
    assert frozen_at(whole) == {"OUT09": 2}
    files = [load_file(whole.run.checkpoint(step)) for step in (1, 2, 5)]
    files.append(load_file(whole.outcome.result))
    for name in files[0]:
        moved = [not torch.equal(a[name], b[name]) for a, b in pairwise(files)]
        trained = name.endswith(("lora_up.weight", "lora_down.weight"))
        assert moved == [trained] * 3 if "up_blocks_3_attentions_0" not in name else [trained, False, False]
    events = [event.text for event in read_history(whole.run.metrics()).events]
    assert "Frozen, since validation got no better by it: OUT09" in events
    assert whole.train_state.first_block == "OUT10"
    assert len(whole.train_state.gradients()) == len(whole.train_state.parameters) * 2 // 3

    control = TrainerControl()
    train(config, "broken", control=control, report=lambda row: control.stop() if row.get("step") == 4 else None)
    resumed = train(config, "broken")
    assert same(resumed.outcome.result, whole.outcome.result)
    assert frozen_at(resumed) == {"OUT09": 2}


def test_when_all_blocks_are_frozen_the_run_is_over(train, judged, monkeypatch):
    harmed_by(monkeypatch, {"OUT09", "OUT10", "OUT11"})
    trainer = train(replace(judged, block_patience=1))
    assert (trainer.outcome.ended, trainer.outcome.step) == ("finished", 2)
    assert read_history(trainer.run.metrics()).events[-1].text == "Finished early: all blocks are frozen"
