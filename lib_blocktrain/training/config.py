"""What a run is, as frozen dataclasses: the contents of `run.json`.

Every field but name and dataset has a default. Sizes are in pixels, rates are fractions.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lib_blocktrain.files import is_device_name
from lib_blocktrain.training.config_json import ConfigError, check, read, read_text, write
from lib_blocktrain.training.dataset_config import DatasetConfig, FolderConfig, check_side
from lib_blocktrain.training.kohya_toml import read_toml
from lib_blocktrain.training.optimizer_table import spec_of
from lib_blocktrain.training.sample_prompts import MOST_SEED, MOST_STEPS, SamplePrompt, prompts_in, read_prompt

_NAME = re.compile(r"(?!\.)[^\\/:*?\"<>|\x00-\x1f\x7f\ud800-\udfff]{1,100}")
MAX_RANK = 4096  # more than any layer has

WeightMode = Literal["scale", "lr", "rank", "max_norm"]
Algorithm = Literal["lora", "loha", "lokr", "dora"]


@dataclass(frozen=True)
class NetworkConfig:
    """The network: its algorithm, its size, and the block weights and what they scale.

    `weights` is any preset string, kohya's network_args or JSON. `conv_rank` 0 leaves convolutions alone; above 0 the
    residual blocks, down- and upsamplers have modules too (LoCon). `elements` multiplies the weight of a kind of layer
    ("attn1", "attn2", "ff", "proj", "conv"), everywhere or in one block ("OUT03.attn2"). `block_ranks` and the like
    are a block's own numbers, which replace those that follow from its weight.
    """

    algorithm: Algorithm = "lora"
    # A network file to go on from, under these weights and this rank; None: from nothing.
    start: str | None = field(default=None, metadata={"also": "network_weights"})
    rank: int = 16
    alpha: float = 0.0  # 0: the rank
    conv_rank: int = 0
    conv_alpha: float = 0.0
    weights: Any = "ALL"
    weight_mode: WeightMode = field(default="scale", metadata={"json_key": "meaning"})
    cap: float = 1.0  # of a block's delta weights, for the weight mode max_norm
    elements: Mapping[str, float] = field(default_factory=dict)
    block_ranks: Mapping[str, int] = field(default_factory=dict)
    block_alphas: Mapping[str, float] = field(default_factory=dict)
    conv_block_ranks: Mapping[str, int] = field(default_factory=dict)
    conv_block_alphas: Mapping[str, float] = field(default_factory=dict)
    text_encoder: bool = False  # train BASE
    # So many steps of BASE, which then keeps its weights; 0: all.
    text_encoder_steps: int = field(default=0, metadata={"also": "stop_text_encoder_training"})
    factor: int = -1  # of LoKr: the size of the small matrix, -1 for the nearest to square
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    neuron_dropout: float = 0.0
    # Less of the U-Net's modules at high noise (see `noise_scaling`): fewer ranks, as T-LoRA, or a lower scale.
    noise_scaling: Literal["none", "rank", "scale"] = "none"
    noise_least: float = 0.5  # the share at the last timestep
    noise_power: float = 1.0  # above 1: less at medium noise, too

    def __post_init__(self) -> None:
        check(1 <= self.rank <= MAX_RANK, "rank", self.rank, f"1 to {MAX_RANK}")
        check(0 <= self.conv_rank <= MAX_RANK, "conv_rank", self.conv_rank, f"0 (no convolutions) to {MAX_RANK}")
        for name in ("alpha", "conv_alpha"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 (the rank) or more")
        check(self.text_encoder_steps >= 0, "text_encoder_steps", self.text_encoder_steps, "0 (all) or more")
        check(self.cap > 0, "cap", self.cap, "more than 0")
        for name, value in self.elements.items():
            check(value >= 0, f"elements.{name}", value, "0 or more")
        check(self.factor == -1 or self.factor >= 1, "factor", self.factor, "-1 (nearest to square), or 1 or more")
        for name in ("rank_dropout", "module_dropout", "neuron_dropout"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 up to, not with, 1")
        dropped = self.rank_dropout or self.neuron_dropout
        check(not dropped or self.algorithm == "lora", "algorithm", self.algorithm, "lora, for rank or neuron dropout")
        check(
            self.noise_scaling != "rank" or self.algorithm == "lora",
            "algorithm",
            self.algorithm,
            "lora, for noise_scaling = rank",
        )
        check(0 <= self.noise_least <= 1, "noise_least", self.noise_least, "0 to 1")
        check(self.noise_power > 0, "noise_power", self.noise_power, "more than 0")
        check(isinstance(self.weights, str | dict), "weights", self.weights, "a preset string or an object")
        if self.algorithm == "dora" and self.weight_mode in ("scale", "max_norm"):
            reason = {
                "scale": "alpha does not scale a DoRA's finished delta",
                "max_norm": "a DoRA's delta cannot be shortened by scaling one of its tensors",
            }[self.weight_mode]
            raise ConfigError(f"meaning = {self.weight_mode!r} with dora: {reason}: expected 'lr' or 'rank'")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, by a name of `optimizer_table.TABLE` or a dotted class; `arguments` go to it as they are."""

    name: str = "AdamW"
    lr: float | None = None  # None: the optimizer's own, by `optimizer_table`
    text_encoder_lr: tuple[float, ...] | float | None = None  # of SDXL's two encoders one each, or one; None: as lr
    lora_plus: float = 1.0  # LR of lora_up over that of lora_down (Hayou et al. 2024, 2402.12354)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    clip: float = 1.0  # largest norm of the gradients of all; 0: as they are
    accumulate: int = 1  # batches to a step
    ema: float = 0.0  # decay of the average of the weights that is saved; 0: the weights themselves
    ema_warmup: bool = False  # begin with a shorter average: the decay of step n is at most (1 + n) / (10 + n)

    def __post_init__(self) -> None:
        spec_of(self.name)
        check(self.lr is None or self.lr > 0, "lr", self.lr, "more than 0")
        rates = self.text_encoder_rates
        expected = "more than 0, or two such numbers: for SDXL's first and second text encoder"
        right = self.text_encoder_lr != () and len(rates) <= 2 and all(rate > 0 for rate in rates)
        check(right, "text_encoder_lr", self.text_encoder_lr, expected)
        check(self.lora_plus > 0, "lora_plus", self.lora_plus, "more than 0")
        check(self.clip >= 0, "clip", self.clip, "0 (no clipping) or more")
        check(self.accumulate >= 1, "accumulate", self.accumulate, "1 or more")
        check(0 <= self.ema < 1, "ema", self.ema, "0 up to, not with, 1")
        check(not self.ema_warmup or self.ema > 0, "ema_warmup", True, "false without ema, or an ema above 0")

    @property
    def text_encoder_rates(self) -> tuple[float, ...]:
        """The learning rates of the text encoders: none, one for all, or one for each."""
        own = self.text_encoder_lr
        return () if own is None else own if isinstance(own, tuple) else (own,)

    @property
    def rate(self) -> float:
        """The learning rate: the one that is asked for, else the optimizer's own."""
        return spec_of(self.name).rate if self.lr is None else self.lr


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the steps: `warmup` in steps, `cycles` of restarts, `min_lr_ratio` of `lr` at the end."""

    name: Literal["constant", "linear", "cosine", "cosine_with_restarts"] = "constant"
    warmup: int = 0
    cycles: int = 1
    min_lr_ratio: float = field(default=0.0, metadata={"json_key": "least"})

    def __post_init__(self) -> None:
        check(self.warmup >= 0, "warmup", self.warmup, "0 or more steps")
        check(self.cycles >= 1, "cycles", self.cycles, "1 or more")
        check(0 <= self.min_lr_ratio <= 1, "least", self.min_lr_ratio, "0 to 1")


@dataclass(frozen=True)
class LossConfig:
    """Noise, target and loss; the papers are cited in `model.diffusion`. 0 or None switches an option off."""

    kind: Literal["l2", "l1", "huber", "smooth_l1"] = field(default="l2", metadata={"also": "loss_type"})
    huber_c: float = 0.1
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    min_snr_gamma: float = 0.0
    debiased: bool = False
    noise_offset: float = 0.0
    multires_iterations: int = 0
    multires_discount: float = 0.3
    input_perturbation: float = 0.0
    zero_terminal_snr: bool | None = None  # None: where the checkpoint is marked so
    prediction: Literal["epsilon", "v"] | None = None  # None: the model's
    v_pred_like_loss: float = 0.0  # for epsilon: this much of the loss that v prediction would have is added
    scale_v_pred_loss_like_noise_pred: bool = False
    min_timestep: int = 0
    max_timestep: int = 1000
    timesteps: Literal["uniform", "logit-normal", "sigma"] = "uniform"  # their distribution in that range
    timestep_mean: float | None = None  # of the logit, or of ln sigma; None: 0, or -1.2
    timestep_std: float | None = None  # None: 1, or 1.2
    prior_weight: float = 1.0
    # Differential output preservation: this much of the loss between the model with the network and without, for the
    # caption with `class_word` in the place of `trigger`.
    preservation: float = 0.0
    trigger: str = ""
    class_word: str = ""
    masked: bool = True  # use masks where there are any
    normalised_mask: bool = False  # divide by the mask's share, so that a small mask is not a small loss

    def __post_init__(self) -> None:
        check(self.huber_c > 0, "huber_c", self.huber_c, "more than 0")
        check(1 <= self.max_timestep <= 1000, "max_timestep", self.max_timestep, "1 to 1000")
        most = self.max_timestep - 1
        check(0 <= self.min_timestep <= most, "min_timestep", self.min_timestep, f"0 to {most}, below max_timestep")
        check(self.timestep_std is None or self.timestep_std > 0, "timestep_std", self.timestep_std, "more than 0")
        for name in ("timestep_mean", "timestep_std"):
            value = getattr(self, name)
            is_used = value is None or self.timesteps != "uniform"
            check(is_used, name, value, "nothing with uniform timesteps, which have none")
        for name in ("v_pred_like_loss", "preservation"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("trigger", "class_word"):
            named = not self.preservation or bool(getattr(self, name).strip())
            check(named, name, getattr(self, name), "a word of the captions, and the word for its class: preservation")
        check(not self.preservation or self.trigger != self.class_word, "class_word", self.class_word, "another word")
        for name in ("min_snr_gamma", "noise_offset", "multires_iterations", "input_perturbation", "prior_weight"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        check(0 <= self.multires_discount <= 1, "multires_discount", self.multires_discount, "0 to 1")
        check(not (self.debiased and self.min_snr_gamma), "debiased", True, "one of debiased and min_snr_gamma")


@dataclass(frozen=True)
class SampleConfig:
    """Images to draw during the run, with the same prompts and seeds: every `every` steps, at the end, and `first`.

    A prompt may have its own options, as `sample_prompts` reads them; the others are these.
    """

    prompts: tuple[str, ...] = ()
    # sd-scripts' file of prompts instead; None once it has been read.
    file: str | None = field(default=None, metadata={"also": "sample_prompts"})
    negative: str = ""
    width: int | None = None  # None: the model's own
    height: int | None = None
    every: int = 0
    first: bool = False
    seed: int = 0
    steps: int = 20
    cfg: float = 6.0
    sampler: str = "DDIM"

    def __post_init__(self) -> None:
        check(not (self.file and self.prompts), "file", self.file, "a file or prompts, one of them")
        for name in ("width", "height"):
            check_side(name, getattr(self, name))
        check(self.every >= 0, "every", self.every, "0 (never) or more steps")
        check(0 <= self.seed <= MOST_SEED, "seed", self.seed, f"0 to {MOST_SEED}")
        check(1 <= self.steps <= MOST_STEPS, "steps", self.steps, f"1 to {MOST_STEPS}")
        check(self.cfg >= 0, "cfg", self.cfg, "0 or more")
        for index, line in enumerate(self.prompts):
            try:
                read_prompt(line)
            except ConfigError as error:
                raise ConfigError(f"prompts[{index}]: {error}") from None

    def prompt(self, number: int) -> SamplePrompt:
        """Return a prompt with everything that it is drawn with; the sizes may be None, the model's own."""
        own = read_prompt(self.prompts[number])
        given = {name: value for name, value in vars(own).items() if value is not None}
        names = ("negative", "width", "height", "steps", "cfg", "sampler")
        return SamplePrompt(**{"seed": self.seed + number, **{name: getattr(self, name) for name in names}, **given})

    @property
    def texts(self) -> list[str]:
        """All prompts and negative prompts, without their options."""
        each = [self.prompt(number) for number in range(len(self.prompts))]
        return [text for one in each for text in (one.prompt, one.negative) if text]


@dataclass(frozen=True)
class PoolConfig:
    """A fixed pool of noise: `draws` of noise and timestep a picture, used again and again; 0 draws anew at each step.

    What the blocks in front of the first trained one make of a draw is computed once and kept, in `dtype`: "auto" is
    that of the computation, with which a step is the same to the last bit.
    """

    draws: int = 0
    keep: Literal["memory", "disk"] = "memory"
    dtype: Literal["auto", "bf16"] = "auto"

    def __post_init__(self) -> None:
        check(0 <= self.draws <= 100_000, "draws", self.draws, "0 (fresh noise) to 100000")


@dataclass(frozen=True)
class RunConfig:
    """A run. `steps` are the optimizer's; `save_every` 0 saves at the end only.

    `epochs` above 0 take the place of `steps`. `patience`: so many validations in a row without a lower loss end the
    run; `block_patience`: so many in which what a block has learnt since the one before did not lower it freeze that
    block. Lower by no more than `min_delta`, a share of the loss, is not lower.
    """

    name: str
    dataset: DatasetConfig
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    checkpoint: str | None = None  # the model's file; None: what the host has loaded, the demo model standalone
    # The autoencoder's file; None: the checkpoint's own. In a WebUI the one that is chosen there, by its name.
    vae: str | None = None
    clip_skip: int | None = (
        None  # the layer of SD1's text encoder, from the end; None: the checkpoint's, in a WebUI its
    )
    # Captions of a fixed length, as in sd-scripts; None: as many chunks of 75 tokens as there are, as in a WebUI.
    max_tokens: Literal[75, 150, 225] | None = field(default=None, metadata={"also": "max_token_length"})
    # The project of Weights & Biases that numbers and samples are sent to; None: none.
    wandb: str | None = field(default=None, metadata={"also": "log_tracker_name"})
    description: str = ""
    steps: int = field(default=1000, metadata={"also": "max_train_steps"})
    epochs: int = field(default=0, metadata={"also": "max_train_epochs"})
    batch: int = 1  # images per process
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    checkpointing: bool = False
    compile: bool = False  # the U-Net, by torch.compile: minutes at the start for faster steps
    # The frozen weights of the U-Net's blocks as fp8 (e4m3) on the device; computed as before.
    fp8: bool = field(default=False, metadata={"also": "fp8_base"})
    offload: bool = False  # the blocks in front of the first trained one on the CPU, but while they run
    save_every: int = field(default=0, metadata={"also": "save_every_n_steps"})
    save_every_epochs: int = field(default=0, metadata={"also": "save_every_n_epochs"})
    keep: int = 0  # how many of the files saved during the run stay; 0: all
    validate_every: int = field(default=0, metadata={"also": "validate_every_n_steps"})
    validate_every_epochs: int = field(default=0, metadata={"also": "validate_every_n_epochs"})
    patience: int = 0
    block_patience: int = 0
    min_delta: float = 0.0
    save_dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = _NAME.fullmatch(self.name) is not None and len(self.name.encode()) <= 200
        check(whole, "name", self.name, "a file's name: no slashes, not beginning with a dot, up to 100 characters")
        usual = not self.name.endswith((".", " ")) and not is_device_name(self.name)
        check(usual, "name", self.name, "a name without a dot or space at its end, and no device's (CON, NUL)")
        check(
            self.clip_skip is None or 1 <= self.clip_skip <= 12, "clip_skip", self.clip_skip, "1 (the last layer) to 12"
        )
        check(self.wandb is None or bool(self.wandb.strip()), "wandb", self.wandb, "a project's name, or none")
        check(not (self.compile and self.checkpointing), "compile", True, "false with checkpointing, or that without")
        for name in ("fp8", "offload"):
            value = getattr(self, name)
            check(not (value and self.compile), name, value, "false with compile, or that without")
            own = value and self.network.algorithm == "dora"  # its change takes the layer's own weight
            check(not own, name, value, "false with network.algorithm dora, or another algorithm")
        pooled = self.pool.draws > 0
        check(not (pooled and self.compile), "compile", True, "false with pool.draws, or no pool")
        check(not (pooled and self.network.text_encoder), "pool.draws", self.pool.draws, "0 with network.text_encoder")
        masks = self.block_patience > 0 and self.network.noise_scaling != "none"
        check(not (pooled and masks), "pool.draws", self.pool.draws, "0 with block_patience and network.noise_scaling")
        for name in ("steps", "batch"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("save_every", "save_every_epochs", "validate_every", "validate_every_epochs", "keep"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 (never; for keep: all) or more")
        check(self.epochs >= 0, "epochs", self.epochs, "0 (steps) or more")
        validates = self.validate_every > 0 or self.validate_every_epochs > 0
        for name in ("patience", "block_patience"):
            value = getattr(self, name)
            check(value >= 0, name, value, "0 (never) or more validations")
            check(not value or validates, name, value, "0, or validate_every or validate_every_epochs above 0")
        check(0 <= self.min_delta < 1, "min_delta", self.min_delta, "0 up to, not with, 1")
        stops = self.patience > 0 or self.block_patience > 0
        check(stops or not self.min_delta, "min_delta", self.min_delta, "0 without patience and block_patience")


def load(path: str | Path) -> RunConfig:
    """Read a `run.json`, resolved; its paths are relative to its folder, and are returned absolute."""
    path = Path(path)
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: {error.msg}: expected a run.json") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return resolved(_absolute(read(RunConfig, data), path.resolve().parent))
    except (ValueError, RuntimeError) as error:  # paths with a null byte, links in a circle
        raise ConfigError(f"{path}: {error}") from error


def resolved(config: RunConfig) -> RunConfig:
    """Return the run with the folders and options of its dataset's toml in their place; raises ConfigError.

    It is called wherever a run comes in - a file, a form, a request - so that nothing later looks at the toml. Two
    files that ask for the same give the same run.
    """
    dataset = config.dataset
    if dataset.toml is not None:
        dataset, notices = read_toml(dataset)
        dataset = replace(dataset, notices=tuple(notices))
    if config.samples.file is not None:
        prompts = prompts_in(Path(config.samples.file))
        config = replace(config, samples=replace(config.samples, file=None, prompts=prompts))
    return replace(config, dataset=dataset.in_normal_form())


def dumps(config: RunConfig) -> str:
    """Return the text of a `run.json` that reads back as this very run."""
    return json.dumps(write(config), indent=2, ensure_ascii=False) + "\n"


def _absolute(config: RunConfig, folder: Path) -> RunConfig:
    def absolute(path: str) -> str:
        if "\0" in path:
            raise ConfigError(f"{path!r}: a path has no null character")
        return os.path.abspath(folder / path)  # links stay: the name of a folder has its repeats

    def at(path: str | None) -> str | None:
        return None if path is None else absolute(path)

    def folders(items: tuple[FolderConfig, ...]) -> tuple[FolderConfig, ...]:
        return tuple(replace(item, path=absolute(item.path), mask_folder=at(item.mask_folder)) for item in items)

    dataset = replace(
        config.dataset,
        folders=folders(config.dataset.folders),
        validation=folders(config.dataset.validation),
        toml=at(config.dataset.toml),
        cache=at(config.dataset.cache),
    )
    network = replace(config.network, start=at(config.network.start))
    config = replace(config, samples=replace(config.samples, file=at(config.samples.file)))
    return replace(config, dataset=dataset, network=network, checkpoint=at(config.checkpoint), vae=at(config.vae))
