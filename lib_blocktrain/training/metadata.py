"""The metadata of a trained file: sd-scripts' `ss_*` entries, which the WebUI shows, and our own record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_blocktrain import __version__
from lib_blocktrain.blocks import REST, spans
from lib_blocktrain.networks.cards import RECORD, with_recommended
from lib_blocktrain.training.config import NetworkConfig, RunConfig
from lib_blocktrain.training.config_json import write
from lib_blocktrain.training.dataset import Dataset
from lib_blocktrain.training.noise_scaling import curve_of
from lib_blocktrain.training.plan import settings_of
from lib_blocktrain.weights.block_weights import BlockWeights, kohya_entries, number

_PATHS = ("path", "mask_folder", "toml", "cache", "checkpoint", "start", "vae")
_LYCORIS_ALGORITHMS = {"loha": "loha", "lokr": "lokr", "dora": "locon"}


def metadata_of(
    config: RunConfig, weights: BlockWeights, dataset: Dataset, progress: Mapping[str, Any], native_size: int
) -> dict[str, str]:
    """Return the metadata of a network file.

    `progress` has `step`, `epoch`, `loss`, `started_at` (a Unix time), `model` (its name), `zero_terminal_snr`
    (the model's own), `processes`.
    """
    network, optimizer, loss = config.network, config.optimizer, config.loss
    trained = [image for image in dataset.images if not image.regularisation]
    side = config.dataset.size or native_size
    entries: dict[str, Any] = {
        "ss_output_name": config.name,
        "ss_sd_model_name": progress["model"],
        "ss_network_module": "lycoris.kohya" if network.algorithm in _LYCORIS_ALGORITHMS else "networks.lora",
        "ss_network_dim": network.rank,
        "ss_network_alpha": network.alpha or network.rank,
        "ss_network_args": json.dumps(network_arguments(config, weights)),
        "ss_network_dropout": network.neuron_dropout or None,
        "ss_learning_rate": optimizer.rate,
        "ss_unet_lr": optimizer.rate,
        "ss_text_encoder_lr": _number_or_list(optimizer.text_encoder_rates or (optimizer.rate,))
        if network.text_encoder
        else None,
        "ss_optimizer": " ".join([optimizer.name, *(f"{k}={v}" for k, v in optimizer.arguments.items())]),
        "ss_lr_scheduler": config.schedule.name,
        "ss_lr_warmup_steps": config.schedule.warmup,
        "ss_max_grad_norm": optimizer.clip,
        "ss_max_train_steps": config.steps,
        "ss_steps": progress["step"],
        "ss_epoch": progress["epoch"],
        "ss_batch_size_per_device": config.batch,
        "ss_total_batch_size": config.batch * progress["processes"] * optimizer.accumulate,
        "ss_gradient_accumulation_steps": optimizer.accumulate,
        "ss_gradient_checkpointing": config.checkpointing,
        "ss_mixed_precision": config.precision,
        "ss_seed": config.seed,
        "ss_resolution": f"({side}, {config.dataset.height or side})",
        "ss_enable_bucket": config.dataset.buckets,
        "ss_num_train_images": sum(image.repeats for image in trained),
        "ss_num_reg_images": sum(p.repeats for p in dataset.images if p.regularisation),
        "ss_prior_loss_weight": loss.prior_weight,
        "ss_dataset_dirs": json.dumps(_folders(dataset)),
        "ss_bucket_info": json.dumps(_buckets(dataset)),
        "ss_tag_frequency": json.dumps(dataset.tag_frequency()),
        "ss_shuffle_caption": _option(dataset, "shuffle_tags"),
        "ss_keep_tokens": _option(dataset, "keep_tags"),
        "ss_caption_dropout_rate": _option(dataset, "caption_dropout"),
        "ss_caption_tag_dropout_rate": _option(dataset, "tag_dropout"),
        "ss_flip_aug": _option(dataset, "flip"),
        "ss_random_crop": _option(dataset, "random_crop"),
        "ss_color_aug": _option(dataset, "color"),
        "ss_noise_offset": loss.noise_offset or None,
        "ss_multires_noise_iterations": loss.multires_iterations or None,
        "ss_multires_noise_discount": loss.multires_discount,
        "ss_min_snr_gamma": loss.min_snr_gamma or None,
        "ss_zero_terminal_snr": progress["zero_terminal_snr"]
        if loss.zero_terminal_snr is None
        else loss.zero_terminal_snr,
        "ss_vae_name": None if config.vae is None else Path(config.vae).name,
        "ss_clip_skip": config.clip_skip,
        "ss_max_token_length": config.max_tokens,
        "ss_loss_type": loss.kind,
        "ss_ip_noise_gamma": loss.input_perturbation or None,
        "ss_training_comment": config.description or None,
        "ss_training_started_at": progress["started_at"],
        RECORD: json.dumps({**_record(config, weights, progress), "canvas": dataset.area_share}),
    }
    texts = {key: str(value) for key, value in entries.items()}
    plain = curve_of(network, weights.architecture)
    use = "without block weights" if isinstance(plain, BlockWeights) else f"with bw=ALL,{plain.changes}"
    hint = f"Use it {use}: it was trained in {trained_blocks(weights)}"
    return {**with_recommended(texts, plain, "training", hint, dataset.area_share), **config.metadata}


def trained_blocks(weights: BlockWeights) -> str:
    """Return the blocks of a training run as words: `OUT03-OUT05=0.5, BASE`; a weight of 1 is not written."""
    by_value: dict[float, list[str]] = {}
    for block_id, value in weights.with_base.items():
        if value:
            by_value.setdefault(value, []).append(block_id)
    return ", ".join(f"{spans(ids)}{'' if value == 1 else f'={number(value)}'}" for value, ids in by_value.items())


def network_arguments(config: RunConfig, weights: BlockWeights) -> dict[str, str]:
    """Return sd-scripts' `network_args` that give the same blocks: `*_lr_weight`, `block_dims`, `block_alphas`."""
    network = config.network
    arguments: dict[str, str] = {}
    if network.conv_rank:
        arguments |= {"conv_dim": str(network.conv_rank), "conv_alpha": f"{network.conv_alpha or network.conv_rank:g}"}
    if network.algorithm in _LYCORIS_ALGORITHMS:
        arguments["algo"] = _LYCORIS_ALGORITHMS[network.algorithm]
    if network.algorithm == "dora":
        arguments |= {"dora_wd": "True", "wd_on_output": "False"}
    blocks = weights.replace({REST: 0.0})  # it is in SDXL's lists, and never trained
    if network.weight_mode == "lr":
        arguments |= dict(entry.split("=", 1) for entry in blocks.to_kohya())
    if network.weight_mode in ("scale", "rank") or network.block_ranks or network.block_alphas:
        arguments |= _block_arguments(blocks, network)
    if network.conv_rank and (network.weight_mode in ("scale", "rank") or network.conv_block_ranks):
        arguments |= _block_arguments(blocks, network, is_kernel=True)
    if config.optimizer.lora_plus != 1:
        arguments["loraplus_lr_ratio"] = f"{config.optimizer.lora_plus:g}"
    return arguments


def _block_arguments(weights: BlockWeights, network: NetworkConfig, is_kernel: bool = False) -> dict[str, str]:
    """Return `block_dims` and `block_alphas`, or those of convolutions larger than 1x1."""
    settings = [settings_of(weights[block], network, block, is_kernel) for block in kohya_entries(weights.architecture)]
    prefix = "conv_" if is_kernel else ""
    return {
        f"{prefix}block_dims": ",".join("0" if found is None else str(found.rank) for found in settings),
        f"{prefix}block_alphas": ",".join("0" if found is None else number(found.alpha) for found in settings),
    }


def _record(config: RunConfig, weights: BlockWeights, progress: Mapping[str, Any]) -> dict[str, Any]:
    """Everything needed to repeat the run, and the weights for the training form. They are not for inference."""
    return {
        "version": __version__,
        "trained": {"weights": weights.to_json(), "meaning": config.network.weight_mode},
        "step": progress["step"],
        "loss": progress["loss"],
        "run": run_without_folders(config),
    }


def run_without_folders(config: RunConfig) -> Any:
    """Return the run as plain values, with the names of its files and folders instead of paths, which are private."""
    return _without_folders(write(replace(config, dataset=replace(config.dataset, notices=()))))


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _name(item) if key in _PATHS else _without_folders(item) for key, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list) else value


def _name(path: Any) -> Any:
    return Path(path).name if isinstance(path, str) else path


def _number_or_list(rates: Sequence[float]) -> object:
    return rates[0] if len(rates) == 1 else list(rates)


def _option(dataset: Dataset, name: str) -> object:
    """Return an option's value; where folders differ, JSON of the values by folder."""
    values = {image.path.parent.name: getattr(image.options, name) for image in dataset.images}
    same = len({getattr(image.options, name) for image in dataset.images}) == 1
    return next(iter(values.values())) if same else json.dumps(values)


def _folders(dataset: Dataset) -> dict[str, dict[str, int]]:
    folders: dict[str, dict[str, int]] = {}
    for image in dataset.images:
        entry = folders.setdefault(image.path.parent.name, {"n_repeats": image.repeats, "img_count": 0})
        entry["img_count"] += 1
    return folders


def _buckets(dataset: Dataset) -> dict[str, Any]:
    sizes = sorted(dataset.buckets.items())
    return {"buckets": {str(i): {"resolution": list(size), "count": n} for i, (size, n) in enumerate(sizes)}}
