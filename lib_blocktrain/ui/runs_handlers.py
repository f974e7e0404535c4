"""The handlers of the Runs tab: show the runs while they are trained, and control them. They know no widgets.

The page polls (`javascript/blocktrain_runs.js`), one request at a time, and gets only the widgets that have changed: it
sends digests of what it shows, kept in `runs_shown`. What the page wants is in two hidden boxes: `runs_chosen`, the
name of the run shown, and `runs_ask`, JSON: `other`, a second run; `file`, what Preview is to open; `inline`, whether
samples are to come as data, since the browser may not fetch them; `do`, a command (`act`).
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from markupsafe import Markup

from lib_blocktrain.hosts.host import Host, NoModel
from lib_blocktrain.runner import RESUMABLE_STATES, Runner, Status, published_copy
from lib_blocktrain.training.config import dumps
from lib_blocktrain.training.plan import changed_weights
from lib_blocktrain.training.result import publish
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import html, runs_data, runs_words
from lib_blocktrain.ui.history import HistoryReader
from lib_blocktrain.ui.lora_controls import LoraControls, error_to, selection_of
from lib_blocktrain.ui.runs_data import Weighed
from lib_blocktrain.ui.runs_pictures import inline
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.values import Changes, Properties, RunsValues
from lib_blocktrain.workspace.lora_selection import LoraEntry

SHOWN_RUNS = 200  # the newest
CACHED_HISTORIES = 4  # of the runs that were shown last
RESULT = "result"  # the choice of the run's final file, beside its checkpoints
POLL_TRAINING, POLL_IDLE = 1500, 5000  # milliseconds to the next poll
LARGEST_ASK = 20_000  # characters
RUN_PARTS = ("runs_head", "runs_curves", "runs_blocks", "runs_events", "runs_saved")  # what is shown of one run
BUTTONS = ("pause", "stop_save", "stop", "resume", "again", "preview", "weigh")


def asked(values: RunsValues) -> dict[str, object]:
    """What the page's script asks for besides the run; empty for anything that it does not write."""
    text = values["runs_ask"] or ""
    try:
        found = json.loads(text) if len(text) <= LARGEST_ASK else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class RunsHandlers:
    """Show the host's runs and their progress; stop, pause and resume them; send them to the other tabs."""

    def __init__(self, host: Host, controls: LoraControls, runner: Runner, training: TrainHandlers):
        self.host, self.controls, self.runner, self.training = host, controls, runner, training
        self._reader = functools.lru_cache(maxsize=CACHED_HISTORIES)(HistoryReader)
        self._weights: dict[Path, tuple[Run, str | None, Weighed | None]] = {}  # by folder, of a run and a model

    # --- showing --------------------------------------------------------------------------------------------------

    def open(self, values: RunsValues) -> Changes:
        """Fill a page that was just loaded: all widgets are sent."""
        return self._changes(values, {})

    def poll(self, values: RunsValues) -> Changes:
        """The changes since the last response to this page."""
        return self._changes(values, values["runs_shown"])

    def _changes(self, values: RunsValues, digests: Mapping[str, str]) -> dict[str, object]:
        """The widgets whose digests differ, and the digests of all."""
        chosen = values["runs_chosen"]
        name, run = self._shown(chosen)
        contents = self._contents(name, run, asked(values))
        current = {name: hashlib.sha256(repr(content).encode()).hexdigest()[:16] for name, content in contents.items()}
        changes = {name: content for name, content in contents.items() if digests.get(name) != current[name]}
        current["run"], current["state"] = name, self.runner.status(run).state if run else ""
        if any(digests.get(part) != current[part] for part in ("run", "state")):
            changes["runs_message"] = ""  # it was said of another run, or of a state that has passed
        if digests.get("run") != name:
            changes |= _weights_of(run)
        if name != chosen:
            changes["runs_chosen"] = name
        if chosen and name != chosen:
            changes["runs_message"] = html.failure(f"There is no run {chosen!r} any more")
        wait = POLL_IDLE if self.runner.current is None else POLL_TRAINING
        beat = Markup('<span data-beat="{}" data-next="{}"></span>').format(time.monotonic_ns(), wait)
        return {**changes, "runs_shown": {**digests, **current}, "runs_beat": beat}

    def _shown(self, chosen: str | None) -> tuple[str, Run | None]:
        """The name and the run to show: the selected one, None if it cannot be read; in training; or the newest."""
        try:
            run: Run | None = self.runner.find(chosen or "")
        except (ValueError, OSError):
            if chosen in self.runner.damaged():
                return chosen, None
            run = self.runner.current or next(iter(self.runner.runs()), None)
        return (run.folder.name if run else ""), run

    def _contents(self, name: str, run: Run | None, ask: Mapping[str, object]) -> dict[str, object]:
        """The contents of all widgets, showing this run; without one, why the run of this name cannot be read."""
        runs, held = self.runner.runs()[:SHOWN_RUNS], self.runner.held
        if run is not None and run.folder not in [other.folder for other in runs]:
            runs.append(run)
        loaded = self._loaded()
        state = self.runner.status(run).state if run is not None else ""
        startable = held and bool(self.runner.queue()) and state != "paused"  # of a paused run the button is Resume
        shown = sorted(((other, self.runner.status(other)) for other in runs), key=lambda pair: _order(pair[1]))
        rows = [runs_data.row(other, status, self._weighed(other, loaded)) for other, status in shown]
        listed = {other.folder.name for other in runs}
        damaged = {name: why for name, why in self.runner.damaged().items() if name not in listed}
        rows += [runs_data.damaged_row(name, why) for name, why in damaged.items()]
        line = runs_words.unreadable(name, damaged[name]) if name in damaged else runs_words.nothing(bool(damaged))
        return {
            "runs_table": runs_data.data({"chosen": name, "held": held, "runs": rows}),
            "runs_begin": Properties(visible=startable, variant="primary" if state == "waiting" else "secondary"),
            "runs_other": self._other_contents(run, ask, loaded),
            **(self._run_contents(run, ask, loaded) if run else _no_run_contents(line)),
        }

    def _run_contents(self, run: Run, ask: Mapping[str, object], loaded: str | None) -> dict[str, object]:
        status, history = self.runner.status(run), self._reader(run.metrics_path).read()
        files = _files(run, status)
        curves = runs_data.curves(run, status, history)
        if ask.get("inline") is True:
            curves["pictures"] = inline(run, history)
        return {
            "runs_state": runs_words.line(status, self.runner.held).html(),
            "runs_head": runs_words.head(status, run.config, history),
            "runs_curves": runs_data.data(curves),
            "runs_blocks": runs_data.data(runs_data.blocks(status, history, self._weighed(run, loaded))),
            "runs_events": runs_data.data(runs_data.log(history)),
            "runs_saved": runs_data.data({"name": status.name, "files": files, "json": dumps(run.config)}),
            **_buttons(status, self.runner.held, can_preview=bool(files)),
        }

    def _other_contents(self, run: Run | None, ask: Mapping[str, object], loaded: str | None) -> Markup:
        """The curves of the second run of a comparison; nothing without one."""
        try:
            other = self.runner.find(str(ask.get("other", "")))
        except ValueError:
            return Markup("")
        if run is None or other.folder == run.folder:
            return Markup("")
        history = self._reader(other.metrics_path).read()
        curves = runs_data.curves(other, self.runner.status(other), history)
        if ask.get("inline") is True:
            curves["pictures"] = inline(other, history)
        return runs_data.data(curves)

    def _loaded(self) -> str | None:
        """The architecture of the loaded model; None without one."""
        try:
            return self.host.model().architecture
        except NoModel:
            return None

    def _weighed(self, run: Run, loaded: str | None) -> Weighed | None:
        known = self._weights.get(run.folder)
        if known is None or known[0] is not run or known[1] != loaded:
            known = self._weights[run.folder] = run, loaded, runs_data.weighed(run.config.network, loaded)
        return known[2]

    # --- what a person says of the runs, and their order ------------------------------------------------------------

    def act(self, values: RunsValues) -> Changes:
        """Carry out the command in `runs_ask`: `{"what": "title" | "notes" | "move" | "delete", "run": name, ...}`.

        The answer to one that is refused is a poll's, too: until it is there, the page asks for nothing else.
        """
        try:
            values, message = self._carry_out(values), Markup("")
        except (ValueError, OSError, RuntimeError) as error:
            message = html.failure(str(error))
        return {**self.poll(values), "runs_message": message}

    def _carry_out(self, values: RunsValues) -> RunsValues:
        """Carry out a command; return the values, without the selected run where that was deleted."""
        command = asked(values).get("do")
        if not isinstance(command, dict):
            raise ValueError("no command was given")
        what, run = command.get("what"), self.runner.find(str(command.get("run", "")))
        if what in ("title", "notes"):
            text = str(command.get("text", "")).strip()
            self.runner.set_about(run, **{what: text})
        elif what == "move":
            place = command.get("place")
            if not isinstance(place, int):
                raise ValueError(f"place {place!r}: expected a whole number")
            self.runner.move(run, place)
        elif what == "delete":
            self.runner.delete(run)
            if values["runs_chosen"] == run.folder.name:
                return {**values, "runs_chosen": ""}
        else:
            raise ValueError(f"{what!r}: expected title, notes, move or delete")
        return values

    # --- controlling ----------------------------------------------------------------------------------------------

    @error_to("runs_message")
    def stop(self, values: RunsValues) -> Changes:
        """End the selected run, or take it out of the queue; what was saved last is kept."""
        return self._command(values, lambda run: self.runner.stop(run, save=False))

    @error_to("runs_message")
    def stop_and_save(self, values: RunsValues) -> Changes:
        """Save the selected run and end it."""
        return self._command(values, self.runner.stop)

    @error_to("runs_message")
    def pause(self, values: RunsValues) -> Changes:
        """Save the run in training, release the model, and hold the queue."""
        return self._command(values, self._pause)

    @error_to("runs_message")
    def resume(self, values: RunsValues) -> Changes:
        """Put the selected run back into the queue; it continues from what was saved last."""
        return self._command(values, self.runner.resume)

    def _command(self, values: RunsValues, command: Callable[[Run], object]) -> Changes:
        """Apply a command to the selected run. The new state says what it did: a sentence of its own would stay."""
        command(self._chosen_run(values))
        return {**self.poll(values), "runs_message": ""}

    def _pause(self, run: Run) -> None:
        status = self.runner.status(run)
        if not status.is_active:
            raise ValueError(f"{status.title} is {runs_words.state(status)}: there is nothing to pause")
        self.runner.pause()

    @error_to("runs_message")
    def start_queue(self, values: RunsValues) -> Changes:
        """Start the queued runs."""
        self.runner.begin()
        return {**self.poll(values), "runs_message": ""}

    @error_to("runs_weigh_message")
    def set_weights(self, values: RunsValues) -> Changes:
        """Change the block weights of the run in training."""
        run = self._chosen_run(values)
        architecture = self.host.model().architecture
        parsed = self.controls.presets.parse(values["runs_weights"] or "", architecture)
        self.runner.set_weights(run, parsed.weights)
        message = "; ".join([f"{parsed.form}: from the next step on", *parsed.notices])
        return {"runs_weigh_message": html.note(message)}

    @error_to("runs_weigh_message")
    def from_sliders(self, values: RunsValues) -> Changes:
        """Take the weights that the sliders of Preview show."""
        weights = selection_of(values).shown.blocks_alone(self.host.model().architecture)
        return {"runs_weights": weights.to_line(with_architecture=True)}

    def _chosen_run(self, values: RunsValues) -> Run:
        if not values["runs_chosen"]:
            raise ValueError("no run is chosen: choose one in the list")
        return self.runner.find(values["runs_chosen"])

    # --- to the other tabs ----------------------------------------------------------------------------------------

    @error_to("runs_message")
    def to_training(self, values: RunsValues) -> Changes:
        """Fill the training form with the settings of the selected run, and the weights that it has now."""
        run = self._chosen_run(values)
        message = f"The run {run.folder.name}: change what you like, then press Start"
        changes = self.training.filled_as_trained(run.config, run.latest("weights"), message)
        return {**changes, "tabs": Properties(selected="Train")}

    @error_to("runs_message")
    def to_preview(self, values: RunsValues) -> Changes:
        """Select only the run's LoRA in Preview, at weight 1 everywhere: the run's block weights are inside the file.

        It is first copied into the LoRA folder, unless it is there: so is the result of a finished run.
        """
        run, title, folder = self._chosen_run(values), _asked_file(values), self.host.lora_dirs[0].resolve()
        name = self._result_name(run) if title == RESULT else self._copy(self._checkpoint(run, title))
        self.controls.lora_index.refresh()
        files = (file for file in self.controls.lora_index.files() if file.path.name == name)
        file = next((file for file in files if file.path.parent.resolve() == folder), None)
        if file is None:
            raise ValueError(f"{name} is no longer in {folder}")
        changes = self.controls.use_exactly({file.key: LoraEntry()})
        return {**changes, "tabs": Properties(selected="Preview"), "status": html.changed_elsewhere(file.key)}

    def _result_name(self, run: Run) -> str:
        """The name of the run's result in the LoRA folder; where that is gone or replaced it is copied anew."""
        status, folder = self.runner.status(run), self.host.lora_dirs[0]
        if status.published is None:
            raise ValueError(f"{status.name} has no LoRA yet: wait until it has finished, or press “Stop and save”")
        copy = published_copy(run, folder)
        if copy is not None:
            return copy.name
        if run.result.is_file():
            return self._copy(run.result)
        instead = ": the file of that name is another one" if (folder / status.published).exists() else ""
        raise ValueError(f"the LoRA of {status.name}, {status.published}, is no longer in {folder}{instead}")

    def _checkpoint(self, run: Run, title: str) -> Path:
        path = next((path for path in run.checkpoints() if _title(path) == title), None)
        if path is None:
            known = ", ".join(_files(run, self.runner.status(run)))
            raise ValueError(f"{run.folder.name} has no {title[:40]!r} any more: expected one of {known}")
        return path

    def _copy(self, path: Path) -> str:
        """Copy a run's file into the LoRA folder, unless the same file is there already; return its name."""
        folder, contents = self.host.lora_dirs[0], path.read_bytes()
        there = [folder / path.name, *sorted(folder.glob(f"{glob.escape(path.stem)}-*{path.suffix}"))]
        for other in there:  # one of a run of the same name has the name itself, and this one a number after it
            if other.is_file() and other.stat().st_size == len(contents) and other.read_bytes() == contents:
                return other.name
        published = publish(path, folder)
        self.host.refresh_loras()
        return published.name


def _order(status: Status) -> tuple[int, int]:
    """The run in training first, then those that wait in their order, then the others, as they are."""
    return (0, 0) if status.is_active else (1, status.place) if status.place is not None else (2, 0)


def _weights_of(run: Run | None) -> dict[str, object]:
    """The block weights that a run has now: those of its configuration, where they are text, or set since."""
    given = run.config.network.weights if run else ""
    changed = changed_weights(run.config.network, run.latest("weights")) if run else None
    message = html.note("These weights were set during training") if changed else ""
    return {"runs_weights": changed or (given if isinstance(given, str) else ""), "runs_weigh_message": message}


def _asked_file(values: RunsValues) -> str:
    return str(asked(values).get("file") or RESULT)


def _no_run_contents(line: runs_words.Line) -> dict[str, object]:
    parts = {**dict.fromkeys(RUN_PARTS, Markup("")), "runs_state": line.html()}
    return {**parts, **_buttons(None, held=False)}


def _title(path: Path) -> str:
    """The name of a checkpoint in the menu, such as "step 250"."""
    return f"step {int(path.stem[-6:])}" if path.stem[-6:].isdigit() else path.stem


def _files(run: Run, status: Status) -> list[str]:
    """The choices of the menu of files: the result if there is one, then the checkpoints, newest first."""
    return [*([RESULT] if status.published else []), *map(_title, reversed(run.checkpoints()))]


def _buttons(status: Status | None, held: bool, can_preview: bool = False) -> dict[str, Properties]:
    """The buttons of the bar: those that apply to the run shown are there, and the likeliest one is the primary."""
    state = "" if status is None else status.state
    training, waiting = state in ("preparing", "training"), state in ("waiting", "paused")
    resumable = state in RESUMABLE_STATES and (state != "waiting" or status is None or status.place is None)
    done = state == "finished"
    resume = "Resume" if status is None else runs_words.resume_label(status)
    return {
        "runs_pause": Properties(visible=training),
        "runs_stop_save": Properties(visible=training),
        "runs_stop": Properties(visible=training or waiting, value="Take out" if waiting else "Stop"),
        "runs_resume": Properties(visible=resumable, value=resume),
        "runs_again": Properties(interactive=status is not None),
        "runs_preview": Properties(interactive=can_preview, variant="primary" if done and can_preview else "secondary"),
        "runs_weigh": Properties(interactive=state == "training"),
    }
