"""What a run says while it goes on: rows of its metrics, and notices; from the first process alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lib_blocktrain.training import records
from lib_blocktrain.training.distributed import Processes
from lib_blocktrain.training.preparation import TrainingData
from lib_blocktrain.training.runs import Run
from lib_blocktrain.training.train_state import TrainState
from lib_blocktrain.training.wandb_events import WandbEvents

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]


class RunReport:
    """Writes to the run's folder and calls `report` with every row, with `notice`, and with `encoded` and `of`."""

    def __init__(self, run: Run, processes: Processes, report: Report | None):
        self._run, self._is_first, self._report = run, processes.is_first, report
        self._write_events = records.event_writer(run.folder / "tensorboard") if processes.is_first else None
        self._wandb: WandbEvents | None = None

    def __enter__(self) -> RunReport:
        """Begin the run's session in wandb, if it asks for one; raises ConfigError where that package is missing."""
        if self._is_first and self._run.config.wandb:
            self._wandb = WandbEvents(self._run)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._wandb is not None:
            self._wandb.close()
            self._wandb = None

    def note(self, row: Mapping[str, Any]) -> None:
        """Write a row of the metrics."""
        if self._is_first:
            timed = records.timed(dict(row))
            self._run.add_metrics(timed)
            if self._write_events is not None:
                self._write_events(timed)
            if self._wandb is not None:
                self._wandb.write(timed)
            self.tell(timed)

    def notice(self, text: str) -> None:
        """Log and report something that the user should know."""
        if self._is_first:
            log.warning("%s", text)
            self.tell({"notice": text})

    def tell(self, row: Mapping[str, Any]) -> None:
        """Report what is not recorded."""
        if self._report is not None and self._is_first:
            self._report(row)


def about(train_state: TrainState, data: TrainingData) -> dict[str, Any]:
    """Return what is recorded at the start: the modules by block, the number of parameters, the dataset, the steps."""
    modules = Counter(planned.block for planned in train_state.plan.modules)
    numbers = sum(parameter.numel() for parameter in train_state.parameters)
    return {"modules": dict(modules), "parameters": numbers, "dataset": data.dataset.describe(), "steps": data.steps}
