"""The training loop of a run: its steps, what is saved, validated and drawn during it, and how it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from lib_blocktrain.blocks import BASE
from lib_blocktrain.files import atomic_write, error_text
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.model.set_aside import SetAside
from lib_blocktrain.model.weight_storage import WeightStorage
from lib_blocktrain.networks.files import read_network, write_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.training.batches import Batch
from lib_blocktrain.training.compiled import CompiledUNet
from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.control import Diverged, Outcome, StoppedEarly, TrainerControl
from lib_blocktrain.training.distributed import Processes
from lib_blocktrain.training.early_stopping import EarlyStopping
from lib_blocktrain.training.evaluation import Comparison, Draw, Evaluation
from lib_blocktrain.training.memory_errors import memory_errors
from lib_blocktrain.training.metadata import metadata_of
from lib_blocktrain.training.monitor import TrainingMonitor
from lib_blocktrain.training.noise_scaling import NoiseScaling
from lib_blocktrain.training.norms import block_norms, gradient_norms, shares
from lib_blocktrain.training.optimizers import learning_rate_notices, lr_factor
from lib_blocktrain.training.origin import check_config, origin_of, weights_of
from lib_blocktrain.training.plan import Plan, plan_of
from lib_blocktrain.training.precision import DTYPES, dtype_of, precision_notices
from lib_blocktrain.training.preparation import check_model, prepare
from lib_blocktrain.training.result import reason_not_to_save
from lib_blocktrain.training.run_report import Report, RunReport, about
from lib_blocktrain.training.runs import Run
from lib_blocktrain.training.state_pool import StatePool
from lib_blocktrain.training.step import Denoiser, Noise, Objective, dropout_seed
from lib_blocktrain.training.step_losses import StepLosses
from lib_blocktrain.training.train_state import TrainState
from lib_blocktrain.weights.block_weights import BlockWeights

STATE_EVERY = 120.0  # seconds; the most that a killed run loses
BLOCKS_EVERY = 10  # steps between two rows of norms by block, at most
BLOCK_ROWS = 50  # of a run that is too short for as many at that distance


class Trainer:
    """Trains one run on a loaded model. `run_loop` may be called once; to go on with the run takes another Trainer.

    `draw` draws the samples; `report` is called with every row of the metrics, with `notice`, and with `encoded` and
    `of` while the dataset is encoded; `control` may be used by other threads. The caller holds the host's lock.
    """

    def __init__(
        self,
        model: Model,
        run: Run,
        *,
        control: TrainerControl | None = None,
        processes: Processes | None = None,
        draw: Draw | None = None,
        report: Report | None = None,
    ):
        self.model, self.run, self.config = model, run, run.config
        self.control, self.processes = control or TrainerControl(), processes or Processes()
        self.draw, self.report = draw, RunReport(run, self.processes, report)
        self.targets = {"unet": model.unet, **model.text_encoders}
        self.compiled = CompiledUNet(model.unet) if run.config.compile else None
        self.monitor, self.early = TrainingMonitor(), EarlyStopping(run.config)
        self.step, self.started_at = 0, time.time()
        self._good_step = 0  # of the weights that `diverge` goes back to
        self._state_is_good = True  # whether the saved state, if there is one, is known to do no worse than no LoRA
        self.aside = SetAside()  # the models that the steps do not need
        self.storage = WeightStorage(model, run.config.fp8, run.config.offload)
        self.hooks, self.contexts, self._saved_at = ExitStack(), ExitStack(), time.monotonic()

    def run_loop(self) -> Outcome:
        """Train to the last step, or until the run is stopped; the model is always left as it was."""
        held = self.run.locked() if self.processes.is_first else nullcontext()
        with (
            held,
            self.report,
            self.model.trainable(),
            self._encoding(),
            self.aside,
            self.hooks,
            self.compiled or nullcontext(),
            self.contexts,
            self.storage,
            memory_errors(self.config, self.model),
        ):
            try:
                self.prepare()
            except StoppedEarly:
                self.note({"event": "stopped", "saved": False})
                return Outcome("stopped", self.step, None)
            if self.config.samples.first and self.step == 0:
                self.draw_samples()
            while not self.is_over and not self.stopping():
                self.change_weights()
                self.stop_text_encoder()
                self.run_step()
                self.after_step()
            return self.finish()

    def prepare(self) -> None:
        """Prepare the first step, from the saved state if there is one."""
        for notice in check_model(self.model):
            self.notice(notice)
        state = self.run.load_state()
        if state:
            if self.run.from_earlier_state is not None:
                self.notice(f"{self.run.from_earlier_state}, of step {state['step']}")
            self._check_config(state)
        elif self.run.begins_again is not None:
            self.notice(self.run.begins_again)
        plan = self._plan(TrainState.weights_of(state["train_state"]) if state else None)
        weights = weights_of(self.model)
        self.storage.begin(plan.first_block_of_gradients)
        rates = learning_rate_notices(self.config.optimizer, self.config.schedule)
        for notice in (*plan.notices, *rates):
            self.notice(notice)
        self.data = prepare(self.model, self.run, plan, self.processes.count, self._encoded)
        for notice in self.data.notices:
            self.notice(notice)
        self.origin = origin_of(self.run.config, self._model_name, weights, self.data.dataset, self.data.contents)
        self.config = replace(self.config, steps=self.data.steps)  # of its epochs
        weight = next(self.model.unet.parameters())
        self.device, dtype = weight.device, dtype_of(self.config.precision, weight.dtype)
        for notice in precision_notices(self.config.precision, weight.device, weight.dtype):
            self.notice(notice)
        self.objective = Objective(
            self.config.loss,
            self.model.alphas_cumprod,
            self.model.prediction,
            self.device,
            self.model.zero_terminal_snr,
        )
        start = None if state or not self.config.network.start else read_network(self.config.network.start)
        self.train_state = TrainState(plan, self.config, dtype, weight.dtype, start)
        for notice in self.train_state.notices:
            self.notice(notice)
        self.denoiser = Denoiser(self.model, dtype, None, self.config.checkpointing, self.compiled, self.storage)
        self.step_losses = StepLosses(self.model, self.config, self.objective, self.denoiser)
        of = self.config, self.data, self.train_state, self.denoiser, self.losses, self.processes, self.device
        self.evaluation = Evaluation(*of)
        if state:
            self.load_state(state)
        if self.processes.is_first:
            self.run.remove_leftovers()
            self.run.drop_metrics_after(self.step)  # a killed run has rows of steps after its last save
        if self.config.pool.draws:
            folder = self.run.folder / f"pool-{self.processes.rank}"
            pool = StatePool(self.config, self.data, self.denoiser, self.objective, folder)
            self.step_losses.pool = self.contexts.enter_context(pool)
        self.note({"event": "resumed" if state else "started", **about(self.train_state, self.data)})
        self.comparison = Comparison(self.compared_loss())
        self.apply()
        self.aside.put(self.data.idle(self.model))
        self.monitor.begin()  # now come steps

    def run_step(self) -> None:
        """Make one step of the optimizer, unless in fp16 the gradients overflowed."""
        self.train_state.begin_step(lr_factor(self.step, self.config.steps, self.config.schedule))
        loss, gradient = self.train_state.measure(self.forward_backward())
        self.monitor.add_gradient(math.isfinite(gradient))
        reason = self.monitor.reason_to_stop(loss, self.train_state.loss_scale.enabled, gradient)
        if reason is not None:
            self.diverge(self.step + 1, reason)
        if math.isfinite(gradient):
            self.remember_good()
            self.monitor.gradient = gradient if self.config.optimizer.clip else None
            self.optimize()
        self.step += 1
        self.monitor.add(loss)

    def forward_backward(self) -> torch.Tensor:
        """Compute the gradients of one step, summed over all processes; return the mean loss, `()`."""
        total, accumulate = torch.zeros((), device=self.device), self.config.optimizer.accumulate
        for number in range(self.step * accumulate, (self.step + 1) * accumulate):
            batch = self.data.batch(number, self.processes)
            if batch is None:
                continue  # this bucket has fewer images left than there are processes
            noise = self.step_losses.noise(batch, number)
            with dropout_seed(self.config, self.device, number, self.processes.rank):
                for losses in self.losses_of_step(batch, noise):
                    loss = losses.sum() / (batch.total * accumulate)
                    (loss * self.train_state.loss_scale.factor).backward()
                    total += loss.detach()
        self.processes.sum([*self.train_state.gradients(), total])
        return total

    def losses_of_step(self, batch: Batch, noise: Noise) -> Iterator[torch.Tensor]:
        """Yield the losses that a step adds up, each `(batch,)`, one graph after the other."""
        yield self.losses(batch, noise)
        if self.config.loss.preservation:
            of_class = self.data.loader.of_class(batch).to(self.device)
            yield self.config.loss.preservation * self.step_losses.preservation(of_class, noise.to(self.device))

    def losses(self, batch: Batch, noise: Noise) -> torch.Tensor:
        """Return the loss of each sample, `(batch,)`."""
        return self.step_losses.of(batch.to(self.device), noise.to(self.device))

    def optimize(self) -> None:
        """Change the weights by the gradients."""
        if self._shows_blocks(self.step + 1):
            self.monitor.gradients = gradient_norms(self.train_state.network, self.train_state.plan)
        self.train_state.optimize(self.step)

    def remember_good(self, at_once: bool = False) -> None:
        """Keep the weights, which have just given a finite loss and gradient, if it is time to."""
        if self.train_state.remember_good(at_once):
            self._good_step = self.step

    def diverge(self, step: int, reason: str) -> NoReturn:
        """Raise Diverged, after the last good weights were put back and saved."""
        self.note({"event": "diverged", "reason": reason})
        self.train_state.back_to_good()
        self.step = self._good_step
        kept = "nothing was learnt before"
        if self.step and self._spoilt() is None:
            kept = f"the weights of step {self.step} are in {self.save_checkpoint()}"
        if self.processes.is_first and not self._state_is_good:
            self.run.drop_state()
        raise Diverged(f"step {step}: {reason}; {kept}; resumed with a lower optimizer.lr in run.json it goes on")

    def after_step(self) -> None:
        """Record the step, and save, validate and draw samples if they are due."""
        config, due = self.config, partial(self.data.epochs.due, self.step)
        self.note(self.monitor.row(self.train_state.optimizer, self.device))
        if self._shows_blocks(self.step):
            norms = block_norms(self.train_state.network, self.train_state.plan)
            self.note({"norms": norms, "gradients": self.monitor.gradients, "shares": shares(norms)})
        if due(config.validate_every, config.validate_every_epochs):
            self.validate()
        if due(config.samples.every) or (self.is_over and config.samples.every):
            self.draw_samples()
        if due(config.save_every, config.save_every_epochs) and not self.is_over:
            self.save_checkpoint()
            self.save_state()
        elif time.monotonic() - self._saved_at > STATE_EVERY:
            self.save_state()

    def finish(self) -> Outcome:
        """Save the result and the state, and record how the run ended."""
        ended = "finished" if self.is_over else "stopped"
        save = ended == "finished" or self.control.save
        if save:
            self.save_state(compared=True)
            self.save(self.run.result)
            if self.early.is_past_best and self.processes.is_first:
                self.run.take_best()
        if ended == "finished" and self.processes.is_first:
            self.run.earlier_state_path.unlink(missing_ok=True)
        self.note({"event": ended, "saved": save, "early": self.early.reason})
        self.processes.wait()
        return Outcome(ended, self.step, self.run.result if save else None)

    @property
    def is_over(self) -> bool:
        """Whether there is no step to be made."""
        return self.step >= self.config.steps or self.early.reason is not None

    def apply(self) -> None:
        """Apply the network to the model as it is now."""
        self.hooks.close()
        self.denoiser.begin_at(self.train_state.first_block)
        self.storage.begin(self.train_state.first_block)
        if self.step_losses.pool is not None:
            self.step_losses.pool.begin_at(self.train_state.frozen)
        if self.compiled:
            self.compiled.forget()
        weights = BlockWeights.uniform(self.model.architecture, 1.0)
        on = self.hooks.enter_context(applied(self.targets, self.train_state.training_network, weights))
        self.step_losses.applied = on
        if self.config.network.noise_scaling != "none":
            count = len(self.model.alphas_cumprod)
            scaling = NoiseScaling(self.config.network, self.train_state.plan, on, count)
            self.step_losses.noise_scaling = scaling

    def stop_text_encoder(self) -> None:
        """Freeze BASE when it has had its steps: the backward pass then ends at the first trained block."""
        steps = self.config.network.text_encoder_steps
        if not steps or self.step < steps or BASE in self.train_state.frozen:
            return
        self.train_state.freeze([BASE])
        self.note({"event": "frozen", "blocks": [BASE]})
        self.apply()

    def change_weights(self) -> None:
        """Change to the block weights that another thread asked for, or record why that is not possible."""
        weights = self.control.take_weights()
        if weights is None:
            return
        try:
            self.train_state.change_weights(self._plan(weights))
        except ValueError as error:
            self.note({"event": "weights refused", "reason": str(error)})
            return
        self.early.forget()
        self.apply()
        self.note({"event": "weights", "weights": weights.to_json()})

    def stopping(self) -> bool:
        """Whether any process was asked to stop: all of them stop after the same step."""
        return self.processes.any(self.control.stopping, self.device)

    # Saving.

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs; noise, order of the data and dropout follow from seed and step."""
        return {
            "step": self.step,
            "started_at": self.started_at,
            "origin": self.origin.to_state(),
            "good": self._state_is_good,
            "train_state": self.train_state.state(),
            "monitor": self.monitor.state(),
            "early": self.early.state(),
        }

    def _check_config(self, state: Mapping[str, Any]) -> None:
        """Give notice of what was changed in `run.json` since the state was saved, or raise ConfigError."""
        if "origin" not in state:
            raise ConfigError(
                f"{self.run.state_path}: an earlier development version wrote it, without what it was made with:"
                " expected one of this version; without it the run begins at step 0"
            )
        changed = check_config(state["origin"]["config"], self.config)
        if changed is not None:
            self.notice(f"{changed}: that holds from step {state['step'] + 1} on")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; give notice if the dataset or the model is another one."""
        self.step, self.started_at, self._state_is_good = state["step"], state["started_at"], state["good"]
        self.train_state.load_state(state["train_state"])
        self.remember_good(at_once=True)
        for notice in self.origin.notices(state["origin"]):
            self.notice(notice)
        self.monitor.load_state(state["monitor"])
        self.early.load_state(state.get("early", {}))

    @property
    def _model_name(self) -> str:
        return getattr(self.model, "name", None) or (self.config.checkpoint or "unknown")

    def save_state(self, compared: bool = False) -> None:
        """Write the state into the run's folder, from the first process; raises Diverged.

        It is compared with no LoRA if that is wanted, or was not done for long.
        """
        self.check_weights()
        compared = compared or self.comparison.due(self.step)
        keep, self._state_is_good = self._state_is_good, compared and self.compare() is None
        if self.processes.is_first:
            self.run.save_state(self.state(), keep)
        self.note({"state_saved": True})
        self._saved_at = time.monotonic()

    def save_checkpoint(self) -> Path:
        """Save the network file of this step, and delete beyond `keep` those that were saved first.

        That need not be those of the lowest steps: a run that diverged goes on from an earlier one.
        """
        path = self.save(self.run.checkpoint(self.step))
        self.note({"checkpoint": path.name})
        if self.config.keep and self.processes.is_first:
            others = sorted(set(self.run.checkpoints()) - {path}, key=lambda other: (other.stat().st_mtime_ns, other))
            for old in others[: len(others) + 1 - self.config.keep]:
                try:
                    old.unlink()
                except OSError as error:  # open in another program, which Windows does not allow
                    self.notice(f"a checkpoint beyond keep = {self.config.keep} stays: {error_text(error)}")
        return path

    def save(self, path: Path) -> Path:
        """Write the network file; raises Diverged if it cannot hold the weights."""
        self.check_weights()
        if self.processes.is_first:
            with self.train_state.network_to_save() as network:
                network = replace(network, name=path.stem, metadata=self._metadata())
                write_network(path, network, dtype=DTYPES[self.config.save_dtype], overwrite=True)
        return path

    def check_weights(self) -> None:
        """Raise Diverged if the last step left weights that cannot be saved."""
        reason = self._spoilt()
        if reason is not None:
            self.diverge(self.step, reason)

    def _spoilt(self) -> str | None:
        """Return why the network cannot be saved, None if it can."""
        if not self.train_state.is_finite:
            return "the weights are not finite: a learning rate that is too high"
        with self.train_state.network_to_save() as network:
            return reason_not_to_save(network, DTYPES[self.config.save_dtype])

    def _metadata(self) -> dict[str, str]:
        progress = {
            "step": self.step,
            "epoch": self.data.epochs.after(self.step),
            "loss": self.monitor.smoothed,
            "started_at": self.started_at,
            "model": self._model_name,
            "zero_terminal_snr": self.model.zero_terminal_snr,
            "processes": self.processes.count,
        }
        return metadata_of(
            self.config, self.train_state.plan.weights, self.data.dataset, progress, self.model.native_size
        )

    # Validation, samples, metrics.

    def validate(self) -> None:
        """Record the loss of the held-out images, save the best weights, and freeze blocks that help no more."""
        found = self.evaluation.validation(self.early.wants_gradients)
        if found is None:
            return
        gains, spent = self.early.add(found, self.train_state.blocks, self.train_state.frozen)
        self.note({"validation": found.loss, **({"gains": gains} if gains else {})})
        if found.loss < self.monitor.best:
            self.monitor.best = found.loss
            self.save(self.run.best)
        if spent:
            self.train_state.freeze(spent)
            self.note({"event": "frozen", "blocks": spent, "reason": "helps no more"})
            self.apply()

    def compare(self) -> str | None:
        """Record the loss of some of the pictures with and without the LoRA; return what to say of a worse one.

        Raises Diverged where the loss with it is not finite.
        """
        with self.evaluation.as_saved():
            losses = self.comparison.losses(self.step, self.compared_loss())
        self.note({"compared": losses})
        if self.comparison.diverged(losses):
            self.diverge(self.step, f"the loss with the weights that it left is {losses['with']}")
        text, is_new = self.comparison.worse(losses)
        if text is not None and is_new:  # not at every comparison
            self.notice(f"step {self.step}: {text}")
        return text

    def compared_loss(self) -> float:
        """Return the mean loss of some of the run's pictures under the hooks that the model has now."""
        return self.evaluation.compared_loss()

    def draw_samples(self) -> None:
        """Draw the prompts with their seeds and with the network as its file would be now."""
        if self.draw is None or not self.processes.is_first:
            return
        scaling = self.step_losses.noise_scaling
        for number, prompt in enumerate(self.config.samples.prompts):
            with scaling.in_pictures(self.model.unet) if scaling is not None else nullcontext():
                image = self.evaluation.sample(self.draw, number, self.aside)
            if image is None:
                self.note({"sample": None, "prompt": prompt})
                continue
            path = self.run.sample(self.step, number)
            with atomic_write(path) as temporary:
                image.save(temporary, format="PNG")
            self.note({"sample": path.name, "prompt": prompt})

    def note(self, row: Mapping[str, Any]) -> None:
        """Write a row of the metrics."""
        self.report.note({"step": self.step, **row})

    def notice(self, text: str) -> None:
        """Log and report something that the user should know."""
        self.report.notice(text)

    def _encoding(self) -> AbstractContextManager[None]:
        """Encode pictures and captions as this run asks for it."""
        config = self.config
        if config.vae is None and config.clip_skip is None:
            return nullcontext()
        return self.model.encoding(config.vae, config.clip_skip)

    def _encoded(self, done: int, of: int) -> None:
        self.report.tell({"encoded": done, "of": of})
        if self.control.stopping and self.processes.count == 1:
            raise StoppedEarly

    def _plan(self, weights: BlockWeights | None) -> Plan:
        config = self.config.network
        if weights is not None:
            config = replace(config, weights=weights.to_json())
        return plan_of(self.targets, self.model.architecture, config)

    def _shows_blocks(self, step: int) -> bool:
        every = max(1, min(BLOCKS_EVERY, self.config.steps // BLOCK_ROWS))
        return step == 1 or step % every == 0 or step >= self.config.steps
