"""One subject under one seed: its dataset, the LoRAs trained on it, and what the analysis says of the first of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.trial import arms as arms_of
from benchmarks.trial import scenes
from benchmarks.trial.arms import Maker, Plan
from benchmarks.trial.scenes import BIASES, Bias, Scene
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.run import analyse
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.solve import solve
from lib_blocktrain.analysis.solve_result import build_solve_request
from lib_blocktrain.analysis.weight_rules import down_to
from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts.standalone import StandaloneModel
from lib_blocktrain.networks.files import Network, read_network
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import (
    DatasetConfig,
    FolderConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.weights.block_weights import BlockWeights

STEPS, BATCH, RATE = 160, 4, 3e-3
KEPT = 0.75  # of the subject's effect, in the blocks that the analysis keeps
SOLVED = 1020  # U-Net evaluations of the search for weights
SEARCHED = tuple(range(6))  # its seeds; those of the tests are others
WARMUP = 10  # steps
OTHER_SHARE = {"share-small": "share-large", "share-large": "share-small"}


@dataclass(frozen=True)
class Experiment:
    """A kind of dataset and the arms that are compared on it; without a bias it is the character in accessories."""

    name: str
    arms: Mapping[str, Maker]

    @property
    def bias(self) -> Bias | None:
        return BIASES.get(self.name)

    def training_scenes(self, subject: str, seed: int) -> list[Scene]:
        if self.bias is None:
            return scenes.dressed_scenes(subject, seed)
        return scenes.training_scenes(self.bias, subject, seed)

    def caption(self, scene: Scene) -> str:
        return scene.caption if self.bias is None else self.bias.silent(scene)

    def tests(self, subject: str) -> list[Scene]:
        """Return scenes that ask for the subject as the dataset never showed it."""
        return scenes.dressed_tests(subject) if self.bias is None else scenes.asked_scenes(self.bias, subject)

    def search(self, subject: str) -> tuple[list[str], Feature | None]:
        """Return the prompts of a search for weights that keep the subject, and what they are to drop.

        That is everything else, None, or the accessory, which only one test has.
        """
        tests = self.tests(subject)
        prompts = list(dict.fromkeys(self.caption(scene) for scene in tests))  # without the bias two may be the same
        return (prompts[:2], None) if self.bias else (prompts[:1], Feature(word=tests[0].accessory))

    def others(self) -> list[Scene]:
        """Return scenes without the trigger."""
        return scenes.others_dressed() if self.bias is None else scenes.other_scenes()


EXPERIMENTS = {
    **{name: Experiment(name, arms_of.BESIDE_RIVALS) for name in ("background", "size")},
    "style": Experiment("style", arms_of.BIASED),
    "dressed": Experiment("dressed", arms_of.DRESSED),
    **{name: Experiment(name, arms_of.SHARE) for name in OTHER_SHARE},
}


@dataclass(eq=False)
class Replicate:
    """What is paired in a comparison: all its arms have the same pictures, the same noise and the same tests."""

    experiment: Experiment
    subject: str
    seed: int
    work: Path
    model: StandaloneModel
    steps: int = STEPS

    @property
    def name(self) -> str:
        return f"{self.experiment.name}/{self.subject}-{self.seed}"

    @property
    def folder(self) -> Path:
        return self.work / "replicates" / self.name

    def plan(self, arm: str) -> Plan:
        return self.experiment.arms[arm](self)

    def rank_of(self, arm: str) -> int:
        """Return the rank of an arm: that of its cell, so that nothing is trained to find it, or else of its plan."""
        cell = path_of(self.work, False, {**vars(self), "experiment": self.experiment.name, "arm": arm})
        return int(json.loads(cell.read_text("utf-8"))["rank"]) if cell.exists() else self.plan(arm).rank

    def at_other_share(self) -> Replicate:
        return replace(self, experiment=EXPERIMENTS[OTHER_SHARE[self.experiment.name]])

    @cached_property
    def dataset(self) -> Path:
        """The training pictures, written where they are not there yet."""
        folder = self.folder / "dataset"
        drawn = self.experiment.training_scenes(self.subject, self.seed)
        return scenes.write_folder(folder, drawn, self.experiment.caption, self.name)

    @cached_property
    def masked(self) -> Path:
        """The same pictures with masks beside them: where the subject is."""
        folder = self.folder / "masked"
        drawn = self.experiment.training_scenes(self.subject, self.seed)
        return scenes.write_folder(folder, drawn, self.experiment.caption, self.name, masks=True)

    @cached_property
    def prior(self) -> Path:
        """Pictures of subjects that the model knows, with whole captions, for prior preservation."""
        drawn = scenes.prior_scenes(self.subject, self.seed)
        return scenes.write_folder(self.folder / "prior", drawn, lambda scene: scene.caption, f"prior {self.name}")

    @cached_property
    def held_out(self) -> Path:
        """Pictures of the subject without any bias, with whole captions."""
        drawn = scenes.held_out_scenes(self.subject, self.seed)
        return scenes.write_folder(self.folder / "held-out", drawn, lambda scene: scene.caption, f"other {self.name}")

    def network(self, plan: Plan) -> Network:
        """Return a plan's LoRA; it is trained where there is none yet."""
        path = self.folder / f"{plan.file_stem}.safetensors"
        if not path.exists():
            config = self._run(plan)
            folder = self.folder / "runs" / config.name
            shutil.rmtree(folder, ignore_errors=True)  # a session was killed: a LoRA is short enough to begin again
            outcome = Trainer(self.model, runs.create(config, folder)).run_loop()
            outcome.result.replace(path)
            shutil.rmtree(folder)
        return read_network(path)

    def _run(self, plan: Plan) -> RunConfig:
        folders = [FolderConfig(path=str(self.masked if plan.rival == "masked" else self.dataset))]
        if plan.rival == "prior":
            folders.append(FolderConfig(path=str(self.prior), regularisation=True))
        other = scenes.CLASS_WORD
        return RunConfig(
            name=plan.file_stem,
            dataset=DatasetConfig(
                folders=tuple(folders),
                cache=str(self.work / "cache"),
                caption_dropout=0.3 if plan.rival == "dropout" else 0.05,
            ),
            network=NetworkConfig(
                rank=plan.rank,
                weights=plan.weights.to_json(),
                noise_scaling="rank" if plan.rival == "t-lora" else "none",
            ),
            loss=LossConfig(preservation=1.0, trigger=self.subject, class_word=other)
            if plan.rival == "preservation"
            else LossConfig(),
            optimizer=OptimizerConfig(lr=RATE, arguments={"weight_decay": 0.0}),
            schedule=ScheduleConfig(name="cosine", min_lr_ratio=0.02, warmup=round(WARMUP * plan.part)),
            steps=round(self.steps * plan.part),
            batch=BATCH,
            seed=self.seed,
            save_dtype="fp32",
        )

    def analysed(self) -> BlockWeights:
        """Return the blocks that carry the subject in the LoRA of all blocks, by the package's analysis of its word."""
        path = self.folder / "analysed.json"
        if not path.exists():
            prompts = tuple(scene.caption for scene in self.experiment.tests(self.subject)[:2])
            grid, feature = SamplingGrid(prompts, seeds=(0, 1)), Feature(word=self.subject)
            (found,) = analyse(self.model, self.network(self.plan("all")), grid, "fast", (feature,))
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(down_to(found, KEPT).to_json()), "utf-8")
        return BlockWeights.from_json(json.loads(path.read_text("utf-8")))

    def solved(self, plan: Plan) -> BlockWeights:
        """Return the weights that the search finds for a plan's LoRA: the subject kept, all else dropped."""
        path = self.folder / f"solved-{plan.file_stem}.json"
        if not path.exists():
            prompts, drop = self.experiment.search(self.subject)
            asked = build_solve_request(
                self.network(plan),
                prompts=prompts,
                keep=Feature(word=self.subject),
                drop=drop,
                budget=SOLVED,
                seeds=SEARCHED,
            )
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(solve(self.model, asked).best.weights.to_json()), "utf-8")
        return BlockWeights.from_json(json.loads(path.read_text("utf-8")))


def path_of(work: Path, moved: bool, cell: Mapping[str, Any]) -> Path:
    """Return the file of a cell; `moved`: of a LoRA on the second model."""
    place = work / ("moved" if moved else "cells") / cell["experiment"] / f"{cell['subject']}-{cell['seed']}"
    return place / f"{cell['arm'].replace(' ', '-')}.json"
