"""How a run stands, as everybody is told who looks at it. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

ACTIVE_STATES = ("preparing", "training", "pausing", "stopping")
RESUMABLE_STATES = (
    "paused",
    "stopped",
    "failed",
    "diverged",
    "broken off",
    "waiting",
)


def _about(text: str, **options: Any) -> Any:
    return field(metadata={"about": text}, **options)


@dataclass(frozen=True)
class Status:
    """How a run stands.

    "broken off" is a run that ended with the program, "running elsewhere" one that another process trains.
    """

    name: str
    state: str = _about(", ".join((*ACTIVE_STATES, *RESUMABLE_STATES, "finished", "running elsewhere")))
    step: int
    steps: int
    loss: float | None = None
    smoothed: float | None = None
    lr: float | None = None
    seconds_a_step: float | None = None
    memory_mib: float | None = None
    encoded: tuple[int, int] | None = _about("pictures that are ready, and of how many", default=None)
    reason: str = _about("why it failed or paused", default="")
    notices: tuple[str, ...] = ()
    published: str | None = _about("the network file in the LoRA folder", default=None)

    @property
    def is_active(self) -> bool:
        """Whether it is being trained now."""
        return self.state in ACTIVE_STATES

    @property
    def seconds_left(self) -> float | None:
        """What is left at the speed so far."""
        return None if self.seconds_a_step is None else (self.steps - self.step) * self.seconds_a_step

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds_left": self.seconds_left}
