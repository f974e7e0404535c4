"""The network that learns: its tensors, their optimizer, their average, and the last weights that were good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lib_blocktrain.networks.files import Network
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.init import init_network, trained_tensors, training_network
from lib_blocktrain.training.live_weights import weight_change
from lib_blocktrain.training.norms import cap_norms
from lib_blocktrain.training.optimizers import (
    check_learning_rates,
    make_optimizer,
    parameter_groups,
    parameters_of,
    set_learning_rates,
)
from lib_blocktrain.training.plan import Plan
from lib_blocktrain.training.precision import LossScale
from lib_blocktrain.training.result import saved_network, swapped_parameters
from lib_blocktrain.weights.block_weights import BlockWeights

_MEANS = ("fused", "foreach", "capturable")  # options of torch's optimizers that say how, not what


class TrainState:
    """A network of a scope with all that its training remembers; it can save and load itself.

    `dtype` is what the model computes in: fp16 wants a scaled loss. Raises ConfigError for an optimizer that cannot
    do what is asked of it.
    """

    def __init__(self, plan: Plan, config: RunConfig, dtype: torch.dtype):
        self.plan, self.config = plan, config
        self.network = init_network(plan, config.network, config.name, config.seed)
        groups = parameter_groups(self.network, plan, config.optimizer)
        check_learning_rates(config.optimizer, config.network, plan)
        self.optimizer = make_optimizer(config.optimizer, groups)
        self.parameters = parameters_of(self.optimizer)
        self.average = [p.detach().clone() for p in self.parameters] if config.optimizer.ema else []
        self._good = [p.detach().clone() for p in self.parameters]
        self.scale = LossScale(enabled=dtype == torch.float16)

    @property
    def acting(self) -> Network:
        """The network as it acts in training, dropout included."""
        return training_network(self.network, self.plan, self.config.network)

    def begin_step(self, rate_factor: float) -> None:
        """Make ready for the gradients of a step, at this factor of the learning rates."""
        set_learning_rates(self.optimizer, rate_factor)
        self._set_mode(training=True)
        self.optimizer.zero_grad(set_to_none=True)  # the first gradient that comes is taken as it is, without a sum

    def gradients(self) -> list[Tensor]:
        """Return the gradient of every parameter, 0 where none has come."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters]

    def unscale(self) -> bool:
        """Take the loss scale out of the gradients; return whether they can be used."""
        return self.scale.unscale(self.gradients())

    def optimize(self) -> float | None:
        """Make the step and what follows from new weights; return the norm of the gradients if they are clipped."""
        clip, norm = self.config.optimizer.clip, None
        if clip:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        self.optimizer.step()
        if self.config.network.weight_mode == "max_norm":
            cap_norms(self.network, self.plan)
        if self.average:
            now = [parameter.detach() for parameter in self.parameters]
            torch._foreach_lerp_(self.average, now, 1 - self.config.optimizer.ema)
        return None if norm is None else float(norm)  # a GPU is waited for at the end only

    @torch.no_grad()
    def remember_good(self) -> None:
        """Keep the weights as they are: they have just given a loss that can be used."""
        torch._foreach_copy_(self._good, [parameter.detach() for parameter in self.parameters])

    @torch.no_grad()
    def back_to_good(self) -> None:
        """Put back the weights that were kept last."""
        torch._foreach_copy_([parameter.detach() for parameter in self.parameters], self._good)

    @torch.no_grad()
    def change(self, after: Plan) -> None:
        """Take over other block weights; raises ConfigError where a run cannot."""
        change = weight_change(self.plan, after, self.config.network)
        divided = change.divided(self.network)
        self.network, self.plan = change.network(self.network), after
        for copies in (self.average, self._good):
            for copy, parameter in zip(copies, self.parameters):
                copy.div_(divided.get(id(parameter), 1.0))
        for group in self.optimizer.param_groups:
            group["base_lr"] *= change.rates.get(group["block"], 1.0)

    @contextmanager
    def network_to_save(self) -> Iterator[Network]:
        """Yield the network as its file has it: of the averaged weights, or a schedule-free optimizer's, if any."""
        self._set_mode(training=False)
        try:
            with swapped_parameters(self.parameters, self.average):
                yield saved_network(self.network, self.plan, self.config.network)
        finally:
            self._set_mode(training=True)

    def state(self) -> dict[str, Any]:
        """Return everything that training goes on from."""
        self._set_mode(training=True)
        return {
            "names": self._names(),
            "parameters": [parameter.detach() for parameter in self.parameters],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scale": {"scale": self.scale.scale, "good": self.scale.good},
            "weights": self.plan.weights.to_json(),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raise ValueError if it is another network's."""
        ours, theirs = [*self.parameters, *self.average], [*state["parameters"], *state["average"]]
        if state["names"] != self._names() or [p.shape for p in ours] != [value.shape for value in theirs]:
            raise ValueError("the saved state is that of another network than the one that run.json describes")
        for parameter, value in zip(ours, theirs):
            parameter.copy_(value)
        self.optimizer.load_state_dict(self._by_our_means(state["optimizer"]))
        self.scale.scale, self.scale.good = state["scale"]["scale"], state["scale"]["good"]

    def _by_our_means(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return an optimizer's state with our way to compute a step: another torch may lack the saved one."""
        ours = self.optimizer.param_groups
        means = [{name: group[name] for name in _MEANS if name in group} for group in ours]
        groups = [{**theirs, **own} for theirs, own in zip(saved["param_groups"], means, strict=True)]
        return {**saved, "param_groups": groups}

    @staticmethod
    def weights_of(state: Mapping[str, Any]) -> BlockWeights:
        """Return the block weights of a state, which may have changed since the start."""
        return BlockWeights.from_json(state["weights"])

    def _names(self) -> list[str]:
        """Return the parameters' names in a file, in order."""
        names = {
            id(tensor): f"{key}.{name}"
            for key, module in self.network.modules.items()
            for name, tensor in trained_tensors(module).items()
        }
        return [names[id(parameter)] for parameter in self.parameters]

    def _set_mode(self, training: bool) -> None:
        """Tell a schedule-free optimizer which of its two sets of weights is wanted; others have one."""
        switch = getattr(self.optimizer, "train" if training else "eval", None)
        if switch is not None:
            switch()
