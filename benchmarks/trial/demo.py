"""The parts of ``demo/`` that the experiment is made of; its modules import each other by their bare names."""

import sys
from pathlib import Path

# Behind all others: `datasets` is the name of a package, too.
sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "demo"))

from classifier import FACTORS, Classifier
from composites import ACCESSORIES, BACKGROUNDS, SUBJECTS, Scene, compose, draw_scene
from evaluate import load_classifier

__all__ = [
    "ACCESSORIES", "BACKGROUNDS", "FACTORS", "SUBJECTS", "Classifier", "Scene", "compose", "draw_scene",
    "load_classifier",
]  # fmt: skip
