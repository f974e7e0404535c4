"""The handlers of the Runs tab: show the runs while they are trained, and control them. They know no widgets.

The page polls (`javascript/blocktrain_runs.js`), one request at a time, and gets only the widgets that have changed: it
sends digests of what it shows, kept in `runs_shown`.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from markupsafe import Markup

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.hosts.host import Host, NoModel
from lib_blocktrain.runner import RESUMABLE_STATES, Runner, Status
from lib_blocktrain.training.plan import read_weights
from lib_blocktrain.training.result import publish
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import html, runs_html
from lib_blocktrain.ui.history import History, HistoryReader
from lib_blocktrain.ui.lora_controls import LoraControls, error_to, selection_of
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.values import Changes, Properties, RunsValues
from lib_blocktrain.workspace.lora_selection import LoraEntry

SHOWN_RUNS = 40  # the newest
CACHED_HISTORIES = 4  # of the runs that were shown last
RESULT = "result"  # the choice of the run's final file, beside its checkpoints
POLL_TRAINING, POLL_IDLE = 1500, 5000  # milliseconds to the next poll
RUN_PARTS = ("runs_head", "runs_map", "runs_curves", "runs_samples", "runs_events")  # what is shown of one run
BUTTONS = ("stop_save", "stop", "pause", "resume", "again", "preview", "weigh")


class RunsHandlers:
    """Show the host's runs and their progress; stop, pause and resume them; send them to the other tabs."""

    def __init__(self, host: Host, controls: LoraControls, runner: Runner, training: TrainHandlers):
        self.host, self.controls, self.runner, self.training = host, controls, runner, training
        self._reader = functools.lru_cache(maxsize=CACHED_HISTORIES)(HistoryReader)

    # --- showing --------------------------------------------------------------------------------------------------

    def open(self, values: RunsValues) -> Changes:
        """Fill a page that was just loaded: all widgets are sent."""
        return self._changes(values["runs_chosen"], {})

    def poll(self, values: RunsValues) -> Changes:
        """The changes since the last response to this page."""
        return self._changes(values["runs_chosen"], values["runs_shown"])

    def _changes(self, chosen: str | None, digests: Mapping[str, str]) -> dict[str, object]:
        """The widgets whose digests differ, and the digests of all."""
        run = self._shown_run(chosen)
        contents = self._contents(run)
        current = {name: hashlib.sha256(repr(content).encode()).hexdigest()[:16] for name, content in contents.items()}
        changes = {name: content for name, content in contents.items() if digests.get(name) != current[name]}
        name = run.folder.name if run else ""
        if name != chosen:
            changes["runs_chosen"] = name
        wait = POLL_IDLE if self.runner.current is None else POLL_TRAINING
        beat = Markup('<span data-beat="{}" data-next="{}"></span>').format(time.monotonic_ns(), wait)
        return {**changes, "runs_shown": {**digests, **current}, "runs_beat": beat}

    def choose(self, values: RunsValues) -> Changes:
        """Show the run selected in the list."""
        name = values["runs_list"] or ""
        weights = ""
        if name:
            config = self.runner.find(name).config
            weights = config.network.weights if isinstance(config.network.weights, str) else ""
        changes = self._changes(name, values["runs_shown"])
        file = Properties(choices=_files(self._shown_run(name)), value=RESULT)
        return {**changes, "runs_chosen": name, "runs_message": "", "runs_weights": weights, "runs_file": file}

    def _shown_run(self, chosen: str | None) -> Run | None:
        """The selected run, else the one in training, else the newest."""
        try:
            return self.runner.find(chosen or "")
        except ValueError:
            return self.runner.current or next(iter(self.runner.runs()), None)

    def _contents(self, run: Run | None) -> dict[str, object]:
        """The contents of all widgets, showing this run."""
        runs, queue = self.runner.runs()[:SHOWN_RUNS], self.runner.queue()
        if run is not None and run.folder not in [other.folder for other in runs]:
            runs.append(run)
        choices = [(runs_html.label(self.runner.status(other)), other.folder.name) for other in runs]
        return {
            "runs_list": Properties(choices=choices, value=run.folder.name if run else None),
            "runs_queue": runs_html.queue(queue, self.runner.held),
            "runs_begin": Properties(visible=self.runner.held and bool(queue)),
            **(self._run_contents(run) if run else _no_run_contents()),
        }

    def _run_contents(self, run: Run) -> dict[str, object]:
        status, history, files = self.runner.status(run), self._reader(run.metrics_path).read(), _files(run)
        return {
            "runs_head": runs_html.head(status),
            "runs_map": self._map(run, history),
            "runs_curves": runs_html.curves(history),
            "runs_samples": runs_html.samples(run, history),
            "runs_events": runs_html.events(history),
            "runs_file": Properties(choices=files),
            **_buttons(status, has_checkpoints=len(files) > 1),
        }

    def _map(self, run: Run, history: History) -> Markup:
        """The U map with each block's share of the change, under the run's weights."""
        try:
            architecture = self.host.model().architecture
            weights = read_weights(run.config.network, architecture)[0]
        except (NoModel, ValueError):  # ValueError: the run is for another architecture
            return Markup("")
        known = ARCHITECTURES[architecture].block_ids
        shares = {block: share for block, share in history.shares.items() if block in known}
        shown = {block: weights[block] for block in known}
        return UMap("runs", architecture, values=shares or None, title="share of the change", weights=shown).html()

    # --- controlling ----------------------------------------------------------------------------------------------

    @error_to("runs_message")
    def stop(self, values: RunsValues) -> Changes:
        """End the selected run; what was saved last is kept."""
        return self._command(values, lambda run: self.runner.stop(run, save=False), "{} stops after this step")

    @error_to("runs_message")
    def stop_and_save(self, values: RunsValues) -> Changes:
        """Save the selected run and end it."""
        return self._command(values, self.runner.stop, "{} saves and stops after this step")

    @error_to("runs_message")
    def pause(self, values: RunsValues) -> Changes:
        """Save the run in training, release the model, and hold the queue."""
        return self._command(values, lambda run: self.runner.pause(), "{} pauses after this step")

    @error_to("runs_message")
    def resume(self, values: RunsValues) -> Changes:
        """Put the selected run back into the queue; it continues from what was saved last."""
        return self._command(values, self.runner.resume, "{} continues when it is next in the queue")

    def _command(self, values: RunsValues, command: Callable[[Run], object], message: str) -> Changes:
        """Apply a command to the selected run, and show the new state."""
        run = self._chosen_run(values)
        command(run)
        return {**self.poll(values), "runs_message": html.note(message.format(run.folder.name))}

    @error_to("runs_message")
    def start_queue(self, values: RunsValues) -> Changes:
        """Start the queued runs."""
        self.runner.begin()
        return {**self.poll(values), "runs_message": html.note("The queue has started")}

    @error_to("runs_message")
    def set_weights(self, values: RunsValues) -> Changes:
        """Change the block weights of the run in training."""
        run = self._chosen_run(values)
        architecture = self.host.model().architecture
        parsed = self.controls.presets.parse(values["runs_weights"] or "", architecture)
        self.runner.set_weights(run, parsed.weights)
        message = "; ".join([f"{parsed.form}: from the next step on", *parsed.notices])
        return {"runs_message": html.note(message)}

    @error_to("runs_message")
    def from_sliders(self, values: RunsValues) -> Changes:
        """Take the weights that the sliders of Preview show."""
        weights = selection_of(values).shown.block_weights(self.host.model().architecture)
        return {"runs_weights": weights.to_line(with_architecture=True)}

    def _chosen_run(self, values: RunsValues) -> Run:
        if not values["runs_chosen"]:
            raise ValueError("no run is chosen: choose one in the list")
        return self.runner.find(values["runs_chosen"])

    # --- to the other tabs ----------------------------------------------------------------------------------------

    @error_to("runs_message")
    def to_training(self, values: RunsValues) -> Changes:
        """Fill the training form with the settings of the selected run."""
        run = self._chosen_run(values)
        return {
            **self.training.filled(run.config, f"The run {run.folder.name}: change what you like, then press Start"),
            "tabs": Properties(selected="Train"),
        }

    @error_to("runs_message")
    def to_preview(self, values: RunsValues) -> Changes:
        """Select only the run's LoRA in Preview, at weight 1 everywhere: the run's block weights are inside the file.

        A checkpoint is first copied into the LoRA folder, where the result of a finished run already is.
        """
        run, title, folder = self._chosen_run(values), values["runs_file"] or RESULT, self.host.lora_dirs[0].resolve()
        name = self._result_name(run) if title == RESULT else self._publish_checkpoint(run, title)
        self.controls.lora_index.refresh()
        files = (file for file in self.controls.lora_index.files() if file.path.name == name)
        file = next((file for file in files if file.path.parent.resolve() == folder), None)
        if file is None:
            raise ValueError(f"{name} is no longer in {folder}")
        changes = self.controls.use_exactly({file.key: LoraEntry()})
        return {**changes, "tabs": Properties(selected="Preview"), "status": html.changed_elsewhere(file.key)}

    def _result_name(self, run: Run) -> str:
        status = self.runner.status(run)
        if status.published is None:
            raise ValueError(f"{status.name} has no LoRA yet: wait until it has finished, or press “Stop and save”")
        return status.published

    def _publish_checkpoint(self, run: Run, title: str) -> str:
        """Copy a checkpoint into the LoRA folder, unless the same file is there already; return its name."""
        path = next((path for path in run.checkpoints() if _title(path) == title), None)
        if path is None:
            known = ", ".join(_files(run))
            raise ValueError(f"{run.folder.name} has no {title[:40]!r} any more: expected one of {known}")
        published = self.host.lora_dirs[0] / path.name
        if not published.exists() or published.read_bytes() != path.read_bytes():
            published = publish(path, self.host.lora_dirs[0])
            self.host.refresh_loras()
        return published.name


def _no_run_contents() -> dict[str, object]:
    note = html.note("There is no run yet: start one in Train")
    parts = {**dict.fromkeys(RUN_PARTS, Markup("")), "runs_head": note}
    return {**parts, "runs_file": Properties(choices=_files(None)), **_buttons(None)}


def _title(path: Path) -> str:
    """The name of a checkpoint in the menu, such as "step 250"."""
    return f"step {int(path.stem[-6:])}" if path.stem[-6:].isdigit() else path.stem


def _files(run: Run | None) -> list[str]:
    """The choices of the menu of files: the result, then the checkpoints, newest first."""
    return [RESULT, *(map(_title, reversed(run.checkpoints())) if run else ())]


def _buttons(status: Status | None, has_checkpoints: bool = False) -> dict[str, Properties]:
    """The buttons, enabled where they apply to the run shown."""
    training = status is not None and status.state in ("preparing", "training")
    waiting = status is not None and status.state in ("waiting", "paused")
    enabled = {
        "stop_save": training,
        "stop": training or waiting,
        "pause": training,
        "resume": status is not None and status.state in RESUMABLE_STATES,
        "again": status is not None,
        "preview": status is not None and (has_checkpoints or status.published is not None),
        "weigh": training,
    }
    return {f"runs_{name}": Properties(interactive=enabled[name]) for name in BUTTONS}
