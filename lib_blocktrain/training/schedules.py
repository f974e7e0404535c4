"""Learning rate schedules: factors of the rate, as functions of the step alone, so that there is nothing to save."""

from __future__ import annotations

import math

from lib_blocktrain.training.config import ScheduleConfig


def _constant(progress: float, cycles: int) -> float:
    return 1.0


def _linear(progress: float, cycles: int) -> float:
    return 1 - progress


def _cosine(progress: float, cycles: int) -> float:
    """Loshchilov & Hutter 2016 (1608.03983), without restarts."""
    return (1 + math.cos(math.pi * progress)) / 2


def _restarts(progress: float, cycles: int) -> float:
    """Cosine with warm restarts (1608.03983, eq. 5)."""
    return (1 + math.cos(math.pi * (cycles * progress % 1))) / 2 if progress < 1 else 0.0


CURVES = {"constant": _constant, "linear": _linear, "cosine": _cosine, "cosine_with_restarts": _restarts}


def factor_at(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """Return the factor of the learning rate for step 0, 1, ... of `steps`: warm-up, then the curve."""
    if step < schedule.warmup:
        return (step + 1) / (schedule.warmup + 1)
    progress = (step - schedule.warmup) / max(1, steps - schedule.warmup)
    curve = CURVES[schedule.name](min(progress, 1.0), schedule.cycles)
    return schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * curve
