"""Every option of `run.json` refuses what it cannot be, by its path, with the value and what was expected.

A new field has to be given its bad values here; wrong types follow from its type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import pytest

from lib_blocktrain.training.config import FolderConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError, key_of, read
from lib_blocktrain.training.dataset_config import OPTIONS, SIZES
from lib_blocktrain.training.plan import plan_of
from tests.tiny_models import diffusers_unet

ANY: tuple[object, ...] = ()  # whatever its type allows can be meant
LOW = (-1,)
SHARE = (-0.1, 1, 1.5)
SIDES = (0, 63, 100)

# By path, values of the right type that are refused. What needs another option to be wrong is in CONFLICTS.
OUT_OF_RANGE: Mapping[str, tuple[object, ...]] = {
    "name": ("", "../x", ".x", "a/b", "CON", "x.", "n" * 101), "checkpoint": ANY, "vae": ANY, "clip_skip": (0, 13),
    "max_tokens": (77,), "wandb": ("", " "), "description": ANY, "steps": (0, -3), "epochs": LOW, "batch": (0, -1),
    "seed": ANY, "precision": ANY, "checkpointing": ANY, "compile": ANY, "fp8": ANY, "offload": ANY,
    "save_every": LOW, "save_every_epochs": LOW, "keep": LOW, "validate_every": LOW, "validate_every_epochs": LOW,
    "patience": LOW, "block_patience": LOW, "min_delta": SHARE, "save_dtype": ANY, "metadata": ANY,
    "dataset.caption_extensions": ANY, "dataset.separator": ("",), "dataset.keep_tags": LOW,
    "dataset.shuffle_tags": ANY, "dataset.tag_dropout": SHARE, "dataset.caption_dropout": SHARE,
    "dataset.caption_source": ANY, "dataset.prefix": ANY, "dataset.suffix": ANY, "dataset.keep_separator": ANY,
    "dataset.secondary_separator": ANY, "dataset.wildcards": ANY, "dataset.tag_warmup": (-0.5,),
    "dataset.tag_warmup_least": LOW, "dataset.flip": ANY, "dataset.random_crop": ANY, "dataset.color": ANY,
    "dataset.alpha_mask": ANY, "dataset.size": SIDES, "dataset.height": SIDES, "dataset.buckets": ANY,
    "dataset.bucket_step": (0, 4, 12), "dataset.bucket_least": SIDES, "dataset.bucket_most": SIDES,
    "dataset.upscale": ANY, "dataset.toml": ANY, "dataset.more_sizes": ([63],), "dataset.validation_share": SHARE,
    "dataset.cache": ANY, "dataset.notices": ANY, "dataset.folders[0].path": ANY, "dataset.folders[0].repeats": (0,),
    "dataset.folders[0].regularisation": ANY, "dataset.folders[0].class_caption": ANY,
    "dataset.folders[0].mask_folder": ANY, "dataset.folders[0].numbered": ANY, "dataset.folders[0].batch": (0,),
    "network.algorithm": ANY, "network.start": ANY, "network.rank": (0, 4097), "network.alpha": LOW,
    "network.conv_rank": (-1, 4097), "network.conv_alpha": LOW,
    "network.weights": (3, "NOPE", "OUT99=1", "OUT00=3", "OUT00=-1", {"weights": {"OUT99": 1}},
                        {"architecture": "sdxl"}),
    "network.meaning": ANY, "network.cap": (0, -1), "network.elements": ({"attn9": 1}, {"attn1": -1}),
    "network.block_ranks": ({"OUT99": 4}, {"OUT00": -1}, {"OUT00": 4097}),
    "network.block_alphas": ({"OUT99": 4}, {"OUT00": -1}),
    "network.conv_block_ranks": ({"OUT99": 4}, {"OUT00": -1}, {"OUT00": 4097}),
    "network.conv_block_alphas": ({"OUT99": 4}, {"OUT00": -1}), "network.text_encoder": ANY,
    "network.text_encoder_steps": LOW, "network.factor": (0, -2), "network.rank_dropout": SHARE,
    "network.module_dropout": SHARE, "network.neuron_dropout": SHARE, "network.noise_scaling": ANY,
    "network.noise_least": (-0.1, 1.1), "network.noise_power": (0,), "optimizer.name": ("Adamw9",),
    "optimizer.lr": (0, -1), "optimizer.text_encoder_lr": (0, [1, 0], [1, 1, 1], []), "optimizer.lora_plus": (0,),
    "optimizer.arguments": ANY, "optimizer.clip": LOW, "optimizer.accumulate": (0,), "optimizer.ema": SHARE,
    "optimizer.ema_warmup": ANY, "schedule.name": ANY, "schedule.warmup": LOW, "schedule.cycles": (0,),
    "schedule.least": (-0.1, 1.1), "loss.kind": ANY, "loss.huber_c": (0,), "loss.huber_schedule": ANY,
    "loss.min_snr_gamma": LOW, "loss.debiased": ANY, "loss.noise_offset": LOW, "loss.multires_iterations": LOW,
    "loss.multires_discount": (-0.1, 1.5), "loss.input_perturbation": LOW, "loss.zero_terminal_snr": ANY,
    "loss.prediction": ANY, "loss.v_pred_like_loss": LOW, "loss.scale_v_pred_loss_like_noise_pred": ANY,
    "loss.min_timestep": (-1, 1000), "loss.max_timestep": (0, 1001), "loss.timesteps": ANY, "loss.timestep_mean": ANY,
    "loss.timestep_std": (0, -1), "loss.prior_weight": LOW, "loss.preservation": LOW, "loss.trigger": ANY,
    "loss.class_word": ANY, "loss.masked": ANY, "loss.normalised_mask": ANY,
    "samples.prompts": (["a --q 3"], ["a --s 0"]), "samples.file": ANY, "samples.negative": ANY,
    "samples.width": SIDES, "samples.height": SIDES, "samples.every": LOW, "samples.first": ANY, "samples.seed": LOW,
    "samples.steps": (0, 1001), "samples.cfg": LOW, "samples.sampler": ANY, "pool.draws": (-1, 100_001),
    "pool.keep": ANY, "pool.dtype": ANY,
}  # fmt: skip


def fields_of(cls: type, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and type of every entry of a run, those of a folder once."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path, hint = f"{where}{key_of(field)}", hints[field.name]
        if cls is FolderConfig and field.name in (*OPTIONS, *SIZES):
            continue  # the dataset's
        if dataclasses.is_dataclass(hint):
            yield from fields_of(hint, f"{path}.")
        elif path == "dataset.folders":
            yield from fields_of(FolderConfig, f"{path}[0].")
        elif path != "dataset.validation":
            yield path, hint


FIELDS = dict(fields_of(RunConfig))


def run_with(changes: Mapping[str, object]) -> dict[str, Any]:
    data: dict[str, Any] = {"name": "x", "dataset": {"folders": [{"path": "p"}]}}
    for path, value in changes.items():
        place = data
        *before, last = path.split(".")
        for key in before:
            place = place["folders"][0] if key == "folders[0]" else place.setdefault(key, {})
        place[last] = value
    return data


def wrong_types(hint: Any) -> Iterator[object]:
    """Yield values that this type has not."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        wrong = ({"x": 1},) if len(kinds) > 1 else wrong_types(kinds[0])
        yield from (value for value in wrong if value is not None)
        return
    if hint is Any:
        return
    if type(None) not in arguments and not dataclasses.is_dataclass(hint):
        yield None
    if origin is Literal:
        yield from ("nonsense", 3.5, ["a"])
    elif origin is tuple:
        yield from (3, {"a": 1}, [{}])
    elif origin is not None:
        yield from ([], "a", 3)
    elif hint is str:
        yield from (3, True, ["a"])
    elif hint is bool:
        yield from (1, "yes")
    elif hint is int:
        yield from ("3", 1.5, True, float("nan"))
    elif hint is float:
        yield from ("3", True, float("nan"), float("inf"), [1.0])


def test_every_field_has_its_cases():
    assert OUT_OF_RANGE.keys() == FIELDS.keys()


unet = cache(diffusers_unet)


def refusal(changes: Mapping[str, object]) -> str:
    """What is said of a run by its file, or for names of blocks, which depend on the model, by its plan."""
    try:
        network = read(RunConfig, run_with(changes)).network
        plan_of(unet(), "sd1", network)
    except ConfigError as error:
        return str(error)
    pytest.fail(f"{changes} was taken")


def innermost(value: object) -> object:
    if isinstance(value, Mapping) and value:
        key, inside = next(iter(value.items()))
        return key if str(key).startswith(("attn9", "OUT99")) else innermost(inside)
    return innermost(value[-1]) if isinstance(value, list) and value else value


@pytest.mark.parametrize("path", FIELDS)
def test_each_option_names_itself_the_value_and_what_it_expected(path):
    for value in (*wrong_types(FIELDS[path]), *OUT_OF_RANGE[path]):
        said = refusal({path: value})
        assert said.startswith(path), (value, said)
        assert "expected" in said or "did you mean" in said, (value, said)
        shown = "is empty" if value is None else str(innermost(value)).split("=")[0][:40].strip()
        assert shown in said, (value, said)


VALIDATES = {"validate_every": 1}
CONFLICTS: list[tuple[dict[str, object], str]] = [
    ({"compile": True, "checkpointing": True}, "compile = True: expected false with checkpointing"),
    ({"fp8": True, "compile": True}, "fp8 = True: expected false with compile"),
    ({"offload": True, "compile": True}, "offload = True: expected false with compile"),
    (
        {"fp8": True, "network.algorithm": "dora", "network.meaning": "lr"},
        "fp8 = True: expected false with network.algo",
    ),
    (
        {"offload": True, "network.algorithm": "dora", "network.meaning": "lr"},
        "offload = True: expected false with net",
    ),
    ({"pool.draws": 2, "compile": True}, "compile = True: expected false with pool.draws"),
    ({"pool.draws": 2, "network.text_encoder": True}, "pool.draws = 2: expected 0 with network.text_encoder"),
    (
        {"pool.draws": 2, "block_patience": 1, "network.noise_scaling": "scale", **VALIDATES},
        "pool.draws = 2: expected 0 with block_patience and network.noise_scaling",
    ),
    ({"patience": 1}, "patience = 1: expected 0, or validate_every"),
    ({"block_patience": 1}, "block_patience = 1: expected 0, or validate_every"),
    ({"min_delta": 0.1}, "min_delta = 0.1: expected 0 without patience"),
    ({"dataset.toml": "a.toml"}, "dataset.folders = "),
    ({"dataset.folders[0].height": 64}, "dataset.folders[0].height = 64: expected a size, too"),
    ({"dataset.folders[0].size": 63}, "dataset.folders[0].size = 63: expected a multiple of 8"),
    ({"dataset.folders[0].tag_dropout": 2}, "dataset.folders[0].tag_dropout = 2.0: expected 0 up to, not with, 1"),
    ({"network.algorithm": "loha", "network.rank_dropout": 0.1}, "network.algorithm = 'loha': expected lora"),
    ({"network.algorithm": "loha", "network.neuron_dropout": 0.1}, "network.algorithm = 'loha': expected lora"),
    ({"network.algorithm": "loha", "network.noise_scaling": "rank"}, "network.algorithm = 'loha': expected lora"),
    ({"network.algorithm": "dora"}, "network.meaning = 'scale' with dora"),
    ({"network.algorithm": "dora", "network.meaning": "max_norm"}, "network.meaning = 'max_norm' with dora"),
    ({"network.text_encoder_steps": 3}, "network.text_encoder_steps = 3: expected 0: the text encoder is not trained"),
    ({"optimizer.ema_warmup": True}, "optimizer.ema_warmup = True: expected false without ema"),
    ({"loss.min_timestep": 500, "loss.max_timestep": 500}, "loss.min_timestep = 500: expected 0 to 499"),
    ({"loss.timestep_mean": 0.5}, "loss.timestep_mean = 0.5: expected nothing with uniform"),
    ({"loss.timestep_std": 0.5}, "loss.timestep_std = 0.5: expected nothing with uniform"),
    ({"loss.preservation": 1}, "loss.trigger = ''"),
    ({"loss.preservation": 1, "loss.trigger": "zx"}, "loss.class_word = ''"),
    (
        {"loss.preservation": 1, "loss.trigger": "zx", "loss.class_word": "zx"},
        "loss.class_word = 'zx': expected an",
    ),
    ({"loss.debiased": True, "loss.min_snr_gamma": 5}, "loss.debiased = True: expected one of debiased"),
    ({"samples.file": "a.txt", "samples.prompts": ["a"]}, "samples.file = 'a.txt': expected a file or prompts"),
]


@pytest.mark.parametrize(("changes", "expected"), CONFLICTS, ids=lambda value: str(value)[:50])
def test_options_that_exclude_each_other(changes, expected):
    assert refusal(changes).startswith(expected)
