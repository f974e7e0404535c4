"""The training form as a table: its widgets, each with its entry of `run.json`, and the conversion in both directions.

Entries without a widget (such as ranks of single blocks, or some settings of a folder) keep their loaded values.
"""

from __future__ import annotations

import copy
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_blocktrain.training.config import RunConfig, resolved
from lib_blocktrain.training.config_json import ConfigError, read, type_of, write
from lib_blocktrain.training.optimizer_table import TABLE
from lib_blocktrain.weights.block_weights import BlockWeights

AUTO, YES, NO = "model's own", "yes", "no"  # shown for None, True and False
WHOLE, NUMBER, OPTIONAL, NUMBERS, TEXT, LINES, PAIRS, CHOICE, SWITCH = (
    "whole", "number", "optional", "numbers", "text", "lines", "pairs", "choice", "switch",
)  # fmt: skip
FOLDERS, REGULARISATION, VALIDATION = "dataset.folders", "dataset.regularisation", "dataset.validation"
WEIGHTS = "network.weights"


@dataclass(frozen=True)
class Field:
    """One widget: the path of its entry in `run.json`, its label, and how its value is read."""

    path: str
    label: str
    kind: str
    choices: tuple[str, ...] = ()
    info: str | None = None

    @property
    def name(self) -> str:
        return field_name(self.path)


def field_name(path: str) -> str:
    """The name of the widget for an entry of `run.json`."""
    return "train_" + path.replace(".", "_")


def _field(path: str, label: str, info: str | None = None) -> Field:
    """A field, whose kind is derived from the entry's type in `training.config`."""
    if path == "optimizer.name":
        return Field(path, label, CHOICE, tuple(TABLE), info)
    if path in (FOLDERS, REGULARISATION, VALIDATION):
        return Field(path, label, LINES, (), info)
    if path == WEIGHTS:
        return Field(path, label, TEXT, (), info)
    hint = type_of(RunConfig, path)
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    empty, kind = type(None) in options, next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is typing.Literal or (kind is bool and empty):
        choices = (YES, NO) if kind is bool else tuple(map(str, typing.get_args(kind)))
        return Field(path, label, CHOICE, ((AUTO,) if empty else ()) + choices, info)
    if typing.get_origin(kind) is tuple:
        return Field(path, label, LINES if typing.get_args(kind)[0] is str else NUMBERS, (), info)
    if typing.get_origin(kind) is not None:
        return Field(path, label, PAIRS, (), info)
    if kind in (int, float) and empty:
        return Field(path, label, OPTIONAL, (), info)
    return Field(path, label, {bool: SWITCH, int: WHOLE, float: NUMBER, str: TEXT}[kind], (), info)


MAIN = "main"
GROUPS: Mapping[str, tuple[Field, ...]] = {
    "dataset": (_field(FOLDERS, "Folder of pictures", "chosen in Pictures; or by path, one folder per line"),),
    "weights": (
        _field(WEIGHTS, "Block weights", "a preset's name, NAME:1,0,…, OUT=1,IN=0, kohya's network_args or JSON"),
        _field("network.meaning", "Weights scale"),
    ),
    "network": (
        _field("network.algorithm", "Algorithm"),
        _field("network.rank", "Rank"),
        _field("network.alpha", "Alpha"),
    ),
    MAIN: (
        _field("steps", "Steps"),
        _field("batch", "Batch"),
        _field("optimizer.lr", "Learning rate", "the optimizer's own"),
        _field("optimizer.name", "Optimizer"),
        _field("schedule.name", "Schedule"),
        _field("dataset.size", "Resolution", "model's own"),
        _field("checkpointing", "Checkpointing"),
    ),
    "samples": (
        _field("samples.prompts", "Sample prompts"),
        _field("samples.negative", "Negative"),
        _field("samples.every", "Every n steps"),
        _field("samples.seed", "Seed"),
        _field("samples.steps", "Sampling steps"),
        _field("samples.cfg", "CFG scale"),
        _field("samples.sampler", "Sampler"),
        _field("samples.width", "Width", "model's own"),
        _field("samples.height", "Height", "model's own"),
        _field("samples.file", "Prompts file"),
        _field("samples.first", "Before the first step"),
    ),
    "Convolutions and text encoder": (
        _field("network.conv_rank", "Rank of convolutions"),
        _field("network.conv_alpha", "Alpha of convolutions"),
        _field("network.text_encoder", "Train the text encoder"),
        _field("network.text_encoder_steps", "Only for the first n steps"),
        _field("optimizer.text_encoder_lr", "Text encoder learning rate", "the same"),
    ),
    "Captions": (
        _field("max_tokens", "Tokens of a caption"),
        _field("clip_skip", "Clip skip", "the model's own"),
        _field("dataset.keep_tags", "Keep the first n tags"),
        _field("dataset.shuffle_tags", "Shuffle the other tags"),
        _field("dataset.tag_dropout", "Tag dropout"),
        _field("dataset.caption_dropout", "Caption dropout"),
        _field("dataset.caption_extensions", "Caption files"),
        _field("dataset.separator", "Tag separator"),
        _field("dataset.caption_source", "Captions come from"),
        _field("dataset.prefix", "In front of every caption"),
        _field("dataset.suffix", "Behind every caption"),
        _field("dataset.keep_separator", "Separator of kept tags"),
        _field("dataset.secondary_separator", "Separator inside a tag"),
        _field("dataset.wildcards", "Choices {a|b} and lines"),
        _field("dataset.tag_warmup", "Warm-up of tags"),
        _field("dataset.tag_warmup_least", "Tags at the first step"),
    ),
    "Pictures, masks, regularisation, validation": (
        _field(REGULARISATION, "Regularisation folders"),
        _field("loss.prior_weight", "Prior weight"),
        _field("loss.preservation", "Preserve the class"),
        _field("loss.trigger", "Trigger word"),
        _field("loss.class_word", "Word for its class"),
        _field(VALIDATION, "Validation folders"),
        _field("dataset.validation_share", "Fraction held out"),
        _field("validate_every", "Validate every n steps"),
        _field("validate_every_epochs", "Validate every n epochs"),
        _field("patience", "Stop after n validations"),
        _field("block_patience", "Freeze a block after n"),
        _field("min_delta", "Least gain"),
        _field("dataset.alpha_mask", "Alpha is the mask"),
        _field("loss.masked", "Use masks"),
        _field("loss.normalised_mask", "Normalise by the mask's share"),
        _field("dataset.flip", "Flip at random"),
        _field("dataset.random_crop", "Crop at random"),
        _field("dataset.color", "Change colours at random"),
        _field("dataset.height", "Height"),
        _field("dataset.more_sizes", "Further resolutions", "such as 768, 1024"),
        _field("dataset.buckets", "Buckets"),
        _field("dataset.bucket_step", "Bucket step"),
        _field("dataset.bucket_least", "Smallest side"),
        _field("dataset.bucket_most", "Largest side"),
        _field("dataset.upscale", "Enlarge small pictures"),
        _field("dataset.toml", "sd-scripts' dataset .toml instead of folders"),
        _field("dataset.cache", "Cache folder"),
    ),
    "Loss and noise": (
        _field("loss.kind", "Loss"),
        _field("loss.huber_c", "Huber c"),
        _field("loss.huber_schedule", "Huber schedule"),
        _field("loss.min_snr_gamma", "Min-SNR gamma"),
        _field("loss.debiased", "Debiased estimation"),
        _field("loss.noise_offset", "Noise offset"),
        _field("loss.multires_iterations", "Multires noise iterations"),
        _field("loss.multires_discount", "Multires discount"),
        _field("loss.input_perturbation", "Input perturbation"),
        _field("loss.zero_terminal_snr", "Zero terminal SNR"),
        _field("loss.prediction", "Prediction"),
        _field("loss.v_pred_like_loss", "Loss of v prediction added"),
        _field("loss.scale_v_pred_loss_like_noise_pred", "Scale v's loss like epsilon's"),
        _field("loss.timesteps", "Timesteps"),
        _field("loss.timestep_mean", "Mean", "of the distribution"),
        _field("loss.timestep_std", "Standard deviation", "of the distribution"),
        _field("loss.min_timestep", "First timestep"),
        _field("loss.max_timestep", "Last timestep"),
        _field("pool.draws", "Pool: draws per picture"),
        _field("pool.keep", "Pool is kept"),
        _field("pool.dtype", "Pool's data type"),
    ),
    "Network and optimizer": (
        _field("network.start", "Go on from a LoRA", "its name in the list"),
        _field("network.cap", "Cap on a block's norm"),
        _field("network.elements", "Weights by kind of layer"),
        _field("network.factor", "LoKr's factor"),
        _field("network.rank_dropout", "Rank dropout"),
        _field("network.module_dropout", "Module dropout"),
        _field("network.neuron_dropout", "Neuron dropout"),
        _field("network.noise_scaling", "Less at high noise"),
        _field("network.noise_least", "Share at the highest noise"),
        _field("network.noise_power", "Power of the fall"),
        _field("optimizer.lora_plus", "LoRA+ ratio"),
        _field("optimizer.clip", "Clip gradients at"),
        _field("optimizer.accumulate", "Batches per step"),
        _field("optimizer.ema", "EMA decay"),
        _field("optimizer.ema_warmup", "EMA warm-up"),
        _field("optimizer.arguments", "Optimizer arguments", "name=value, one per line"),
        _field("schedule.warmup", "Warm-up steps"),
        _field("schedule.cycles", "Restarts"),
        _field("schedule.least", "Lowest learning rate"),
    ),
    "Precision, seed, saving": (
        _field("precision", "Precision"),
        _field("fp8", "Frozen weights as fp8"),
        _field("offload", "Blocks in front on the CPU"),
        _field("vae", "VAE", "the checkpoint's own"),
        _field("seed", "Seed"),
        _field("epochs", "Epochs instead of steps"),
        _field("save_every", "Save every n steps"),
        _field("save_every_epochs", "Save every n epochs"),
        _field("keep", "Checkpoints to keep"),
        _field("save_dtype", "Data type in the file"),
        _field("wandb", "Weights & Biases project", "none"),
        _field("description", "Description"),
    ),
    "name": (_field("name", "Name of the LoRA"),),
}
FIELDS: tuple[Field, ...] = tuple(field for group in GROUPS.values() for field in group)
NAMES: tuple[str, ...] = tuple(field.name for field in FIELDS)
EMPTY_PATHS = (
    "dataset.toml",
    "dataset.cache",
    "network.start",
    "vae",
    "samples.file",
    "wandb",
)  # None where nothing is typed
UNFOLDED = ("dataset", "weights", "network", MAIN, "samples", "name")
FOLDED = tuple(group for group in GROUPS if group not in UNFOLDED)
_SAMPLES = {"samples": {"every": 100, "first": True}}  # so that a prompt alone is enough to have samples drawn
_DEFAULTS: Mapping[str, Mapping[str, object]] = {  # by architecture
    "sd1": _SAMPLES,
    "sd2": _SAMPLES,
    "sdxl": {**_SAMPLES, "checkpointing": True},  # for 12 to 24 GB
}
_PLACEHOLDER: Mapping[str, object] = {"name": "robot", "dataset": {"folders": [{"path": "."}]}}


def defaults(architecture: str = "sd1") -> dict[str, object]:
    """The values of the form before anything is loaded: settings for a first LoRA on this architecture."""
    data = write(read(RunConfig, {**_PLACEHOLDER, **_DEFAULTS[architecture]}))
    data["name"], data["dataset"]["folders"] = "", []
    return _values(data)


def set_in_folds(values: Mapping[str, object]) -> list[list[tuple[str, str]]]:
    """What the fields of each folded group hold beside the defaults: label and value; a switch that is on has none.

    The description sets nothing.
    """
    plain = defaults()

    def is_set(field: Field) -> bool:
        value, usual = values[field.name], plain[field.name]
        return value != usual and bool(value or usual) and field.path != "description"

    return [
        [(field.label, _in_a_line(values[field.name])) for field in GROUPS[group] if is_set(field)] for group in FOLDED
    ]


def _in_a_line(value: object) -> str:
    if isinstance(value, bool):
        return "" if value else "off"
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value or "none").split())


def values_of(config: RunConfig) -> dict[str, object]:
    """The values of the form that show this run."""
    return _values(write(config))


def config_of(values: Mapping[str, object], rest: Mapping[str, Any] | None = None, *, draft: bool = False) -> RunConfig:
    """The configuration in the form; `rest` is the loaded `run.json`. Raises ConfigError, which names the entry.

    A `draft`, used to estimate the cost, needs neither pictures nor a name.
    """
    data: dict[str, Any] = copy.deepcopy(dict(rest)) if rest else {}
    for field in FIELDS:
        value = _read(field, values[field.name])
        if field.path not in (FOLDERS, REGULARISATION, VALIDATION):
            _put(data, field.path, value)
    dataset = data.setdefault("dataset", {})
    known = {folder["path"]: folder for folder in (*dataset.get("folders", ()), *dataset.get("validation", ()))}
    lines = {path: _read(_BY_PATH[path], values[_BY_PATH[path].name]) for path in (FOLDERS, REGULARISATION, VALIDATION)}
    dataset["folders"] = [
        *_folders(lines[FOLDERS], known, regularisation=False),
        *_folders(lines[REGULARISATION], known, regularisation=True),
    ]
    dataset["validation"] = _folders(lines[VALIDATION], known, regularisation=False)
    if not dataset["folders"] and not dataset.get("toml"):
        if draft:
            dataset["folders"] = [{"path": "."}]
        else:
            raise ConfigError("there is no folder of pictures yet: expected one in “Folder of pictures”")
    if not data["name"]:
        if not draft:
            raise ConfigError("the LoRA has no name yet: expected one such as robot")
        data["name"] = "draft"
    return resolved(read(RunConfig, data))


_BY_PATH = {field.path: field for field in FIELDS}


def _values(data: Mapping[str, Any]) -> dict[str, object]:
    folders = data["dataset"]["folders"]
    lines = {
        FOLDERS: [folder["path"] for folder in folders if not folder.get("regularisation")],
        REGULARISATION: [folder["path"] for folder in folders if folder.get("regularisation")],
        VALIDATION: [folder["path"] for folder in data["dataset"]["validation"]],
    }
    return {field.name: _shown(field, lines.get(field.path, _get(data, field.path))) for field in FIELDS}


def _shown(field: Field, value: Any) -> object:
    """The value of the widget for a value of `run.json`."""
    if field.path == WEIGHTS:
        return value if isinstance(value, str) else BlockWeights.from_json(value).to_line(with_architecture=True)
    if field.kind == CHOICE:
        return AUTO if value is None else {True: YES, False: NO}[value] if isinstance(value, bool) else str(value)
    if field.kind == LINES:
        return "\n".join(value)
    if field.kind == NUMBERS and isinstance(value, list):
        return ", ".join(map(str, value))
    if field.kind == PAIRS:
        return "\n".join(f"{name}={json.dumps(entry)}" for name, entry in value.items())
    if field.kind in (OPTIONAL, NUMBERS, TEXT):
        return "" if value is None else str(value)
    return value


def _read(field: Field, value: Any) -> Any:
    """The value of `run.json` for the value of a widget; `config_json.read` checks the rest."""
    if field.kind == CHOICE:
        if field.choices[1:] == (YES, NO) and value in (YES, NO):
            return value == YES
        return None if value == AUTO else int(value) if str(value).isdecimal() else value
    if field.kind == LINES:
        return [line.strip() for line in str(value or "").splitlines() if line.strip()]
    if field.kind == PAIRS:
        return dict(_pair(field, line) for line in str(value or "").splitlines() if line.strip())
    if field.kind == NUMBERS:
        numbers = [_optional(field, text) for text in str(value or "").replace(",", " ").split()]
        if field.path == "optimizer.text_encoder_lr":
            return None if not numbers else numbers[0] if len(numbers) == 1 else numbers
        return numbers
    if field.kind == OPTIONAL:
        return _optional(field, str(value or "").strip())
    if field.kind == TEXT:
        text = str(value or "").strip("\n") if field.path == "dataset.separator" else str(value or "").strip()
        return text or (None if field.path in EMPTY_PATHS else "")
    return value


def _optional(field: Field, text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise ConfigError(f"{field.path} = {text!r}: expected a number, or nothing") from error


def _pair(field: Field, line: str) -> tuple[str, Any]:
    name, equals, text = line.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{field.path}: {line.strip()!r}: expected name=value")
    try:
        return name.strip(), json.loads(text)
    except json.JSONDecodeError:
        return name.strip(), {"True": True, "False": False, "None": None}.get(text.strip(), text.strip())


def _folders(
    lines: Sequence[str], known: Mapping[str, Mapping[str, Any]], *, regularisation: bool
) -> list[dict[str, Any]]:
    paths = [str(Path(line).expanduser().resolve()) for line in lines]
    return [{**known.get(path, {}), "path": path, "regularisation": regularisation} for path in paths]


def _get(data: Mapping[str, Any], path: str) -> Any:
    value: Any = data
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _put(data: dict[str, Any], path: str, value: object) -> None:
    *parents, name = path.split(".")
    for part in parents:
        data = data.setdefault(part, {})
    data[name] = value
