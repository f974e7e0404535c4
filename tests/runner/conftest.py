"""Runs are trained on the model of the training tests."""

from tests.training.conftest import config, model, pictures, train

__all__ = ["config", "model", "pictures", "train"]
