"""A cell: one arm of one replicate, measured on a model. Written completely or not at all, so that runs can resume."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.trial.drawing import acting
from benchmarks.trial.measures import Read, Reader, loss_on, norm_of, parameters_of
from benchmarks.trial.replicate import Experiment, Replicate, path_of
from benchmarks.trial.scenes import HELD_OUT, SEEDS
from lib_blocktrain.files import atomic_write

TEST_SEEDS = tuple(range(100, 100 + SEEDS))
OTHER_SEEDS = (7,)


@dataclass(eq=False)
class Bench:
    """A model to measure on, and what it draws and loses without any LoRA."""

    reader: Reader
    mark: str  # of the model's weights
    _plain: dict[tuple[str, str], tuple[dict[str, float], Read]] = field(default_factory=dict)
    _plain_losses: dict[str, dict[str, float]] = field(default_factory=dict)
    _latents: dict[Path, torch.Tensor] = field(default_factory=dict)

    def plain(self, experiment: Experiment, subject: str) -> tuple[dict[str, float], Read]:
        """Return the model's own figures, and its pictures of the others."""
        key = experiment.name, subject
        if key not in self._plain:
            self._plain[key] = self.figures(experiment, subject), self.others(experiment)
        return self._plain[key]

    def plain_losses(self, replicate: Replicate) -> dict[str, float]:
        """Return the model's own losses on a replicate's pictures."""
        if replicate.name not in self._plain_losses:
            self._plain_losses[replicate.name] = self.losses(replicate)
        return self._plain_losses[replicate.name]

    def figures(self, experiment: Experiment, subject: str) -> dict[str, float]:
        """Return what pictures of the tests say: is the subject there, and is what was asked, or what was trained?

        `trained` is the probability of the factor that never changed where the prompt asks for another value of it,
        `silent` where the prompt says nothing of it, as in training.
        """
        scenes, bias = experiment.tests(subject), experiment.bias
        read = self.reader.pictures(scenes, TEST_SEEDS)
        found = {"subject": read.chance_as_asked("subject"), "diversity": read.diversity}
        if bias is None:
            return {**found, "asked": read.chance_as_asked("accessory")}
        silent = self.reader.pictures(scenes, TEST_SEEDS, bias.silent)
        return {
            **found,
            "asked": read.chance_as_asked(bias.factor),
            "trained": read.chance_of(bias.factor, bias.value),
            "silent": silent.chance_of(bias.factor, bias.value),
            "silent subject": silent.chance_as_asked("subject"),
        }

    def others(self, experiment: Experiment) -> Read:
        return self.reader.pictures(experiment.others(), OTHER_SEEDS)

    def losses(self, replicate: Replicate) -> dict[str, float]:
        """Return the loss on training pictures and on ones held out, each with its captions."""
        found = {}
        for name, folder in (("training", replicate.dataset), ("held out", replicate.held_out)):
            paths = sorted(folder.glob("*.png"))[:HELD_OUT]
            captions = [path.with_suffix(".txt").read_text("utf-8").strip() for path in paths]
            found[name] = loss_on(self.reader.model, torch.cat([self._encoded(path) for path in paths]), captions)
        return found

    def _encoded(self, path: Path) -> torch.Tensor:
        if path not in self._latents:
            self._latents[path] = self.reader.model.encode_image(Image.open(path)).float()
        return self._latents[path]

    def measure(self, replicate: Replicate, arm: str, multipliers: tuple[float, ...] | None = None) -> dict[str, Any]:
        """Return an arm's cell; the arm is trained first if it is not yet."""
        began = time.perf_counter()
        experiment, subject, plan = replicate.experiment, replicate.subject, replicate.plan(arm)
        network = replicate.network(plan)
        trained = time.perf_counter()
        plain, others = self.plain(experiment, subject)
        model, curve = self.reader.model, []
        for multiplier in multipliers or plan.multipliers:
            with acting(model, network, plan.inference, multiplier):
                curve.append({"multiplier": multiplier, **self.figures(experiment, subject)})
        with acting(model, network, plan.inference, plan.strength):
            at_strength = {"losses": self.losses(replicate), "others": drift(self.others(experiment), others, subject)}
        return {
            "experiment": experiment.name,
            "subject": subject,
            "seed": replicate.seed,
            "arm": arm,
            "model": self.mark,
            "steps": replicate.steps,
            "weights": plan.weights.to_line(),
            "inference": plan.inference and plan.inference.to_line(),
            "rank": plan.rank,
            "strength": plan.strength,
            "parameters": parameters_of(network),
            "norm": norm_of(network),
            "plain": {**plain, "losses": self.plain_losses(replicate)},
            "curve": curve,
            **at_strength,
            "seconds": {"training": trained - began, "measuring": time.perf_counter() - trained},
        }


def drift(read: Read, plain: Read, subject: str) -> dict[str, float]:
    """Return what the LoRA does to pictures without the trigger."""
    return {
        "distance": read.distance_to(plain),
        "subject": read.chance_as_asked("subject"),
        "plain subject": plain.chance_as_asked("subject"),
        "intruder": read.chance_of("subject", subject),
        "plain intruder": plain.chance_of("subject", subject),
    }


def write(path: Path, cell: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(cell, indent=1) + "\n", "utf-8")


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Return all cells under a folder, in the order of their paths."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.rglob("*.json"))]


def pack(work: Path, packed: Path) -> None:
    """Write all cells of a folder into one file, a line each."""
    rows = [
        {"moved": moved, **cell}
        for moved, place in ((False, "cells"), (True, "moved"))
        for cell in read_all(work / place)
    ]
    with atomic_write(packed) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def read_packed(packed: Path) -> list[dict[str, Any]]:
    """Return the cells that `pack` wrote, each with `moved`."""
    return [json.loads(line) for line in packed.read_text("utf-8").splitlines()]


def unpack(packed: Path, work: Path) -> None:
    """Write the cells of one file into a folder where they are not there yet."""
    for row in read_packed(packed):
        moved = row.pop("moved")
        path = path_of(work, moved, row)
        if not path.exists():
            write(path, row)
