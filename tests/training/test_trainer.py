"""A whole run on the random demo model: what it leaves, how it ends, how it goes on, what it is equal to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import PoolConfig, dumps
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.control import Diverged, OutOfMemory, TrainerControl
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.weights.block_weights import BlockWeights
from tests import lacking
from tests.training.test_layouts import TwoEncoders

ROOT = Path(__file__).resolve().parent.parent.parent


def parts(model):
    return {"unet": model.unet, "vae": model.pipeline.vae, **model.text_encoders}


def trace(model):
    """Everything of a model that training must not change."""
    return {
        (name, path): (
            type(module).forward,
            "forward" in vars(module),
            module.training,
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks),
            tuple(
                (p.requires_grad, p.data_ptr(), p._version, p.grad is None) for p in module.parameters(recurse=False)
            ),
        )
        for name, part in parts(model).items()
        for path, module in part.named_modules()
    }


def contents(model):
    return {(n, key): value.clone() for n, part in parts(model).items() for key, value in part.state_dict().items()}


@pytest.fixture
def untouched(model):
    """The model before and after a test: every bit, flag, hook and method."""
    before, bits = trace(model), contents(model)
    yield
    assert trace(model) == before
    after = contents(model)
    assert after.keys() == bits.keys()
    assert all(torch.equal(after[key], value) for key, value in bits.items())


def same(first: Path, second: Path) -> bool:
    """Whether two network files have the same tensors, bit for bit; the time of training is in their metadata."""
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.usefixtures("untouched")
def test_a_run_leaves_the_model_as_it_was(train, config):
    trainer = train(config)
    assert trainer.outcome.ended == "finished"
    network = read_network(trainer.outcome.result)
    assert network.blocks == {"OUT09": 12, "OUT10": 12, "OUT11": 12}
    assert not network.unread
    assert all(module.up.abs().sum() > 0 for module in network.modules.values())
    losses = [row["loss"] for row in trainer.run.metrics() if "loss" in row]
    assert len(losses) == 3
    assert len(set(losses)) == 3


def test_a_short_run_has_norms_of_every_step(train, config):
    """For the heat map of blocks by steps; each row has what it was made from, and when it was saved is told."""
    trainer = train(replace(config, steps=4, save_every=2))
    rows = trainer.run.metrics()
    norms = [row for row in rows if "norms" in row]
    assert [row["step"] for row in norms] == [1, 2, 3, 4]
    for row in norms:
        assert row["norms"].keys() == row["gradients"].keys() == {"OUT09", "OUT10", "OUT11"}
        assert sum(row["shares"].values()) == pytest.approx(1)
    assert [row["step"] for row in rows if row.get("state_saved")] == [2, 4]
    assert [row["checkpoint"] for row in rows if "checkpoint" in row] == [trainer.run.checkpoint(2).name]
    assert all(isinstance(row["time"], int) for row in rows if "event" in row)


@pytest.mark.usefixtures("untouched")
def test_stopping_and_resuming_gives_the_same_bits(train, config):
    whole = train(replace(config, steps=5), "whole")
    control = TrainerControl()

    def stop_after_two(row):
        if row.get("step") == 2 and "loss" in row:
            control.stop()

    broken = train(replace(config, steps=5), "broken", control=control, report=stop_after_two)
    assert (broken.outcome.ended, broken.outcome.step) == ("stopped", 2)
    resumed = train(replace(config, steps=5), "broken")
    assert resumed.outcome.ended == "finished"
    assert same(resumed.outcome.result, whole.outcome.result)
    rows = [[row["loss"] for row in t.run.metrics() if "loss" in row] for t in (whole, resumed)]
    assert rows[0] == rows[1]


def test_going_on_with_another_model_is_said(train, config, model):
    control = TrainerControl()
    train(config, control=control, report=lambda row: control.stop() if "loss" in row else None)
    said: list[str] = []
    resumed = train(config, of=replace(model, name="another"), report=lambda row: said.append(row.get("notice", "")))
    assert resumed.outcome.ended == "finished"
    assert any(f"began on {model.name}, and goes on with another" in notice for notice in said), said


@pytest.mark.usefixtures("untouched")
def test_stopping_while_pictures_are_encoded(train, config):
    control = TrainerControl()
    stopped = train(config, control=control, report=lambda row: control.stop() if row.get("encoded") == 2 else None)
    assert (stopped.outcome.ended, stopped.outcome.step, stopped.outcome.result) == ("stopped", 0, None)
    assert train(config).outcome.ended == "finished"


@pytest.mark.usefixtures("untouched")
def test_an_error_leaves_the_model_as_it_was(train, config):
    def fail(row):
        raise KeyError("a bug of someone else's")

    with pytest.raises(KeyError):
        train(config, report=fail)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("lack", lacking.ERRORS)
def test_out_of_memory(train, config, monkeypatch, lack):
    monkeypatch.setattr(Trainer, "optimize", lambda self: lack())
    with pytest.raises(OutOfMemory, match=r"MiB.*checkpointing"):
        train(config)


@pytest.mark.usefixtures("untouched")
def test_a_loss_that_is_no_number_keeps_the_last_good_weights(train, config, monkeypatch):
    good = train(replace(config, steps=2), "good")
    step = Trainer.optimize

    def spoil(self):
        step(self)
        if self.step == 2:
            with torch.no_grad():
                self.train_state.parameters[0].fill_(float("nan"))

    monkeypatch.setattr(Trainer, "optimize", spoil)
    with pytest.raises(Diverged, match="step 4: the loss is nan"):
        train(replace(config, steps=9), "spoilt")
    saved = next((good.run.folder.parent / "spoilt" / "checkpoints").iterdir())
    assert same(saved, good.outcome.result)  # those before the step that spoilt them


@pytest.mark.usefixtures("untouched")
def test_the_text_encoder(train, config):
    network = replace(config.network, text_encoder=True, weights="BASE=0.5,OUT11=1")
    trainer = train(replace(config, network=network, optimizer=replace(config.optimizer, text_encoder_lr=1e-3)))
    assert trainer.train_state.plan.trains_text
    saved = read_network(trainer.outcome.result)
    assert saved.blocks["BASE"] == 3 * 6  # the demo's CLIP has 3 layers: q, k, v, out and two feed-forward
    text = [module for key, module in saved.modules.items() if saved.block_of(key) == "BASE"]
    assert all(module.up.abs().sum() > 0 for module in text)
    assert {planned.alpha for planned in trainer.train_state.plan.modules if planned.block == "BASE"} == {1.0}


def test_the_text_encoder_is_trained_for_some_steps(train, config):
    """It then has the bits that a run of so many steps gives, while the others go on, with a short backward pass."""
    network = replace(config.network, text_encoder=True, weights="BASE=1,OUT11=1")
    short = load_file(train(replace(config, network=network, steps=2), "short").outcome.result)
    stopped = replace(config, network=replace(network, text_encoder_steps=2), steps=4)
    trainer = train(stopped, "stopped")
    found = load_file(trainer.outcome.result)
    text = {key for key in found if key.startswith("lora_te")}
    assert all(torch.equal(found[key], short[key]) for key in text)
    assert any(not torch.equal(found[key], short[key]) for key in found if key not in text)
    assert trainer.train_state.first_block == "OUT11"
    assert trainer.run.latest("blocks") == ["BASE"]
    for weights, text_encoder, said in (("OUT11=1", False, "is not trained"), ("*=0,BASE=1", True, "nothing else")):
        wrong = replace(network, weights=weights, text_encoder=text_encoder, text_encoder_steps=2)
        with pytest.raises(ConfigError, match=rf"network.text_encoder_steps = 2: expected 0: .*{said}"):
            train(replace(config, network=wrong), "wrong")


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"algorithm": "loha"}},
        {"network": {"algorithm": "lokr"}},
        {"network": {"algorithm": "dora", "weight_mode": "lr"}},
        {"network": {"conv_rank": 2}},
        {"network": {"weight_mode": "max_norm", "cap": 0.1}},
        {"network": {"rank_dropout": 0.5, "module_dropout": 0.2, "neuron_dropout": 0.1}},
        {"optimizer": {"ema": 0.5, "ema_warmup": True, "accumulate": 2, "lora_plus": 4.0}},
        {"dataset": {"shuffle_tags": True, "flip": True, "caption_dropout": 0.3, "wildcards": True, "tag_warmup": 2}},
        {"loss": {"noise_offset": 0.1, "multires_iterations": 3, "input_perturbation": 0.1, "min_snr_gamma": 5.0}},
        {"loss": {"kind": "huber", "prediction": "v", "zero_terminal_snr": True}},
        {"loss": {"kind": "l1", "timesteps": "sigma", "v_pred_like_loss": 0.5}},
        {"precision": "bf16"},
        {"checkpointing": True},
    ],
    ids=str,
)
@pytest.mark.usefixtures("untouched")
def test_resumes_to_the_same_bits_with(train, config, changes):
    """Each option alone: two steps, and one step resumed for another."""
    values = {
        name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    config = replace(config, steps=2, **values)
    whole = train(config, "whole")
    control = TrainerControl()
    train(config, "broken", control=control, report=lambda row: control.stop() if "loss" in row else None)
    resumed = train(config, "broken")
    assert [row["step"] for row in resumed.run.metrics() if row.get("event") in ("stopped", "resumed")] == [1, 1]
    assert resumed.step == 2
    assert same(resumed.outcome.result, whole.outcome.result)


@pytest.mark.parametrize("kind", ["lora", "locon", "loha", "lokr", "dora"])
@pytest.mark.usefixtures("untouched")
def test_the_file_acts_as_in_training(train, config, model, kind):
    """The U-Net's output with the file that was saved is that with the network as it was trained."""
    algorithm = {"locon": "lora"}.get(kind, kind)
    weight_mode = "lr" if kind == "dora" else "scale"
    network = replace(
        config.network, algorithm=algorithm, weight_mode=weight_mode, conv_rank=2 if kind == "locon" else 0
    )
    trainer = train(replace(config, network=network, steps=2))
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([500]), {"context": model.encode_prompt("a robot")["context"]}
    with torch.no_grad():
        trained = predicted_under(model, trainer.train_state.network, inputs)
        plain = model.predict(*inputs)
        loaded = predicted_under(model, read_network(trainer.outcome.result), inputs)
    assert (trained - plain).abs().max() > 1e-3
    torch.testing.assert_close(loaded, trained, rtol=1e-4, atol=1e-5)


def predicted_under(model, network, inputs):
    with applied(model.unet, network, BlockWeights.uniform("sd1", 1.0)):
        return model.predict(*inputs)


def test_weights_change_while_it_runs(train, config, model):
    """The delta stays at the moment of the change; alpha and lora_up are the new ones."""
    control, seen = TrainerControl(), {}
    weights = BlockWeights(
        "sd1",
        {b: {"OUT09": 0.5, "OUT10": 1.0, "OUT11": 1.0}.get(b, 0.0) for b in BlockWeights.uniform("sd1", 0).values},
    )

    def change(row):
        if row.get("step") == 1 and "loss" in row:
            control.set_weights(weights)
            seen["norms"] = None
        if row.get("event") == "weights":
            seen["weights"] = row["weights"]

    original = Trainer.change_weights

    def watched(self):
        from lib_blocktrain.training.norms import block_norms

        before = block_norms(self.train_state.network, self.train_state.plan)
        original(self)
        if self.step == 1:
            seen["before"], seen["after"] = before, block_norms(self.train_state.network, self.train_state.plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "change_weights", watched)
        trainer = train(config, control=control, report=change)
    assert seen["weights"]["weights"]["OUT09"] == 0.5
    assert seen["after"] == pytest.approx(seen["before"], rel=1e-5)
    alphas = {
        planned.block: trainer.train_state.network.modules[planned.key].alpha
        for planned in trainer.train_state.plan.modules
    }
    assert alphas == {"OUT09": 1.0, "OUT10": 2.0, "OUT11": 2.0}
    saved = read_network(trainer.outcome.result)
    assert json.loads(saved.metadata["ss_network_args"])["block_alphas"].endswith("1,2,2")


@pytest.mark.parametrize("weight_mode", ["scale", "lr", "max_norm"])
def test_a_change_of_weights_survives_a_stop(train, config, weight_mode):
    """Changed after the first step, stopped after the second: the bits of the run that was not stopped."""
    config = replace(
        config,
        network=replace(config.network, weight_mode=weight_mode, cap=0.2),
        optimizer=replace(config.optimizer, ema=0.5),
    )
    on = {"OUT09": 0.25, "OUT10": 1.5, "OUT11": 1.0}
    weights = BlockWeights("sd1", {block: on.get(block, 0.0) for block in BlockWeights.uniform("sd1", 0).values})

    def run(folder, stop_at):
        control = TrainerControl()

        def monitor(row):
            if "loss" in row and row["step"] == 1:
                control.set_weights(weights)
            if "loss" in row and row["step"] == stop_at:
                control.stop()

        return train(config, folder, control=control, report=monitor)

    whole, broken = run("whole", 9), run("broken", 2)
    assert broken.step == 2
    resumed = train(config, "broken")
    assert resumed.train_state.plan.weights == weights
    assert same(resumed.outcome.result, whole.outcome.result)
    assert not same(whole.outcome.result, train(config, "unchanged").outcome.result)


def test_a_weight_cannot_leave_0_while_it_runs(train, config):
    control = TrainerControl()
    control.set_weights(BlockWeights.uniform("sd1", 1.0))
    trainer = train(config, control=control)
    refused = [row for row in trainer.run.metrics() if row.get("event") == "weights refused"]
    assert "IN01" in refused[0]["reason"]
    assert trainer.outcome.ended == "finished"


def test_validation_keeps_the_best(train, config):
    dataset = replace(config.dataset, validation_share=0.25)
    trainer = train(replace(config, dataset=dataset, validate_every=1))
    losses = [row["validation"] for row in trainer.run.metrics() if "validation" in row]
    assert len(losses) == 3
    assert trainer.monitor.best == min(losses)
    assert (trainer.run.folder / "tiny-best.safetensors").exists()
    assert len(trainer.data.dataset.images) == 3


DROPOUT = {"rank_dropout": 0.5, "module_dropout": 0.5, "neuron_dropout": 0.5}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_is_saved_is_validated_and_drawn(train, config, model, ema):
    """With dropout and averaged weights: `-best` gives the loss that was measured, a sample what the result gives."""
    seen, inputs = [], (torch.ones(1, 4, 8, 8), torch.tensor([500]), {"context": model.encode_prompt("a")["context"]})

    def draw(asked):
        torch.rand(3)  # as a sampler may
        seen.append(model.predict(*inputs))
        return Image.new("RGB", (8, 8))

    config = replace(
        config,
        dataset=replace(config.dataset, validation_share=0.25),
        network=replace(config.network, **DROPOUT),
        optimizer=replace(config.optimizer, ema=ema),
        samples=replace(config.samples, prompts=("a",), every=3),
        validate_every=3,
    )
    torch.manual_seed(1)
    before = torch.get_rng_state()
    trainer = train(config, draw=draw)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        torch.testing.assert_close(
            seen[0], predicted_under(model, read_network(trainer.outcome.result), inputs), rtol=1e-4, atol=1e-5
        )
        best = read_network(trainer.run.folder / "tiny-best.safetensors")
        with applied(model.unet, best, BlockWeights.uniform("sd1", 1.0)):
            losses = [trainer.losses(*pair) for pair in trainer.data.validation(config, trainer.processes)]
    measured = trainer.run.latest("validation")
    assert float(torch.cat(losses).mean()) == pytest.approx(measured, rel=1e-4)
    for seed in (2, 3):  # the random state of whoever calls has no part in it
        torch.manual_seed(seed)
        assert train(config, f"seed-{seed}", draw=draw).run.latest("validation") == measured
    assert all(torch.equal(one, seen[0]) for one in seen)


def test_looking_changes_no_bit_of_training(train, config):
    """Validating and saving, by averaged weights and with dropout, leaves the run what it would have been."""
    config = replace(
        config,
        dataset=replace(config.dataset, validation_share=0.25),
        network=replace(config.network, **DROPOUT),
        optimizer=replace(config.optimizer, ema=0.5),
    )
    plain, looked_at = train(config, "plain"), train(replace(config, validate_every=1, save_every=1), "looked-at")
    assert same(plain.outcome.result, looked_at.outcome.result)


def test_samples_are_drawn_with_the_network_on(train, config, model):
    from safetensors.torch import load

    hooks = []

    def draw(asked):
        hooks.append((asked.prompt, asked.seed, sum(bool(m._forward_hooks) for m in model.unet.modules())))
        return Image.new("RGB", (8, 8))

    samples = replace(config.samples, prompts=("a", "b"), every=2, seed=7)
    trainer = train(replace(config, samples=samples), draw=draw)
    assert hooks == [("a", 7, 36), ("b", 8, 36)] * 2  # at step 2, and at the end
    names = [f"00000{step}-0{number}.png" for step in (2, 3) for number in (0, 1)]
    assert sorted(p.name for p in (trainer.run.folder / "samples").iterdir()) == names
    result = trainer.run.result.read_bytes()
    trainer = train(replace(config, samples=replace(samples, first=True)), "first", draw=draw)
    names = [f"00000{step}-0{number}.png" for step in (0, 2, 3) for number in (0, 1)]
    assert sorted(p.name for p in (trainer.run.folder / "samples").iterdir()) == names
    before, after = (load(content) for content in (result, trainer.run.result.read_bytes()))
    assert all(after[name].equal(value) for name, value in before.items())


def test_a_sample_that_cannot_be_drawn_ends_no_run(train, config):
    samples = replace(config.samples, prompts=("a",), every=1)
    trainer = train(replace(config, samples=samples), draw=lambda asked: None)
    assert trainer.outcome.ended == "finished"
    assert [row["sample"] for row in trainer.run.metrics() if "sample" in row] == [None] * 3


def test_checkpoints_on_the_way(train, config):
    trainer = train(replace(config, steps=5, save_every=1, keep=2))
    assert [path.name for path in trainer.run.checkpoints()] == ["tiny-000003.safetensors", "tiny-000004.safetensors"]


def test_two_at_one_run(train, config, tmp_path):
    run = runs.create(config, tmp_path / "run")
    with run.locked(), pytest.raises(runs.RunInUse, match="another process"):
        train(config)


def test_refusals(train, config):
    rates = replace(config, network=replace(config.network, weight_mode="lr"))
    for optimizer, reason in (("Prodigy", "estimates one step size"), ("DAdaptAdam", "one step size")):
        with pytest.raises(ConfigError, match=reason):
            train(replace(rates, optimizer=replace(config.optimizer, name=optimizer)), optimizer)
    relative = replace(config.optimizer, name="transformers.optimization.Adafactor")
    with pytest.raises(ConfigError, match="ignores the learning rate"):
        train(replace(rates, optimizer=relative), "adafactor")
    with pytest.raises(ConfigError, match=r"pip install 'lion-pytorch'"):
        train(replace(config, optimizer=replace(config.optimizer, name="Lion")), "lion")
    with pytest.raises(ConfigError, match=r"nothing to train .*convolutions only"):
        train(replace(config, network=replace(config.network, weights="IN10=1")), "nothing")


# From the command line, in processes of its own.


def on_model(model_folder: Path) -> str:
    """Code that sets up the command line, as `m`, on a model folder in the demo model's place."""
    return (
        "import sys; from pathlib import Path; from lib_blocktrain.hosts import demo_model;"
        "from lib_blocktrain.cli import environment, main as m;"
        f"demo_model.MODEL = Path({str(model_folder)!r}); m.ensure = lambda *a: None\n"
    )


def command(model_folder: Path, *arguments: str) -> list[str]:
    return ["-c", f"{on_model(model_folder)}sys.exit(m.main(sys.argv[1:]))", *arguments]


@pytest.fixture
def run_json(config, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(dumps(replace(config, steps=6, save_every=2)), "utf-8")
    return path


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def finished(model_folder: Path, tmp_path: Path, *arguments: str) -> dict:
    """The JSON answer of a training command, in a process of its own with one thread: bits depend on their number."""
    done = subprocess.run(
        [sys.executable, *command(model_folder, "train", *arguments, "--json")],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["ended"], answer["step"]) == ("finished", 6)
    return answer


@pytest.mark.long
def test_killed_at_any_moment(random_model, run_json, tmp_path):
    """SIGKILL at random moments, resumed until it is done: the bits of the unbroken run."""
    whole = finished(random_model, tmp_path, str(run_json), "--out", str(tmp_path / "whole"))
    folder = tmp_path / "killed"
    rng = random.Random()
    arguments = [str(run_json), "--out", str(folder)]
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, *command(random_model, "train", *arguments)],
            env=ENVIRONMENT,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None and not (folder / "metrics.jsonl").exists():
            time.sleep(0.05)
        time.sleep(rng.random() * 1.5)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        arguments = ["--resume", str(folder)]
    answer = finished(random_model, tmp_path, *arguments)
    assert same(Path(answer["result"]), Path(whole["result"]))


IN_ONE_GROUP = """
from contextlib import nullcontext
from lib_blocktrain.training import distributed, runs
from lib_blocktrain.training.config import load
from lib_blocktrain.training.trainer import Trainer
from tests.training.test_layouts import TwoEncoders
with distributed.joined() as processes:
    distributed.joined = lambda: nullcontext(processes)  # torchrun's processes can be joined once
    *models, two_encoders = sys.argv[1:]
    codes = [m.main(["train", run, "--out", str(Path(run).with_suffix(""))]) for run in models]
    config, folder = load(Path(two_encoders)), Path(two_encoders).with_suffix("")
    run = runs.create(config, folder) if processes.is_first else runs.Run(folder, config)
    processes.wait()
    Trainer(TwoEncoders(), run, processes=processes).run_loop()
    sys.exit(max(codes))
"""


def pooled(config):
    """Two epochs at two sizes, judged by blocks, with noise from a pool."""
    dataset = replace(config.dataset, validation_share=0.25, more_sizes=(128,))
    return replace(config, dataset=dataset, epochs=2, pool=PoolConfig(2), validate_every=2, block_patience=100)


def changing(config):
    """Captions and pictures that change with each step, BASE for a step, another loss, an early end at step 2."""
    dataset = replace(
        config.dataset, size=128, validation_share=0.25, prefix="{a|the} robot,", keep_separator="robot,",
        secondary_separator="(", wildcards=True, shuffle_tags=True, tag_dropout=0.2, caption_dropout=0.1,
        tag_warmup=0.5, suffix=", on a very blue background" * 20, flip=True, random_crop=True, color=True,
    )  # fmt: skip
    loss = replace(
        config.loss, kind="l1", timesteps="logit-normal", v_pred_like_loss=0.3, preservation=0.5, trigger="robot",
        class_word="thing",
    )  # fmt: skip
    network = replace(config.network, weights="BASE=1,OUT09=1,OUT11=1", text_encoder=True, text_encoder_steps=1)
    optimizer = replace(config.optimizer, text_encoder_lr=0.5, ema=0.9, ema_warmup=True)
    config = replace(config, dataset=dataset, loss=loss, network=network, optimizer=optimizer, fp8=True, offload=True)
    return replace(config, batch=1, clip_skip=2, max_tokens=150, validate_every=1, patience=1, min_delta=0.9)


def two_rates(config):
    """A learning rate for each of two text encoders."""
    network = replace(config.network, weights="BASE=1", text_encoder=True)
    optimizer = replace(config.optimizer, text_encoder_lr=(0.5, 0.1))
    return replace(config, network=network, optimizer=optimizer, batch=1, steps=1)


def test_two_processes_end_where_one_with_twice_the_batch_does(random_model, tmp_path, train, config):
    """By SGD: Adam would make much of a float error where a gradient is nearly 0.

    So can pictures of 64 pixels: they have one latent in the deepest blocks, and where the two channels of a group
    hardly differ there, its norm multiplies a float error by a thousand: in the random model with clip skip.
    """
    config = replace(config, optimizer=replace(config.optimizer, name="SGD", lr=1.0))
    configs = {"pooled": pooled(config), "changing": changing(config), "two-rates": two_rates(config)}
    for name, asked in configs.items():
        (tmp_path / f"{name}.json").write_text(dumps(asked), "utf-8")
    script = tmp_path / "start.py"
    script.write_text(on_model(random_model) + IN_ONE_GROUP, "utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    done = subprocess.run(
        [*torchrun, *(str(tmp_path / f"{name}.json") for name in configs)],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, asked in configs.items():
        model = TwoEncoders() if name == "two-rates" else None
        whole = train(replace(asked, batch=2 * asked.batch), f"{name}-whole", of=model)
        ends_alike(whole, runs.open_run(tmp_path / name))
        if name == "changing":
            assert (whole.outcome.step, whole.train_state.frozen) == (2, {"BASE"})


def ends_alike(whole: Trainer, two: runs.Run) -> None:
    one, other = load_file(whole.outcome.result), load_file(two.result)
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=1e-5)
    for name in ("loss", "validation"):
        values = [[row[name] for row in run.metrics() if name in row] for run in (whole.run, two)]
        assert values[1] == pytest.approx(values[0], rel=1e-5)
        assert bool(values[0]) == (name == "loss" or whole.config.validate_every > 0)
    gains = [[row["gains"] for row in run.metrics() if "gains" in row] for run in (whole.run, two)]
    assert len(gains[0]) == (3 if whole.config.block_patience else 0)
    for one_row, two_row in zip(*gains, strict=True):
        assert two_row == pytest.approx(one_row, rel=1e-3, abs=1e-9)


def test_a_mask_painted_anew_holds_for_the_next_run(train, config, tmp_path):
    """In one process: a run must not have the masks of the run before."""
    picture = min(Path(config.dataset.folders[0].path).rglob("*.png"))
    mask = picture.with_name(f"{picture.stem}.mask.png")
    results = []
    for shade in (255, 40):
        Image.new("L", Image.open(picture).size, shade).save(mask)
        results.append(train(config, f"shade-{shade}").outcome.result)
    mask.unlink()
    assert not same(*results)


def test_keep_deletes_what_was_saved_first(train, config, tmp_path):
    """A run that went back has checkpoints of later steps, which are older: the one just saved stays."""
    config = replace(config, steps=3, save_every=1, keep=2)
    run = runs.create(config, tmp_path / "kept")
    for step in (8, 9):
        run.checkpoint(step).parent.mkdir(exist_ok=True)
        run.checkpoint(step).write_bytes(b"of a timeline that was given up")
        os.utime(run.checkpoint(step), (step, step))
    trainer = train(config, "kept")
    assert [path.stem[-6:] for path in trainer.run.checkpoints()] == ["000001", "000002"]


def test_the_speed_is_that_of_steps(train, config, monkeypatch):
    """Not of the pictures' encoding before the first, which takes minutes for a large set."""
    prepare = Trainer.prepare

    def slow(self):
        time.sleep(0.05)
        self.monitor._started -= 1000  # as if it had taken as long
        prepare(self)

    monkeypatch.setattr(Trainer, "prepare", slow)
    rows = train(config).run.metrics()
    assert all(row["seconds_a_step"] < 100 for row in rows if "seconds_a_step" in row)
