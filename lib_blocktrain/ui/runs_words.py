"""What the page says of a run's state: in the list, in the action bar, in its header and in its log.

All of it follows from the status alone, so that no two places contradict each other, and nothing stays behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from lib_blocktrain.runner import Status
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.ui import html
from lib_blocktrain.ui.history import History
from lib_blocktrain.weights.block_weights import number

KINDS = {  # how a state is drawn
    "preparing": "run",
    "training": "run",
    "pausing": "run",
    "stopping": "run",
    "running elsewhere": "run",
    "waiting": "wait",
    "paused": "wait",
    "finished": "done",
    "stopped": "stop",
    "broken off": "stop",
    "failed": "bad",
    "diverged": "bad",
}
STATES = {"diverged": "failed", "broken off": "interrupted"}  # said otherwise than they are called


def kind(status: Status) -> str:
    """How the state is drawn: "run", "wait", "done", "stop" or "bad"."""
    return KINDS.get(status.state, "stop")


def state(status: Status) -> str:
    """The state in one or two words."""
    return STATES.get(status.state, status.state)


def short(status: Status) -> str:
    """The state as the list says it."""
    if status.state == "training" and status.seconds_left is not None and status.seconds_a_step:
        return f"training · {html.clock(status.seconds_left)} left"
    if status.state == "waiting" and status.place is not None:
        where = "next" if status.place == 1 else f"number {status.place}"
        return f"waiting · {where}"
    return state(status)


@dataclass(frozen=True)
class Line:
    """The line of the action bar: `kind` is "busy", "good", "bad" or "info"; `share` of the steps while it is busy."""

    kind: str
    strong: str
    text: str
    share: float | None = None

    def html(self) -> Markup:
        bar = "" if self.share is None else Markup('<span class="blocktrain-prog"><i style="width:{:.1f}%"></i></span>')
        role = "alert" if self.kind == "bad" else "status"
        return Markup(
            '<div class="blocktrain-msg blocktrain-is-{}" role="{}">{}<span><b>{}</b> {}</span></div>'
        ).format(self.kind, role, bar and bar.format(100 * (self.share or 0)), self.strong, self.text)


def line(status: Status, held: bool) -> Line:
    """What is going on with a run, and what can be done about it."""
    name, at = status.title, f"step {status.step}/{status.steps}"
    share = status.step / max(status.steps, 1)
    kept = _kept(status)
    if status.state == "preparing":
        encoded = status.encoded
        doing = f"encoding picture {encoded[0]} of {encoded[1]}" if encoded else "waiting for the model"
        return Line("busy", name, f"· prepares: {doing}", share if status.step else 0.0)
    if status.state == "training":
        return Line("busy", name, f"· {' · '.join([at, *_speed(status)])}", share)
    if status.state in ("pausing", "stopping"):
        after = "is saved after this step, then waits" if status.state == "pausing" else "ends after this step"
        reason = f" ({status.reason})" if status.reason else ""
        return Line("busy", name, f"{after}{reason}", share)
    if status.state == "running elsewhere":
        return Line("info", name, f"is trained by another process: {at}")
    if status.state == "waiting":
        return Line("info", f"{name} waits:", _waiting(status, held))
    if status.state == "paused":
        reason = f" {status.reason}." if status.reason else ""
        return Line("info", f"{name} is paused at {at}.", f"{kept} Resume goes on as if it had not stopped.{reason}")
    if status.state == "finished":
        saved = f"saved among the LoRAs as {status.published}" if status.published else "its LoRA is in its folder"
        steps = (
            f"{status.step} of {status.steps} steps, since {status.early}" if status.early else f"{status.steps} steps"
        )
        return Line("good", f"{name} finished.", f"{steps} · {saved}")
    if status.state in ("failed", "diverged"):
        return Line(
            "bad", f"{name} failed at step {status.step}:", f"{status.reason or 'the console says why'}. {kept}"
        )
    if status.state == "broken off":
        return Line("info", f"{name} was interrupted at {at}:", f"the program ended. {kept}")
    return Line("info", f"{name} was stopped at {at}.", kept)


def nothing(damaged: bool) -> Line:
    """The line while no run can be shown; `damaged`: there are some that cannot be read."""
    if damaged:
        return Line("bad", "", "No run can be read: choose one in the list to see why.")
    return Line("info", "", "No run yet.")


def unreadable(name: str, why: str) -> Line:
    """The line of a run that cannot be read."""
    return Line("bad", f"{name} cannot be read:", why)


def _kept(status: Status) -> str:
    """What is left of a run that is not finished."""
    if status.saved_step is None:
        return "Nothing was saved: Resume begins at step 0."
    return f"Saved at step {status.saved_step}."


def _speed(status: Status) -> list[str]:
    if not status.seconds_a_step:
        return []
    rate = 1 / status.seconds_a_step
    pace = f"{rate:.1f} steps/s" if rate >= 1 else f"{status.seconds_a_step:.1f} s a step"
    return [pace, f"{html.clock(status.seconds_left)} left"]


def _waiting(status: Status, held: bool) -> str:
    if status.place is None:
        return "it is not in the queue"
    where = "it is the next one" if status.place == 1 else f"{status.place - 1} before it"
    return f"{where}; the queue has not been started" if held else where


def resume_label(status: Status) -> str:
    """The words of the button that goes on with a run."""
    if status.saved_step is not None and status.state not in ("waiting", "diverged"):
        return f"Resume from step {status.saved_step}"
    return "Resume"


def facts(config: RunConfig, history: History) -> str:
    """The settings of a run in one line."""
    network = config.network
    parts = [
        f"rank {network.rank}" if network.algorithm == "lora" else f"{network.algorithm} of rank {network.rank}",
        f"batch {config.batch}",
        f"rate {number(config.optimizer.rate)} {config.schedule.name}",
    ]
    if config.optimizer.name != "AdamW":
        parts.append(config.optimizer.name)
    if network.weight_mode != "scale":
        parts.append(f"weights scale {network.weight_mode}")
    if history.pictures:
        parts.append(f"{history.pictures} pictures")
    return " · ".join(parts)


def head(status: Status, config: RunConfig, history: History) -> Markup:
    """The header of a run: its title, its state, its settings, and what is to be known about it."""
    notes = Markup('<p class="blocktrain-run-notes">{}</p>').format(status.notes) if status.notes else ""
    memory = f" · {status.memory_mib:,.0f} MiB at most" if status.memory_mib is not None else ""
    return Markup(
        '<div class="blocktrain-run-h" data-state="{state}" data-step="{step}" data-run="{folder}">'
        '<h1 title="{folder}">{title}</h1><span class="blocktrain-pill blocktrain-is-{kind}">{words}</span>'
        '<span class="blocktrain-of">{facts}{memory}</span></div>{notes}{notices}'
    ).format(
        state=status.state,
        step=status.step,
        folder=status.name,
        title=status.title,
        kind=kind(status),
        words=state(status),
        facts=facts(config, history),
        memory=memory,
        notes=notes,
        notices=Markup("").join(html.note(notice) for notice in status.notices),
    )
