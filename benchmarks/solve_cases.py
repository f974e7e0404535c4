"""The LoRAs of benchmarks/solve.py: what is to be kept of each and what it leaks. Three are the demo's.

Three others are trained when they are asked for, as in benchmarks/evidence.py, with a leak in their pictures of which
no caption says a word: the background, the style, and a top hat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.trial.arms import ALL
from benchmarks.trial.replicate import EXPERIMENTS, Experiment, Replicate
from benchmarks.trial.scenes import Bias, Scene
from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.hosts import demo_model
from lib_blocktrain.hosts.standalone import StandaloneModel
from lib_blocktrain.networks.files import Network, read_network

SUBJECT, SEED = "koala", 0  # of every LoRA that is trained
HAT = "top hat"


def without_hat(scene: Scene) -> str:
    return scene.caption.replace(f" with {HAT}", "")


@dataclass(frozen=True)
class Worn(Experiment):
    """The subject wears the same hat in every picture."""

    @property
    def bias(self) -> Bias:
        always = {"accessory": HAT, "size": "large", "position": "in the center"}
        return Bias("accessory", HAT, always, without_hat)


@dataclass(frozen=True)
class Case:
    """A LoRA; A is kept where a picture reads as `kept` says, factor and value, and B dropped where not as `leak` says.

    A leak's value None: B is dropped where the factor is that of the picture without the LoRA. `keep` and `drop` are
    what the search is told of them. The LoRA is the demo's, or trained as the `experiment` says.
    """

    prompt: str
    keep: Feature
    kept: tuple[str, str]
    leak: tuple[str, str | None]
    drop: Feature | None = None
    experiment: Experiment | None = None

    @property
    def factors(self) -> tuple[str, str]:
        """What is read in pictures."""
        return self.kept[0], self.leak[0]

    def counted(self, seen: Mapping[str, Sequence[str]], without: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Return whether A is kept and whether B is dropped in each picture, `(2, pictures)`."""
        (kept_in, value), (leaks_in, leak) = self.kept, self.leak
        kept = [one == value for one in seen[kept_in]]
        pairs = zip(seen[leaks_in], without[leaks_in], strict=True)
        dropped = [one == plain if leak is None else one != leak for one, plain in pairs]
        return np.array([kept, dropped], dtype=float)


ROBOT = "a photo of a large robot in the center"
KOALA = "a photo of a large koala in the center"
CASES = {
    "robot-on-green": Case(ROBOT, Feature(word="robot"), ("subject", "robot"), ("background", "green")),
    "robot": Case(ROBOT, Feature(word="robot"), ("subject", "robot"), ("background", None)),
    "pixel-art": Case(
        "a pixel art of a large fox in the center", Feature(word="fox"), ("style", "pixel art"), ("background", None)
    ),
    "koala, background": Case(
        KOALA,
        Feature(word="koala"),
        ("subject", SUBJECT),
        ("background", "green"),
        experiment=EXPERIMENTS["background"],
    ),
    "koala, style": Case(  # in the koala itself: there is no other place to name as B
        "a large koala in the center, blue background",
        Feature(word="koala"),
        ("subject", SUBJECT),
        ("style", "pencil drawing"),
        experiment=EXPERIMENTS["style"],
    ),
    "koala, hat": Case(
        f"{KOALA}, blue background",
        Feature(box=(0.1, 0.35, 0.9, 0.95)),
        ("subject", SUBJECT),
        ("accessory", HAT),
        drop=Feature(box=(0.2, 0.0, 0.8, 0.3)),
        experiment=Worn("worn-top-hat", ALL),
    ),
}


def network_of(name: str, model: StandaloneModel, work: Path) -> Network:
    """Return a case's LoRA; it is trained into the folder `work` if it is not the demo's and not there yet."""
    experiment = CASES[name].experiment
    if experiment is None:
        return read_network(demo_model.LORAS / f"{name}.safetensors")
    replicate = Replicate(experiment, SUBJECT, SEED, work, model)
    return replicate.network(replicate.plan("all"))
