"""A run's numbers and samples for Weights & Biases (wandb), where the run asks for it. The package is imported then."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from lib_blocktrain.training.config_json import ConfigError
from lib_blocktrain.training.metadata import run_without_folders
from lib_blocktrain.training.records import numbers_of
from lib_blocktrain.training.runs import Run


class WandbEvents:
    """The run in a project of wandb; its name there is that of its folder, and a resumed run goes on as the same one.

    Who is logged in is wandb's matter (`wandb login`, or WANDB_API_KEY). Raises ConfigError where there is no wandb.
    """

    def __init__(self, run: Run):
        project = run.config.wandb
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise ConfigError(
                f"wandb = {project!r}: a package that is not here ({error}): pip install wandb, then wandb login"
            ) from error
        self._run = run
        self._session = self._wandb.init(
            project=project,
            name=run.folder.name,
            id=re.sub(r"[^A-Za-z0-9_-]", "-", run.folder.name),
            resume="allow",
            dir=str(run.folder),
            config=run_without_folders(run.config),
        )
        self._session.define_metric("*", step_metric="step")  # a resumed run may begin before its last step

    def write(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row of the metrics, and its sample."""
        logged: dict[str, Any] = dict(numbers_of(row))
        name = row.get("sample")
        if isinstance(name, str):
            number = name.removesuffix(".png").split("-")[-1]
            with Image.open(self._run.folder / "samples" / name, formats=("PNG",)) as image:
                logged[f"samples/{number}"] = self._wandb.Image(image.copy(), caption=row.get("prompt"))
        if logged:
            self._session.log({**logged, "step": row["step"]})

    def close(self) -> None:
        """End the session; what is left is sent."""
        self._session.finish()
