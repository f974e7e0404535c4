"""What the buttons of the place Train do: from named values to named changes, without a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lib_blocktrain.analysis.area_share import warning
from lib_blocktrain.blocks import BASE
from lib_blocktrain.hosts.host import Host, NoModel
from lib_blocktrain.networks.bake import RECORD
from lib_blocktrain.runner import Runner
from lib_blocktrain.training.config import RunConfig, load
from lib_blocktrain.training.config_json import ConfigError, read, write
from lib_blocktrain.training.dataset import Dataset, find
from lib_blocktrain.training.estimate import estimate, free_memory, size_of_model
from lib_blocktrain.training.optimizers import check_rates
from lib_blocktrain.training.pace import pace_of
from lib_blocktrain.training.plan import Plan, plan_of, read_weights
from lib_blocktrain.training.preparation import check_model
from lib_blocktrain.ui import form, html, train_html
from lib_blocktrain.ui.lora_controls import RANDOM_SEED_TEXT, LoraControls, error_to, selection_of
from lib_blocktrain.ui.values import Changes, Properties, Values
from lib_blocktrain.weights.preset_strings import PresetStringError

WEIGHTS, FOLDERS = "train_network_weights", "train_dataset_folders"
FILE_LIMIT = 1_000_000  # bytes of a run.json


class TrainHandlers:
    """The form, what it costs, and the start."""

    def __init__(self, host: Host, controls: LoraControls, runner: Runner, ready: Path | None = None):
        self.host, self.controls, self.runner = host, controls, runner
        self._ready = ready  # the folder of runs that come with this checkout

    # --- opening and loading --------------------------------------------------------------------------------------

    def ready_runs(self) -> dict[str, Path]:
        """The runs that come with this checkout, by name."""
        files = sorted(self._ready.glob("*.json")) if self._ready is not None else []
        return {path.stem: path for path in files}

    @error_to("train_message")
    def open(self, values: Values) -> Changes:
        """The page was loaded: the menus, and what suits a first LoRA on the model that is loaded."""
        names, architecture = list(self.ready_runs()), self._architecture()
        presets = [preset.name for preset in self.controls.presets.fitting(architecture)]
        return {
            **form.defaults(architecture),
            "train_ready": Properties(choices=names, value=None, visible=bool(names)),
            "train_preset": Properties(choices=presets, value=None),
        }

    @error_to("train_loaded")
    def load_ready(self, values: Values) -> Changes:
        """One of the ready runs was chosen."""
        name = values["train_ready"]
        if not name:
            return {}
        if name not in self.ready_runs():
            raise ValueError(f"there is no ready run {name!r}: expected one of {', '.join(self.ready_runs())}")
        config = load(self.ready_runs()[name])
        return self.filled(config, config.description)

    @error_to("train_loaded")
    def load_file(self, values: Values) -> Changes:
        """A run.json was uploaded; the paths in it must be whole, since where it lay is not known."""
        path: Path | None = values["train_file"]
        if path is None:
            return {}
        if path.stat().st_size > FILE_LIMIT:
            raise ValueError(f"{path.name} is larger than {FILE_LIMIT} bytes: expected a run.json")
        try:
            config = read(RunConfig, json.loads(path.read_text("utf-8")))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path.name} is no text: expected a run.json") from error
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path.name}: line {error.lineno}: {error.msg}: expected a run.json") from error
        said = f"Loaded {config.name} from {path.name}"
        loose = [folder.path for folder in config.dataset.folders if not Path(folder.path).is_absolute()]
        if loose:
            said += f"; {', '.join(loose)}: choose where that folder lies"
        return self.filled(config, said)

    @error_to("train_loaded")
    def load_lora(self, values: Values) -> Changes:
        """Take the run out of the metadata of the LoRA that is chosen in Preview; its folders are not in there."""
        selection = selection_of(values)
        if selection.active is None:
            raise ValueError("no LoRA is chosen in Preview: tick one there that was trained here")
        config = _recorded(self.controls.lora_index.file(selection.active).metadata, selection.active)
        names = ", ".join(folder.path for folder in config.dataset.folders)
        said = f"The run of {selection.active}; its pictures lay in a folder “{names}”: choose where that is now"
        return {**self.filled(config, said), "train_dataset_folders": ""}

    def filled(self, config: RunConfig, said: str = "") -> Changes:
        """The form with a run in it, and what is to be said of that."""
        message = html.note(said)
        if config.checkpoint is not None:
            message += html.note(
                f"It was made for {Path(config.checkpoint).name}; here it is trained on the loaded model"
            )
        rest = write(replace(config, checkpoint=None))
        return {**form.values_of(config), "train_rest": rest, "train_dataset": "", "train_loaded": message}

    # --- while it is filled ---------------------------------------------------------------------------------------

    @error_to("train_dataset")
    def look(self, values: Values) -> Changes:
        """Say what is found in the dataset's folders, and whether the weights hold for such pictures."""
        config = form.config_of({**values, "train_name": values["train_name"] or "draft"}, values["train_rest"])
        found = find(config.dataset, self._native())
        table = train_html.dataset_table(found.describe(config.dataset.separator))
        changes: dict[str, object] = {"train_dataset": table + self._for_another_share(config, found)}
        if not values["train_name"] and config.dataset.folders:
            changes["train_name"] = _name_of(Path(config.dataset.folders[0].path))
        return changes

    def weigh(self, values: Values) -> Changes:
        """Say what the weights are understood as, and what a run under them costs."""
        text = str(values[WEIGHTS] or "")
        try:
            parsed = self.controls.presets.parse(text, self._architecture(), seed=RANDOM_SEED_TEXT)
        except PresetStringError as error:
            return {"train_understood": html.not_understood(text, error), "train_estimate": ""}
        if not values["train_network_text_encoder"]:  # what is said of BASE would mislead
            kept = tuple(notice for notice in parsed.notices if not notice.startswith(BASE))
            parsed = replace(parsed, weights=parsed.weights.replace({BASE: 0.0}), notices=kept)
        said = {"train_understood": html.understood(parsed)}
        try:
            config = self._canonical(form.config_of(values, values["train_rest"], draft=True))
            return {**said, "train_estimate": self._cost(config)}
        except (ValueError, OSError, RuntimeError) as error:
            return {**said, "train_estimate": html.failure(str(error))}

    @error_to("train_understood")
    def from_sliders(self, values: Values) -> Changes:
        """Take the weights that the sliders of Preview show."""
        selection = selection_of(values)
        weights = selection.shown.block_weights(self._architecture())
        return {WEIGHTS: weights.to_line(with_architecture=True)}

    @error_to("train_understood")
    def use_preset(self, values: Values) -> Changes:
        """Take the weights of a preset."""
        if not values["train_preset"]:
            return {}
        parsed = self.controls.presets.parse(values["train_preset"], self._architecture(), seed=RANDOM_SEED_TEXT)
        return {WEIGHTS: parsed.weights.to_line(parsed.name, with_architecture=True, canvas=parsed.canvas)}

    # --- the start ------------------------------------------------------------------------------------------------

    @error_to("train_message")
    def start(self, values: Values) -> Changes:
        """Check what can be checked now, and put the run into the queue."""
        config = self._canonical(form.config_of(values, values["train_rest"]))
        if config.samples.prompts and config.samples.every and config.samples.sampler not in self.host.samplers:
            known = ", ".join(self.host.samplers)
            raise ConfigError(f"samples.sampler = {config.samples.sampler!r}: expected one of {known}")
        model = self.host.model()
        check_model(model)
        scope = plan_of({"unet": model.unet, **model.text_encoders}, model.architecture, config.network)
        check_rates(config.optimizer, config.network, [{"base_lr": rate} for rate in _rates(config, scope)])
        warned = self._for_another_share(config, find(config.dataset, model.native_size))
        run = self.runner.add(config)
        before = [waiting.folder.name for waiting in self.runner.queue()].index(run.folder.name)
        said = f"{run.folder.name} is in the queue" + (f", behind {before} others" if before else "")
        return {
            "train_message": html.note(f"{said}: the place Runs shows it") + warned,
            "runs_chosen": run.folder.name,
            "tabs": Properties(selected="Runs"),
        }

    @error_to("train_message")
    def to_probe(self, values: Values) -> Changes:
        """Ask in Analyse which blocks these pictures would move."""
        folders = str(values[FOLDERS] or "").strip()
        if not folders:
            raise ValueError("there is no folder of pictures yet: expected one in “Folder of pictures”")
        return {"probe_folder": folders, "tabs": Properties(selected="Analyse"), "train_message": ""}

    # --- small things ---------------------------------------------------------------------------------------------

    def _architecture(self) -> str:
        try:
            return self.host.model().architecture
        except NoModel:
            return "sd1"

    def _native(self) -> int:
        try:
            return self.host.model().native_size
        except NoModel:
            return 512

    def _canonical(self, config: RunConfig) -> RunConfig:
        """The run with its weights as values: a preset may be the user's own, and may change later."""
        if not isinstance(config.network.weights, str):
            return config
        parsed = self.controls.presets.parse(config.network.weights, self._architecture(), seed=RANDOM_SEED_TEXT)
        network = replace(config.network, weights=parsed.weights.to_line(parsed.name, canvas=parsed.canvas))
        read_weights(network, self._architecture())  # says which are out of range
        return replace(config, network=network)

    def _for_another_share(self, config: RunConfig, dataset: Dataset) -> str:
        """What is to be said where the weights hold for another share of the picture than the masks let through."""
        if not isinstance(config.network.weights, str):
            return ""
        parsed = self.controls.presets.parse(config.network.weights, self._architecture(), seed=RANDOM_SEED_TEXT)
        warned = warning(parsed.canvas, dataset.canvas)
        return html.failure(f"These weights were {warned}") if warned else ""

    def _cost(self, config: RunConfig) -> str:
        """What a run costs here, in time and memory."""
        model = self.host.model()
        size = size_of_model(model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = estimate(config, size, None, device)
        free = free_memory()
        if free is not None:  # the model is in memory already: what it takes counts as there
            found = estimate(config, size, free + found.mib["model"], device)
        pace = pace_of(self.runner.runs(), model.name, size, device)
        return train_html.cost(found, config.steps, pace)


def _rates(config: RunConfig, scope: Plan) -> set[float]:
    """The learning rates that a run will have, without LoRA+."""
    own = config.optimizer.text_encoder_lr or config.optimizer.lr
    return {(own if module.block == "BASE" else config.optimizer.lr) * module.lr for module in scope.modules}


def _recorded(metadata: Mapping[str, str], name: str) -> RunConfig:
    """The run in the metadata of a file that was trained here."""
    try:
        record: Any = json.loads(metadata.get(RECORD, "null"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or "run" not in record:
        raise ValueError(f"{name} was not trained here: its metadata have no run")
    return read(RunConfig, record["run"])


def _name_of(folder: Path) -> str:
    """A name for the LoRA: the folder's, without sd-scripts' number."""
    head, _, rest = folder.name.partition("_")
    return rest if rest and head.isdigit() else folder.name
