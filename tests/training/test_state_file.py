"""The file of a run's state: what is read of it, and that a damaged one is never taken for a whole one."""

from __future__ import annotations

import logging
import random
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from lib_blocktrain.training import runs, state_file
from lib_blocktrain.training.checked_file import DamagedFile
from lib_blocktrain.training.config import DatasetConfig, FolderConfig, RunConfig
from lib_blocktrain.training.control import TrainerControl

STATE = {
    "step": 3,
    "train_state": {
        "parameters": {"lora_unet_x.lora_up.weight": torch.randn(8, 4), "lora_unet_x.lora_down.weight": torch.ones(4)},
        "optimizer": {"state": {0: {"exp_avg": torch.randn(8, 4), "step": torch.tensor(3.0)}}},
    },
    "model": 'a "checksum":"' + "0" * 64 + '" in a name, Größe',
}
VALUES = '{"step": 3, "x": null}'


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def unnoticed(path, bits) -> list[int]:
    """Return those bits whose change `load` does not notice, or does not say in a message with the path."""
    content, found = path.read_bytes(), []
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        try:
            state_file.load(path)
        except ValueError as error:
            if str(path) in str(error):
                continue
        found.append(bit)
    path.write_bytes(content)
    return found


def test_a_thousand_flipped_bits_are_all_noticed(tmp_path):
    path = tmp_path / "state.safetensors"
    state_file.save(path, STATE)
    bits = random.Random(0).sample(range(path.stat().st_size * 8), 1000)
    assert unnoticed(path, bits) == []
    loaded = state_file.load(path)
    assert loaded["model"] == STATE["model"]
    average = loaded["train_state"]["optimizer"]["state"]["0"]["exp_avg"]
    assert torch.equal(average, STATE["train_state"]["optimizer"]["state"][0]["exp_avg"])


def test_every_bit_around_the_checksum_counts(tmp_path):
    """The bits of the checksum, of its key, of the header's length and of what pads the header, one by one."""
    path = tmp_path / "state.safetensors"
    state_file.save(path, {"step": 3, "x": torch.ones(2)})
    assert unnoticed(path, range(path.stat().st_size * 8)) == []


def test_a_state_without_a_checksum_is_read_and_that_is_said(tmp_path, caplog):
    path = tmp_path / "state.safetensors"
    metadata = {"values": VALUES, "blocktrain_version": "0.1.0"}
    path.write_bytes(safetensors.torch.save({"x": torch.ones(2)}, metadata))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(state_file.load(path)["x"], torch.ones(2))
    assert "has no checksum" in caplog.text
    path.write_bytes(safetensors.torch.save({"x": torch.ones(2)}, {**metadata, "checksun": "0" * 64}))
    with pytest.raises(ValueError, match="damaged"):
        state_file.load(path)


def test_what_can_be_used_instead_is_named(tmp_path):
    folder = DatasetConfig(folders=(FolderConfig(str(tmp_path)),))
    run = runs.create(RunConfig("robot", folder), tmp_path / "run")
    run.save_state(STATE)
    run.state_path.write_bytes(flipped(run.state_path.read_bytes(), run.state_path.stat().st_size * 8 - 5))
    with pytest.raises(ValueError, match=r"state\.safetensors: damaged.*no network file") as raised:
        run.load_state()
    assert "step 0" in str(raised.value)
    for step in (2, 4):
        run.checkpoint(step).parent.mkdir(exist_ok=True)
        run.checkpoint(step).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"checkpoints.robot-000004\.safetensors"):
        run.load_state()
    run.result.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"run.robot\.safetensors"):
        run.load_state()


def flip_a_bit(path) -> None:
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size * 8 - 5))


def test_a_run_goes_on_from_its_earlier_state(train, config, tmp_path):
    """One flipped bit in the last state: the one before is named, and used once that is asked for."""
    config = replace(config, save_every=1, steps=4)
    control = TrainerControl()
    stop = lambda row: control.stop() if row.get("step") == 2 and "loss" in row else None  # noqa: E731
    run = train(config, "damaged", control=control, report=stop).run
    flip_a_bit(run.state_path)
    with pytest.raises(
        DamagedFile,
        match=r"state\.safetensors: damaged.*state-before\.safetensors, of step 1, is whole.*--earlier-state",
    ):
        train(config, "damaged")
    run.use_earlier_state()
    assert run.load_state()["step"] == 1
    train(config, "damaged")
    whole = train(config, "whole")
    assert run.result.read_bytes()[-1000:] == whole.run.result.read_bytes()[-1000:]
    assert [row["step"] for row in run.metrics() if "loss" in row] == [1, 2, 3, 4]


def test_no_state_is_given_up_for_an_earlier_one_without_need(tmp_path):
    folder = DatasetConfig(folders=(FolderConfig(str(tmp_path)),))
    run = runs.create(RunConfig("robot", folder), tmp_path / "run")
    run.save_state({**STATE, "step": 1})
    with pytest.raises(ValueError, match="there is no earlier state of this run"):
        run.use_earlier_state()
    run.save_state({**STATE, "step": 2}, keep=True)
    with pytest.raises(ValueError, match="of step 2, is whole"):
        run.use_earlier_state()
    assert run.load_state()["step"] == 2
    flip_a_bit(run.state_path)
    flip_a_bit(run.earlier_state_path)
    with pytest.raises(DamagedFile, match=r"state-before\.safetensors is damaged, too"):
        run.load_state()
    with pytest.raises(DamagedFile, match=r"state-before\.safetensors: damaged"):
        run.use_earlier_state()
    assert run.state_path.exists()


def test_a_state_that_is_gone_with_one_before_is_said(train, config):
    control, said = TrainerControl(), []
    stop = lambda row: control.stop() if row.get("step") == 2 and "loss" in row else None  # noqa: E731
    run = train(replace(config, save_every=1), control=control, report=stop).run
    run.state_path.unlink()
    train(config, report=lambda row: said.append(row.get("notice", "")))
    assert [text for text in said if "goes on from state-before.safetensors, of step 1" in text], said


def test_a_state_that_is_gone_is_said(train, config):
    def notices():
        found: list[str] = []
        train(replace(config, steps=2, save_every=1), report=lambda row: found.append(row.get("notice", "")))
        return [notice for notice in found if "begins at step 0" in notice]

    assert notices() == []
    trained = train(replace(config, steps=2, save_every=1))
    trained.run.state_path.unlink()
    [notice] = notices()
    assert "state.safetensors is gone: the run was at step 2" in notice
    assert "tiny.safetensors" in notice
