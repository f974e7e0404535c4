"""The parts of ``demo/`` that the experiment is made of."""

from demo.classifier import FACTORS, Classifier
from demo.composites import ACCESSORIES, BACKGROUNDS, SUBJECTS, Scene, compose, draw_scene
from demo.evaluate import load_classifier

__all__ = [
    "ACCESSORIES", "BACKGROUNDS", "FACTORS", "SUBJECTS", "Classifier", "Scene", "compose", "draw_scene",
    "load_classifier",
]  # fmt: skip
