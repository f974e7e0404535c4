"""The handlers of the Train tab: fill the form, estimate a run's cost, and start it. They use no widgets."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, cast

import torch
from markupsafe import Markup

from lib_blocktrain.analysis.regions import area_warning
from lib_blocktrain.blocks import ARCHITECTURES, BASE
from lib_blocktrain.hosts.host import Host, NoModel, native_size
from lib_blocktrain.hosts.prompt_syntax import unread_notices
from lib_blocktrain.model.memory import free_memory
from lib_blocktrain.networks.cards import RECORD
from lib_blocktrain.runner import Runner
from lib_blocktrain.training.config import RunConfig, load
from lib_blocktrain.training.config_json import ConfigError, read, write
from lib_blocktrain.training.dataset import Dataset, find
from lib_blocktrain.training.estimate import Estimate, estimate, size_of_model
from lib_blocktrain.training.pace import Pace, pace_of
from lib_blocktrain.training.plan import changed_weights, read_weights
from lib_blocktrain.ui import form, html, train_html
from lib_blocktrain.ui.lora_controls import LoraControls, error_to, selection_of
from lib_blocktrain.ui.train_checks import BAD, GOOD, Check, Given, before_start, check_settings, pictures_listed
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.values import Changes, Properties, TrainValues
from lib_blocktrain.weights.block_weights import BlockWeights, number
from lib_blocktrain.weights.preset_strings import Parsed, PresetStringError

WEIGHTS, FOLDERS, TOML, NAME, TEXT_ENCODER = map(
    form.field_name, (form.WEIGHTS, form.FOLDERS, "dataset.toml", "name", "network.text_encoder")
)
MAX_FILE_SIZE = 1_000_000  # bytes of a run.json
SLIDERS = "train_w_"  # prefix of the names of the sliders behind the map
SECOND_CLICK = 2.0  # seconds after a start in which the same run is not started again


def train_map(architecture: str) -> UMap:
    """The map on which the blocks to train are chosen."""
    return UMap("train", architecture, SLIDERS)


@dataclass(frozen=True)
class Started:
    """A run that was put into the queue, what was answered, and when (`time.monotonic`)."""

    config: RunConfig
    answer: Changes
    time: float


class TrainHandlers:
    """Fill the form, check and estimate what is in it, and put the run into the queue.

    `ready_runs` is a folder of run.json files that the user can start from.
    """

    def __init__(self, host: Host, controls: LoraControls, runner: Runner, ready_runs: Path | None = None):
        self.host, self.controls, self.runner, self._ready_folder = host, controls, runner, ready_runs
        self._starting = Lock()  # Start waits here while an earlier click still reads the dataset
        self._last_start: Started | None = None

    # --- loading --------------------------------------------------------------------------------------------------

    @error_to("train_message")
    def open(self, values: TrainValues) -> Changes:
        """Fill the menus, and the form with defaults for a first LoRA on the loaded model."""
        names, architecture = list(self._ready_runs()), self._architecture()
        return {
            "train_form": form.defaults(architecture),
            "train_ready": Properties(choices=names, value=None, visible=bool(names)),
            "train_preset": Properties(choices=self.controls.presets.names_in_training(architecture), value=None),
            **self._map_of(architecture),
        }

    @error_to("train_message")
    def load_ready(self, values: TrainValues) -> Changes:
        name = values["train_ready"]
        if not name:
            return {}
        runs = self._ready_runs()
        if name not in runs:
            raise ValueError(f"there is no ready run {name!r}: expected one of {', '.join(runs)}")
        config = load(runs[name])
        return self._followed(values, self.filled(config, config.description))

    def _ready_runs(self) -> dict[str, Path]:
        files = sorted(self._ready_folder.glob("*.json")) if self._ready_folder is not None else []
        return {path.stem: path for path in files}

    @error_to("train_message")
    def load_file(self, values: TrainValues) -> Changes:
        """Load an uploaded run.json. Relative paths in it cannot be resolved, since its folder is unknown."""
        path = values["train_file"]
        if path is None:
            return {}
        if path.stat().st_size > MAX_FILE_SIZE:
            raise ValueError(f"{path.name} is larger than {MAX_FILE_SIZE} bytes: expected a run.json")
        try:
            config = read(RunConfig, json.loads(path.read_text("utf-8")))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path.name} is not text: expected a run.json") from error
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path.name}: line {error.lineno}: {error.msg}: expected a run.json") from error
        message = f"Loaded {config.name} from {path.name}"
        relative = [folder.path for folder in config.dataset.folders if not Path(folder.path).is_absolute()]
        if relative:
            message += f"; {', '.join(relative)} is relative: enter the full path"
        return self._followed(values, self.filled(config, message))

    @error_to("train_message")
    def load_lora(self, values: TrainValues) -> Changes:
        """Load the run from the metadata of the LoRA selected in Preview. They name its folders without a path."""
        selection = selection_of(values)
        if selection.active is None:
            raise ValueError("no LoRA is chosen in Preview: add one there that was trained here")
        config, weights = _recorded(self.controls.lora_index.metadata(selection.active), selection.active)
        names = ", ".join(folder.path for folder in config.dataset.folders)
        message = f"The run of {selection.active}; its pictures were in a folder “{names}”: enter its path"
        return self._followed(values, self.filled_as_trained(config, weights, message, {FOLDERS: ""}))

    def filled_as_trained(
        self, config: RunConfig, weights: object, message: str, instead: Mapping[str, object] | None = None
    ) -> Changes:
        """Fill the form with a run; `weights`: those recorded of it, which may have been changed since its start."""
        changed = changed_weights(config.network, weights)
        if changed is None:
            return self.filled(config, message, instead)
        changes = self.filled(replace(config, network=replace(config.network, weights=changed)), message, instead)
        note = html.note("Its block weights are those that were set during training")
        return {**changes, "train_message": Markup("{}{}").format(changes["train_message"], note)}

    def filled(self, config: RunConfig, message: str, instead: Mapping[str, object] | None = None) -> Changes:
        """Fill the form with a run; `instead` replaces the values of some fields."""
        notes = html.note(message)
        if config.checkpoint is not None:
            notes += html.note(
                f"It was made for {Path(config.checkpoint).name}; here it will train on the loaded model"
            )
        return {
            "train_form": {**form.values_of(config), **(instead or {})},
            "train_rest": json.dumps(write(replace(config, checkpoint=None))),
            "train_dataset": "",
            "train_message": notes,
        }

    # --- checks and estimates -------------------------------------------------------------------------------------

    @error_to("train_dataset")
    def inspect_dataset(self, values: TrainValues) -> Changes:
        """Show what is in the dataset's folders, and suggest a name for the LoRA."""
        fields = values["train_form"]
        config = form.config_of({**fields, NAME: fields[NAME] or "draft"}, _rest(values))
        dataset = find(config.dataset, native_size(self.host)[0], config.max_tokens)
        table = train_html.dataset_table(dataset.describe())
        changes: dict[str, object] = {"train_dataset": table + self._share_warning(config, dataset)}
        if not fields[NAME] and config.dataset.folders:
            changes["train_form"] = {NAME: _name_of(Path(config.dataset.folders[0].path))}
        return changes

    def estimate(self, values: TrainValues) -> Changes:
        """Show how the weights are understood, the cost of the run, and what is to be known before its start."""
        fields = values["train_form"]
        text = str(fields[WEIGHTS] or "")
        folds = {"train_folds": train_html.folds(form.set_in_folds(fields))}
        nothing = {**dict.fromkeys(("train_estimate", "train_cost", "train_checks"), ""), **folds}
        nothing["train_path"] = train_html.steps([])
        try:
            parsed = self.controls.presets.parse(text, self._architecture())
        except PresetStringError as error:
            return {**nothing, "train_understood": html.not_understood(text, error)}
        preset = {"train_preset": self._preset(parsed, values["train_preset"])}
        if not fields[TEXT_ENCODER]:  # BASE is not trained: leave out notices about it
            notices = tuple(notice for notice in parsed.notices if not notice.startswith(BASE))
            parsed = replace(parsed, weights=parsed.weights.replace({BASE: 0.0}), notices=notices)
        understood = html.understood(parsed)
        try:
            config = self._canonical(form.config_of(fields, _rest(values), draft=True))
            cost, pace = self._cost(config)
        except (ValueError, OSError, RuntimeError) as error:
            return {**nothing, **preset, "train_understood": understood, "train_estimate": html.failure(str(error))}
        given = Given(bool(str(fields[FOLDERS] or "").strip() or fields[TOML]), bool(str(fields[NAME] or "").strip()))
        time = train_html.run_time(config, cost, pace)
        count, pictures = pictures_listed(config, given)
        return {
            **preset,
            **folds,
            "train_understood": understood + train_html.meaning(config.network.weight_mode),
            "train_estimate": train_html.cost(config, cost, pace),
            "train_cost": train_html.in_short(cost, time),
            "train_checks": train_html.checks([pictures, *self._checks(config, given, cost)]),
            "train_path": train_html.steps(_steps(config, parsed.weights, count, given.name, time)),
        }

    def _preset(self, parsed: Parsed, chosen: str | None) -> Properties:
        """The menu of presets, on the one whose weights these are: that which was chosen before, if it is one."""
        presets, architecture = self.controls.presets, parsed.weights.architecture
        names = presets.names_in_training(architecture)
        same = chosen in names and presets.parse(str(chosen), architecture).weights == parsed.weights
        return Properties(choices=names, value=chosen if same else presets.exact(parsed.weights))

    def _checks(self, config: RunConfig, given: Given, cost: Estimate) -> list[Check]:
        current = self.runner.current
        before = [*([current] if current else []), *self.runner.queue()]
        found = list(before_start(config, given, self.host, before[-1].folder.name if before else None))
        if cost.enough is not None:
            enough = Check(GOOD, "Memory is enough") if cost.enough else Check(BAD, "Memory is not enough")
            found.insert(0, enough)
        return found

    def follow(self, values: TrainValues) -> Changes:
        """Show what depends on a form that another tab has filled: the map, and all that `estimate` shows.

        The map is that of the model that is loaded now; it is sent where the page shows another one.
        """
        architecture = self._architecture()
        map_ = {} if values["train_shown"] == architecture else self._map_of(architecture)
        return {**map_, **self.to_map(values), **self.estimate(values)}

    @staticmethod
    def _map_of(architecture: str) -> Changes:
        return {"train_map": train_map(architecture).html(), "train_shown": architecture}

    def _followed(self, values: TrainValues, changes: Changes) -> Changes:
        """Changes of the form, with what depends on it then."""
        return {**self.follow(_after(values, changes)), **changes}

    def to_map(self, values: TrainValues) -> Changes:
        """Put the weights of the text on the map; what cannot be read leaves the map as it is."""
        try:
            weights = self.controls.presets.parse(
                str(values["train_form"][WEIGHTS] or ""), self._architecture()
            ).weights
        except PresetStringError:
            return {}
        return {"train_weights": dict(weights.with_base)}

    @error_to("train_understood")
    def from_map(self, values: TrainValues) -> Changes:
        """Write the weights of the map as text, and estimate the run under them."""
        architecture = self._architecture()
        known, moved = ARCHITECTURES[architecture].block_ids, values["train_weights"]
        weights = BlockWeights(architecture, {block: moved[block] for block in known}, moved[BASE])
        changes: Changes = {"train_form": {WEIGHTS: self._short(weights, self._share_of(values))}}
        return {**self.estimate(_after(values, changes)), **changes}

    def _share_of(self, values: TrainValues) -> float | None:
        """The share of the picture that the feature of the form's weights fills, where their line says it."""
        try:
            return self.parse(str(values["train_form"][WEIGHTS] or "")).area_share
        except PresetStringError:
            return None

    def _short(self, weights: BlockWeights, share: float | None) -> str:
        """The weights by ranges (`OUT03-OUT11=1, M00=0.5`), or the whole line where that would not say the same."""
        groups = html.by_value(weights.with_base, ARCHITECTURES[weights.architecture])
        ranges = [f"{ids}={number(value)}" for value, spans in groups.items() if value for ids in spans.split(", ")]
        text = ", ".join(ranges)
        try:
            same = self.controls.presets.parse(text, weights.architecture).weights == weights
        except PresetStringError:
            same = False
        return text if same and share is None else weights.to_line(with_architecture=True, area_share=share)

    @error_to("train_understood")
    def from_sliders(self, values: TrainValues) -> Changes:
        """Fill in the weights on the sliders of Preview."""
        weights = selection_of(values).shown.blocks_alone(self._architecture())
        share = self.controls.origin_of(values, weights).area_share
        line = weights.to_line(with_architecture=True, area_share=share)
        return self._followed(values, {"train_form": {WEIGHTS: line}})

    def parse(self, text: str) -> Parsed:
        """Read block weights for the loaded model, for SD1 without one."""
        return self.controls.presets.parse(text, self._architecture())

    @error_to("train_understood")
    def use_preset(self, values: TrainValues) -> Changes:
        if not values["train_preset"]:
            return {}
        parsed = self.parse(values["train_preset"])
        line = parsed.weights.to_line(parsed.name, with_architecture=True, area_share=parsed.area_share)
        return self._followed(values, {"train_form": {WEIGHTS: line}})

    # --- the start ------------------------------------------------------------------------------------------------

    @error_to("train_message")
    def start(self, values: TrainValues) -> Changes:
        """Check what can be checked now, and put the run into the queue; a second click finds the same run there."""
        config = self._canonical(form.config_of(values["train_form"], _rest(values)))
        with self._starting:
            last = self._last_start
            if last is None or config != last.config or time.monotonic() - last.time > SECOND_CLICK:
                last = self._last_start = Started(config, self._add(config), time.monotonic())
            return last.answer

    def _add(self, config: RunConfig) -> Changes:
        model = check_settings(config, self.host)
        share_warning = self._share_warning(config, find(config.dataset, model.native_size))
        run = self.runner.add(config)
        return {
            "train_message": share_warning,  # where the run is in the queue is said in Runs, and changes
            "runs_chosen": run.folder.name,
            "tabs": Properties(selected="Runs"),
        }

    @error_to("train_message")
    def to_probe(self, values: TrainValues) -> Changes:
        """Open Analyse with the image folders filled in for a probe."""
        folders = str(values["train_form"][FOLDERS] or "").strip()
        if not folders:
            raise ValueError("there is no folder of pictures yet: expected one in “Folder of pictures”")
        return {"probe_folder": folders, "tabs": Properties(selected="Analyse"), "train_message": ""}

    def _architecture(self) -> str:
        try:
            return self.host.model().architecture
        except NoModel:
            return "sd1"

    def _canonical(self, config: RunConfig) -> RunConfig:
        """The run with its weights as numbers and its start as a path, instead of names, which may change later."""
        start = config.network.start
        if start is not None and not Path(start).is_file():
            file = self.controls.lora_index.file(start)
            config = replace(config, network=replace(config.network, start=str(file.path)))
        if not isinstance(config.network.weights, str):
            return config
        parsed = self.parse(config.network.weights)
        network = replace(config.network, weights=parsed.weights.to_line(parsed.name, area_share=parsed.area_share))
        read_weights(network, self._architecture())  # raises for those out of range
        return replace(config, network=network)

    def _share_warning(self, config: RunConfig, dataset: Dataset) -> Markup:
        """A warning if the weights were found for a feature of another size than the dataset's masks show."""
        if not isinstance(config.network.weights, str):
            return Markup("")
        parsed = self.parse(config.network.weights)
        text = area_warning(parsed.area_share, dataset.area_share)
        return html.failure(f"These weights were {text}") if text else Markup("")

    def _cost(self, config: RunConfig) -> tuple[Estimate, Pace | None]:
        model = self.host.model()
        size = size_of_model(model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        cost = estimate(config, size, None, device)
        free = free_memory()
        if free is not None:  # the loaded model's memory counts as free, since the run uses that model
            cost = estimate(config, size, free + size.loaded_mib, device)
        if not self.host.reads_prompt_syntax:
            notices = unread_notices(config.samples.texts, name="prompt of the samples")
            cost = replace(cost, notices=(*cost.notices, *notices))
        return cost, pace_of(self.runner.runs(), model.name, size, device)


def _rest(values: TrainValues) -> dict[str, Any]:
    """The run that was loaded into the form."""
    text = values["train_rest"] or "{}"
    try:
        rest = json.loads(text)
    except (ValueError, RecursionError):
        rest = None
    if not isinstance(rest, dict):
        raise ConfigError(f"the run that was loaded, {text[:40]!r}: expected a run.json; load it again")
    return rest


def _after(values: TrainValues, changes: Changes) -> TrainValues:
    """The values of the form as they are after changes of it."""
    filled = changes.get("train_form")
    after: Any = {
        **values,
        "train_form": {**values.get("train_form", {}), **(filled if isinstance(filled, Mapping) else {})},
    }
    if "train_rest" in changes:
        after["train_rest"] = changes["train_rest"]
    return cast(TrainValues, after)


def _steps(config: RunConfig, weights: BlockWeights, count: int, named: bool, time: str) -> list[tuple[str, bool]]:
    """What each step of the path holds, and whether it is done.

    `count` is that of the pictures, `time` how long the run takes, if that is known.
    """
    trained = sum(bool(value) for value in weights.values.values())
    start = (time or "ready") if count and trained and named else ""
    return [
        (f"{count:,}" if count else "none yet", count > 0),
        (f"{trained} of {len(weights.values)}", trained > 0),
        (f"rank {config.network.rank} · {_length(config)}", True),
        ("needs a name" if count and trained and not named else start, False),
    ]


def _length(config: RunConfig) -> str:
    return f"{config.epochs:,} epoch{'' if config.epochs == 1 else 's'}" if config.epochs else f"{config.steps:,} steps"


def _recorded(metadata: Mapping[str, str], name: str) -> tuple[RunConfig, object]:
    """The run in the metadata of a network file, and the weights that it was trained with in the end, if it has them.

    Raises ValueError if it was not trained by this extension.
    """
    try:
        record: Any = json.loads(metadata.get(RECORD, "null"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or "run" not in record:
        raise ValueError(f"{name} was not trained with this extension: its metadata hold no run")
    trained = record.get("trained")
    return read(RunConfig, record["run"]), trained.get("weights") if isinstance(trained, dict) else None


def _name_of(folder: Path) -> str:
    """A name for the LoRA: the folder's, without sd-scripts' prefix of repeats."""
    head, _, rest = folder.name.partition("_")
    return rest if rest and head.isdigit() else folder.name
