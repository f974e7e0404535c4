"""The network in training with its optimizer, averaged weights, loss scale and last good weights."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.host_copy import HostCopy
from lib_blocktrain.training.init import DropoutSwitch, detached, init_network, trained_tensors, training_network
from lib_blocktrain.training.live_weights import weight_change
from lib_blocktrain.training.norms import cap_norms, clip_to_norm, total_norm
from lib_blocktrain.training.optimizers import (
    check_learning_rates,
    make_optimizer,
    parameter_groups,
    parameters_of,
    set_learning_rates,
)
from lib_blocktrain.training.plan import Plan
from lib_blocktrain.training.precision import LossScale
from lib_blocktrain.training.result import kept_parameters, saved_network
from lib_blocktrain.training.start import start_from
from lib_blocktrain.weights.block_weights import BlockWeights

GOOD_EVERY = 5.0  # seconds between two copies of good weights from a GPU: what a run that diverges there loses
_IMPLEMENTATIONS = ("fused", "foreach", "capturable")  # options of torch's optimizers that change no result


class TrainState:
    """All that changes while a network is trained; it can save and load itself.

    `dtype` is what the model computes in, `weights` the dtype of its weights: fp16 needs a scaled loss, and so do,
    in any precision, gradients that pass to a text encoder in fp16. The network begins with the deltas of `start`, if
    that is given; `notices` say what of it is left out. Raises ConfigError for an optimizer that cannot
    do what the configuration asks for.
    """

    def __init__(
        self,
        plan: Plan,
        config: RunConfig,
        dtype: torch.dtype,
        weights: torch.dtype | None = None,
        start: Network | None = None,
    ):
        self.plan, self.config = plan, config
        self.network = init_network(plan, config.network, config.name, config.seed)
        self.notices = () if start is None else start_from(start, self.network, plan, config.network)
        check_learning_rates(config.optimizer, config.network, plan)
        self.optimizer = make_optimizer(config.optimizer, parameter_groups(self.network, plan, config.optimizer))
        self.parameters = parameters_of(self.optimizer)
        self.frozen: frozenset[str] = frozenset()  # blocks that are trained no more, and keep their weights
        self.average = [p.detach().clone() for p in self.parameters] if config.optimizer.ema else []
        self._good, self._good_at = HostCopy(self._all_weights()), time.monotonic()
        self._gradient_norm: Tensor | None = None  # of the step that is being made
        self._dropout = DropoutSwitch()
        self.loss_scale = LossScale(enabled=torch.float16 in (dtype, weights if plan.trains_text else None))

    @property
    def training_network(self) -> Network:
        """The network as it acts in training, dropout included; frozen blocks take no part in autograd."""
        network = training_network(self.network, self.plan, self.config.network, self._dropout)
        return detached(network, {m.key for m in self.plan.modules if m.block in self.frozen})

    @property
    def blocks(self) -> list[str]:
        """The block of each parameter."""
        return [group["block"] for group in self.optimizer.param_groups for _ in group["params"]]

    @property
    def first_block(self) -> str | None:
        """The block at which the backward pass ends; None while a text encoder is trained."""
        return self.plan.without(self.frozen).first_block_of_gradients

    @torch.no_grad()
    def freeze(self, blocks: Collection[str]) -> None:
        """Train these blocks no more; what they keep is what their file would have now."""
        self.frozen |= frozenset(blocks)
        for block, parameter, average in zip(self.blocks, self.parameters, self.average):
            if block in self.frozen:
                parameter.copy_(average)

    def begin_step(self, lr_factor: float) -> None:
        """Prepare for the gradients of a step, with the learning rates multiplied by this factor."""
        set_learning_rates(self.optimizer, lr_factor)
        self._set_mode(training=True)
        self.optimizer.zero_grad(set_to_none=True)  # the first gradient is then stored as it is, without a sum

    def gradients(self) -> list[Tensor]:
        """Return the gradient of every parameter that is not frozen, 0 where there is none."""
        gradients = []
        for parameter in self._active():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        return gradients

    def measure(self, loss: Tensor) -> tuple[float, float]:
        """Divide the gradients by the loss scale; return the loss, and the norm of all gradients: inf or nan if any is.

        This is the step's one wait for the GPU. The loss scale is adapted to what was found.
        """
        gradients = self.gradients()
        self.loss_scale.unscale(gradients)
        self._gradient_norm = total_norm(gradients)
        found, norm = torch.stack([loss.float(), self._gradient_norm.to(loss.device)]).tolist()
        self.loss_scale.adapt(math.isfinite(norm))
        return found, norm

    def optimize(self, step: int) -> None:
        """Make the optimizer's step with the gradients, clipped; then cap norms and update the average.

        `step` is the number of the step, from 0 on.
        """
        if self.config.optimizer.clip:
            gradients, norm = self.gradients(), self._gradient_norm
            clip_to_norm(gradients, self.config.optimizer.clip, total_norm(gradients) if norm is None else norm)
        self._gradient_norm = None
        self.optimizer.step()
        if self.config.network.weight_mode == "max_norm":
            cap_norms(self.network, self.plan)
        if self.average:
            now = [parameter.detach() for parameter in self.parameters]
            decay = self.config.optimizer.ema
            if self.config.optimizer.ema_warmup:
                decay = min(decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, now, 1 - decay)

    @property
    def is_finite(self) -> bool:
        """Whether all weights, and their averages, are finite."""
        return bool(total_norm(self._all_weights()).isfinite())

    def remember_good(self, at_once: bool = False) -> bool:
        """Keep a copy of the weights and their averages, which have just given a finite loss and gradient.

        It is kept in this machine's memory, and from a GPU not at every step unless `at_once`; return whether it was.
        """
        is_near = self.parameters[0].device.type == "cpu"
        if not (at_once or is_near or time.monotonic() - self._good_at >= GOOD_EVERY):
            return False
        self._good.store(self._all_weights())
        self._good_at = time.monotonic()
        return True

    def back_to_good(self) -> None:
        """Put back what the last `remember_good` kept; a schedule-free optimizer begins its average with it anew."""
        self._good.restore(self._all_weights())
        for parameter, own in self._of_optimizer():
            own.copy_(parameter.detach())

    @torch.no_grad()
    def change_weights(self, after: Plan) -> None:
        """Change to the block weights of another plan; raises ConfigError where a run cannot."""
        change = weight_change(self.plan, after, self.config.network)
        divided = change.divided(self.network)
        self.network, self.plan = change.network(self.network), after
        good = self._good.parts
        for copies in (self.average, good, good[len(self.parameters) :]):
            for copy, parameter in zip(copies, self.parameters):
                copy.div_(divided.get(id(parameter), 1.0))
        for parameter, own in self._of_optimizer():
            own.div_(divided.get(id(parameter), 1.0))
        rates = {
            id(tensor): group["base_lr"]
            for group in parameter_groups(self.network, self.plan, self.config.optimizer)
            for tensor in group["params"]
        }
        for group in self.optimizer.param_groups:
            group["base_lr"] = rates[id(group["params"][0])]

    @contextmanager
    def network_to_save(self) -> Iterator[Network]:
        """Yield the network as its file has it: with the averaged weights, or a schedule-free optimizer's, if any.

        Where `training_network` is applied it acts so too, without dropout. Afterwards every bit is as it was.
        """
        with kept_parameters(self.parameters):
            self._set_mode(training=False)
            self._dropout.on = False
            try:
                if self.average:
                    with torch.no_grad():
                        torch._foreach_copy_([parameter.detach() for parameter in self.parameters], self.average)
                yield saved_network(self.network, self.plan, self.config.network)
            finally:
                self._dropout.on = True
                self._set_mode(training=True)

    def state(self) -> dict[str, Any]:
        """Return everything that `load_state` needs, for `state_file.save`."""
        self._set_mode(training=True)
        names = self._names()
        return {
            "parameters": {name: parameter.detach() for name, parameter in zip(names, self.parameters)},
            "average": dict(zip(names, self.average)),
            "optimizer": self.optimizer.state_dict(),
            "loss_scale": {"scale": self.loss_scale.scale, "finite_steps": self.loss_scale.finite_steps},
            "weights": self.plan.weights.to_json(),
            "frozen": sorted(self.frozen),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; raise ValueError if it is another network's."""
        names, saved, average = self._names(), state["parameters"], state["average"]
        values = [*saved.values(), *average.values()]
        ours = [*self.parameters, *self.average]
        if [*saved] != names or [p.shape for p in ours] != [value.shape for value in values]:
            raise ValueError("the saved state is that of another network than the one that run.json describes")
        for parameter, value in zip(ours, values):
            parameter.copy_(value)
        self.optimizer.load_state_dict(self._optimizer_state(state["optimizer"]))
        self.frozen = frozenset(state.get("frozen", ()))  # an earlier version had none
        self.loss_scale.scale = state["loss_scale"]["scale"]
        self.loss_scale.finite_steps = state["loss_scale"]["finite_steps"]

    def _optimizer_state(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return an optimizer's saved state with the types that JSON lacks, our rates and our way to make a step.

        `run.json` may have another rate by now, and another version of torch may lack the implementation.
        """
        now, before = (
            [len(group["params"]) for group in of["param_groups"]] for of in (self.optimizer.state_dict(), saved)
        )
        if now != before:
            raise ValueError(
                f"the saved state has {len(before)} groups of parameters, and run.json gives {len(now)}: expected as"
                " many learning rates in optimizer.text_encoder_lr and the same optimizer.lora_plus as before"
            )
        groups = []
        for ours, theirs in zip(self.optimizer.param_groups, saved["param_groups"], strict=True):
            group = {k: tuple(v) if isinstance(ours.get(k), tuple) else v for k, v in theirs.items()}
            groups.append({**group, **{name: ours[name] for name in ("base_lr", *_IMPLEMENTATIONS) if name in ours}})
        return {**saved, "state": {int(i): values for i, values in saved["state"].items()}, "param_groups": groups}

    @staticmethod
    def weights_of(state: Mapping[str, Any]) -> BlockWeights:
        """Return the block weights of a saved state, which may have changed since the start of the run."""
        return BlockWeights.from_json(state["weights"])

    def _active(self) -> list[Tensor]:
        if not self.frozen:
            return self.parameters
        return [p for block, p in zip(self.blocks, self.parameters) if block not in self.frozen]

    def _all_weights(self) -> list[Tensor]:
        """Return the weights, then their averages, if there are any."""
        return [*(parameter.detach() for parameter in self.parameters), *self.average]

    def _of_optimizer(self) -> list[tuple[Tensor, Tensor]]:
        """Return the weights that a schedule-free optimizer keeps beside each parameter: z in 2405.15682."""
        states = [(parameter, self.optimizer.state.get(parameter, {})) for parameter in self.parameters]
        return [(parameter, state["z"]) for parameter, state in states if isinstance(state.get("z"), Tensor)]

    def _names(self) -> list[str]:
        """Return the names that the parameters have in a network file, in order."""
        names = {
            id(tensor): f"{key}.{name}"
            for key, module in self.network.modules.items()
            for name, tensor in trained_tensors(module).items()
        }
        return [names[id(parameter)] for parameter in self.parameters]

    def _set_mode(self, training: bool) -> None:
        """Tell a schedule-free optimizer which of its two sets of weights to use; other optimizers have one."""
        switch = getattr(self.optimizer, "train" if training else "eval", None)
        if switch is not None:
            switch()
