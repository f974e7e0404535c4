"""The status of a run, for the page, the API and the command line. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

ACTIVE_STATES = ("preparing", "training", "pausing", "stopping")
RESUMABLE_STATES = ("paused", "stopped", "failed", "diverged", "broken off", "waiting")
_STATES = (*ACTIVE_STATES, *RESUMABLE_STATES, "finished", "running elsewhere")


@dataclass(frozen=True)
class Status:
    """The status of a run.

    "broken off" is a run that ended with the program, "running elsewhere" one that another process trains.
    """

    name: str
    state: str = field(metadata={"about": ", ".join(_STATES)})
    step: int
    steps: int = field(metadata={"about": "0 for a run of epochs whose pictures are not counted yet"})
    loss: float | None = None
    smoothed: float | None = None
    lr: float | None = None
    seconds_a_step: float | None = None
    memory_mib: float | None = None
    encoded: tuple[int, int] | None = field(
        default=None, metadata={"about": "pictures that are ready, and of how many"}
    )
    reason: str = field(default="", metadata={"about": "why it failed or paused"})
    notices: tuple[str, ...] = ()
    published: str | None = field(default=None, metadata={"about": "the network file in the LoRA folder"})
    title: str = field(default="", metadata={"about": "what it is called in lists; its name stays"})
    notes: str = ""
    place: int | None = field(default=None, metadata={"about": "among the runs that wait, 1 for the next one"})
    early: str = field(default="", metadata={"about": "why it was finished before its last step"})
    saved_step: int | None = field(default=None, metadata={"about": "the step of the last save of the whole state"})

    @property
    def is_active(self) -> bool:
        """Whether it is being trained now."""
        return self.state in ACTIVE_STATES

    @property
    def seconds_left(self) -> float | None:
        """Seconds that are left at the speed so far."""
        return None if self.seconds_a_step is None else (self.steps - self.step) * self.seconds_a_step

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds_left": self.seconds_left}
