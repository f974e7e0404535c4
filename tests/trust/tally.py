"""The counts of the trust tests, their required minimums, and the limits of a case."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from lib_blocktrain.files import error_text


@dataclass(frozen=True)
class Scale:
    """How much is tried: the defaults are the fast part, `run.py` asks for the long one."""

    examples: int = 60  # of each kind of input, made at random
    kills: int = 2
    rounds: int = 10  # operations on each layout's model
    steps: int = 300  # of a long training
    requests: int = 6  # of each client under load
    seconds: int = 5  # of each reader's inputs by atheris


@dataclass
class Case:
    """One thing that was tried; `fault`: something was wrong on purpose, and it was survived."""

    fault: bool = False


@dataclass
class Row:
    cases: int = 0
    survived: int = 0
    lost: int = 0


@dataclass
class Tally:
    """Cases tried, faults survived, and lost: a case in which something broke, went missing or was not said."""

    scale: Scale = field(default_factory=Scale)
    rows: dict[str, Row] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)  # sentences with figures

    @contextmanager
    def case(self, name: str, fault: bool = False) -> Iterator[Case]:
        row, case = self.rows.setdefault(name, Row()), Case(fault)
        row.cases += 1
        try:
            yield case
        except BaseException:
            row.lost += 1
            raise
        row.survived += case.fault

    def lines(self) -> list[str]:
        """The table."""
        total = Row(*(sum(getattr(row, name) for row in self.rows.values()) for name in ("cases", "survived", "lost")))
        rows = [*sorted(self.rows.items()), ("in all", total)]
        head = f"{'':<44}{'cases tried':>13}{'faults survived':>17}{'lost':>6}"
        table = [f"{name:<44}{row.cases:>13}{row.survived:>17}{row.lost:>6}" for name, row in rows]
        return [head, *table, *self.measured]


def refused(function: Callable[[], object], *named: str) -> str | None:
    """What was said against an input, None if it was taken. Any other error than ours goes through: it is a crash.

    The message must name what it is about, and stay readable.
    """
    try:
        function()
    except (ValueError, OSError) as error:
        message = error_text(error)
    else:
        return None
    assert message.strip(), "it says nothing"
    assert len(message) < 3000, f"{len(message)} characters: {message[:300]}"
    for name in named:
        assert name in message, f"{message!r} does not name {name!r}"
    return message


def fuzz(strategy: SearchStrategy, check: Callable[[object], None], examples: int) -> None:
    """Check examples of a strategy, always the same ones."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value: object) -> None:
        check(value)

    run()


@contextmanager
def bounded(seconds: float = 5.0, mib: float = 300.0) -> Iterator[None]:
    """Fail if what is done here takes more processor time, or more memory at once, than this."""
    _forget_peak()
    before, started = _peak(), time.process_time()
    yield
    used, grown = time.process_time() - started, _peak() - before
    assert used < seconds, f"{used:.1f} seconds of the processor"
    assert grown < mib, f"{grown:.0f} MiB"


def _forget_peak() -> None:
    """Let the kernel measure the peak anew, where it can (Linux)."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        try:
            place.write_text("5")
        except OSError:
            return


def _peak() -> float:
    """Most memory used so far, MiB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
