"""What the buttons of the place Runs do, and what it shows while a run goes on.

The page asks again and again (`javascript/blocktrain_runs.js`), each time after the last answer has come, and is told
only what has changed since: `runs_shown` keeps what it has.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from lib_blocktrain.blocks import ARCHITECTURES
from lib_blocktrain.hosts.host import Host, NoModel
from lib_blocktrain.runner import AGAIN, Runner, Status
from lib_blocktrain.training.plan import read_weights
from lib_blocktrain.training.result import publish
from lib_blocktrain.training.runs import Run
from lib_blocktrain.ui import html, runs_html
from lib_blocktrain.ui.history import Growing, History
from lib_blocktrain.ui.lora_controls import RANDOM_SEED_TEXT, LoraControls, error_to, selection_of
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.values import Changes, Properties, Values
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.lora_selection import LoraEntry

SHOWN_RUNS = 40  # the newest
KEPT_HISTORIES = 4  # of the runs that were looked at last
RESULT = "result"  # of a run, beside what it saved on the way
OFTEN, SELDOM = 1500, 5000  # milliseconds to the next question, while something is trained and while nothing is
PARTS = ("runs_list", "runs_queue", "runs_head", "runs_map", "runs_curves", "runs_samples", "runs_events")
BUTTONS = ("stop_save", "stop", "pause", "resume", "again", "preview", "weigh")


class RunsHandlers:
    """The runs of the host: what they learn, and the buttons that steer them."""

    def __init__(self, host: Host, controls: LoraControls, runner: Runner, training: TrainHandlers):
        self.host, self.controls, self.runner, self.training = host, controls, runner, training
        self._histories: OrderedDict[Path, Growing] = OrderedDict()

    # --- looking --------------------------------------------------------------------------------------------------

    def open(self, values: Values) -> Changes:
        """The page was loaded: it holds nothing yet."""
        return self.look({**values, "runs_shown": {}})

    def look(self, values: Values) -> Changes:
        """What has changed since the page asked last."""
        shown = dict(values["runs_shown"] or {})
        run = self._chosen(values["runs_chosen"])
        changes: dict[str, object] = {}
        for part, made in self._parts(run).items():
            mark = hashlib.sha256(repr(made).encode()).hexdigest()[:16]
            if shown.get(part) != mark:
                shown[part], changes[part] = mark, made
        name = run.folder.name if run else ""
        if name != values["runs_chosen"]:
            changes["runs_chosen"] = name
        wait = OFTEN if self.runner.current is not None else SELDOM
        beat = f'<span data-beat="{time.monotonic_ns()}" data-next="{wait}"></span>'
        return {**changes, "runs_shown": shown, "runs_beat": beat}

    def choose(self, values: Values) -> Changes:
        """Another run was chosen in the list."""
        name = values["runs_list"] or ""
        weights = ""
        if name:
            config = self.runner.find(name).config
            weights = config.network.weights if isinstance(config.network.weights, str) else ""
        looked = self.look({**values, "runs_chosen": name})
        file = Properties(**{**looked.get("runs_file", {}), "value": RESULT})
        return {**looked, "runs_chosen": name, "runs_message": "", "runs_weights": weights, "runs_file": file}

    def _chosen(self, name: object) -> Run | None:
        """The run that the page looks at: the one it has chosen, else the one that is trained, else the newest."""
        try:
            return self.runner.find(str(name))
        except ValueError:
            return self.runner.current or next(iter(self.runner.runs()), None)

    def _parts(self, run: Run | None) -> dict[str, object]:
        """All that the page can show, by widget."""
        runs = self.runner.runs()[:SHOWN_RUNS]
        if run is not None and run.folder not in [other.folder for other in runs]:
            runs.append(run)
        queue = self.runner.queue()
        choices = [(runs_html.label(self.runner.status(other)), other.folder.name) for other in runs]
        chosen = None if run is None else run.folder.name
        parts: dict[str, object] = {
            "runs_list": Properties(choices=choices, value=chosen),
            "runs_queue": runs_html.waiting(queue, self.runner.held),
            "runs_begin": Properties(visible=self.runner.held and bool(queue)),
        }
        if run is None:
            note = html.note("There is no run yet: the place Train begins one")
            return {
                **parts,
                **dict.fromkeys(PARTS[3:], ""),
                "runs_head": note,
                "runs_file": Properties(choices=[RESULT]),
                **_buttons(None),
            }
        status, history, files = self.runner.status(run), self._history(run), _files(run)
        return {
            **parts,
            "runs_head": runs_html.head(status),
            "runs_map": self._map(run, history),
            "runs_curves": runs_html.curves(history),
            "runs_samples": runs_html.samples(run, history),
            "runs_events": runs_html.events(history),
            "runs_file": Properties(choices=files),
            **_buttons(status, saved=len(files) > 1),
        }

    def _history(self, run: Run) -> History:
        """The run's history; those that were looked at last are kept, since a page asks again and again."""
        growing = self._histories.pop(run.folder, None) or Growing(run)
        self._histories[run.folder] = growing
        while len(self._histories) > KEPT_HISTORIES:
            self._histories.popitem(last=False)
        return growing.now()

    def _map(self, run: Run, history: History) -> str:
        """The U with the share that each block has in the change, under the run's weights."""
        try:
            architecture = self.host.model().architecture
            weights = read_weights(run.config.network, architecture)[0]
        except (NoModel, ValueError):  # of another architecture than the model that is loaded
            return ""
        known = ARCHITECTURES[architecture].block_ids
        shares = {block: share for block, share in history.shares.items() if block in known}
        shown = {block: weights[block] for block in known}
        return UMap("runs", architecture, values=shares or None, title="share of the change", weights=shown).html()

    # --- steering -------------------------------------------------------------------------------------------------

    @error_to("runs_message")
    def stop(self, values: Values) -> Changes:
        """End the chosen run; what was saved last stays."""
        return self._told(values, lambda run: self.runner.stop(run, save=False), "Told {} to stop after this step")

    @error_to("runs_message")
    def stop_and_save(self, values: Values) -> Changes:
        """Save the chosen run and end it."""
        return self._told(values, self.runner.stop, "Told {} to save and stop after this step")

    @error_to("runs_message")
    def pause(self, values: Values) -> Changes:
        """Save the run that is trained, give the model back, and hold the queue."""
        return self._told(values, lambda run: self.runner.pause(), "{} pauses after this step, and frees the model")

    @error_to("runs_message")
    def resume(self, values: Values) -> Changes:
        """Go on with the chosen run, from what was saved last."""
        return self._told(values, self.runner.resume, "{} goes on when its turn comes")

    @error_to("runs_message")
    def begin(self, values: Values) -> Changes:
        """Go on with what waits."""
        self.runner.begin()
        return {**self.look(values), "runs_message": html.note("The queue goes on")}

    @error_to("runs_message")
    def weigh(self, values: Values) -> Changes:
        """Change the block weights of the run that is trained."""
        run = self._named(values)
        architecture = self.host.model().architecture
        parsed = self.controls.presets.parse(str(values["runs_weights"] or ""), architecture, seed=RANDOM_SEED_TEXT)
        self.runner.set_weights(run, parsed.weights)
        said = "; ".join([f"{parsed.form}: from the next step on", *parsed.notices])
        return {"runs_message": html.note(said)}

    @error_to("runs_message")
    def from_sliders(self, values: Values) -> Changes:
        """Take the weights that the sliders of Preview show."""
        weights: BlockWeights = selection_of(values).shown.block_weights(self.host.model().architecture)
        return {"runs_weights": weights.to_line(with_architecture=True)}

    # --- going elsewhere ------------------------------------------------------------------------------------------

    @error_to("runs_message")
    def again(self, values: Values) -> Changes:
        """Put the chosen run into the form of Train."""
        run = self._named(values)
        return {
            **self.training.filled(run.config, f"The run {run.folder.name}, ready to be started again"),
            "tabs": Properties(selected="Train"),
        }

    @error_to("runs_message")
    def preview(self, values: Values) -> Changes:
        """Use the run's LoRA, and nothing else, in Preview; it opens at 1, since its weights are inside.

        One that was saved on the way is put among the LoRAs first, as the result was.
        """
        run, folder = self._named(values), self.host.lora_dirs[0].resolve()
        name = (
            self._published(run) if values["runs_file"] in (None, "", RESULT) else self._put(run, values["runs_file"])
        )
        self.controls.lora_index.refresh()
        found = [
            file.key
            for file in self.controls.lora_index.files()
            if file.path.name == name and file.path.parent.resolve() == folder
        ]
        if not found:
            raise ValueError(f"{name} is not in {folder} any more")
        place = {"tabs": Properties(selected="Preview"), "status": html.brought(found[0])}
        return {**self.controls.use_exactly({found[0]: LoraEntry()}), **place}

    def _published(self, run: Run) -> str:
        status = self.runner.status(run)
        if status.published is None:
            raise ValueError(f"{status.name} has no LoRA yet: let it finish, or press “Stop and save”")
        return status.published

    def _put(self, run: Run, title: object) -> str:
        """Put a file that was saved on the way among the LoRAs, unless it is there; return its name."""
        found = [path for path in run.checkpoints() if _title(path) == title]
        if not found:
            known = ", ".join(_files(run))
            raise ValueError(f"{run.folder.name} has no {str(title)[:40]!r} any more: expected one of {known}")
        there = self.host.lora_dirs[0] / found[0].name
        if there.exists() and there.read_bytes() == found[0].read_bytes():
            return there.name
        path = publish(found[0], self.host.lora_dirs[0])
        self.host.refresh_loras()
        return path.name

    # --- small things ---------------------------------------------------------------------------------------------

    def _named(self, values: Values) -> Run:
        if not values["runs_chosen"]:
            raise ValueError("no run is chosen: choose one in the list")
        return self.runner.find(str(values["runs_chosen"]))

    def _told(self, values: Values, tell: Callable[[Run], object], said: str) -> Changes:
        run = self._named(values)
        tell(run)
        return {**self.look(values), "runs_message": html.note(said.format(run.folder.name))}


def _title(path: Path) -> str:
    """How a file that was saved on the way is called: "step 250"."""
    return f"step {int(path.stem[-6:])}" if path.stem[-6:].isdigit() else path.stem


def _files(run: Run) -> list[str]:
    """The files of a run that can be previewed, the result first."""
    return [RESULT, *map(_title, reversed(run.checkpoints()))]


def _buttons(status: Status | None, saved: bool = False) -> dict[str, Properties]:
    """Which buttons make sense for the chosen run; `saved`: it has a file already, if not its result."""
    trained = status is not None and status.state in ("preparing", "training")
    waits = status is not None and status.state in ("waiting", "paused")
    can = {
        "stop_save": trained,
        "stop": trained or waits,
        "pause": trained,
        "resume": status is not None and status.state in AGAIN,
        "again": status is not None,
        "preview": status is not None and (saved or status.published is not None),
        "weigh": trained,
    }
    return {f"runs_{name}": Properties(interactive=can[name]) for name in BUTTONS}
