"""Models of the real topologies, a few channels wide, with no layer left at 0."""

import sys
from collections.abc import Iterable, Mapping
from copy import deepcopy
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import nn

from lib_blocktrain.blocks import ldm_to_diffusers
from lib_blocktrain.networks.adapters import module_from_tensors
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.layers import weight_shape
from lib_blocktrain.networks.placement import layers_by_key
from tests.networks.cases import POINTWISE_ONLY, filled, make_tensors

CONTEXT = 24


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill the zero-initialised layers, so that every layer matters, and freeze the model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator)
        elif "norm" not in name:
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval().requires_grad_(False)


def diffusers_unet(seed: int = 0) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64, 64),
        cross_attention_dim=CONTEXT,
        attention_head_dim=4,
    )
    return randomised(unet, seed)


def diffusers_sdxl_unet(depths: tuple[int, ...] = (1, 2, 10)) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=depths,
        cross_attention_dim=CONTEXT,
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )
    return unet.eval().requires_grad_(False)


def ldm_unet(like: nn.Module | None = None) -> nn.Module:
    """Return LDM's U-Net of the same sizes; with the weights of `like`, one in diffusers' layout."""
    openaimodel = pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")
    # The package is installed without its dependencies; its U-Net asks omegaconf for the name of a type only.
    omegaconf = {"omegaconf": ModuleType("omegaconf"), "omegaconf.listconfig": SimpleNamespace(ListConfig=list)}
    with patch.dict(sys.modules, omegaconf):
        unet = openaimodel.UNetModel(
            image_size=16,
            in_channels=4,
            out_channels=4,
            model_channels=32,
            attention_resolutions=[4, 2, 1],
            num_res_blocks=2,
            channel_mult=[1, 2, 2, 2],
            num_heads=4,
            use_spatial_transformer=True,
            context_dim=CONTEXT,
            use_checkpoint=False,
            legacy=False,
        )
    if like is not None:
        weights = like.state_dict()
        unet.load_state_dict({name: weights[ldm_to_diffusers(name, "sd1")] for name in unet.state_dict()})
    return unet.eval().requires_grad_(False)


def ldm_sdxl_unet() -> nn.Module:
    """Return a U-Net of SDXL's 19 blocks; the package is SD2's, so the label embedding is put there by hand."""
    openaimodel = pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")
    omegaconf = {"omegaconf": ModuleType("omegaconf"), "omegaconf.listconfig": SimpleNamespace(ListConfig=list)}
    with patch.dict(sys.modules, omegaconf):
        unet = openaimodel.UNetModel(
            image_size=16,
            in_channels=4,
            out_channels=4,
            model_channels=32,
            attention_resolutions=[4, 2],
            num_res_blocks=2,
            channel_mult=[1, 2, 2],
            num_heads=4,
            use_spatial_transformer=True,
            transformer_depth=1,  # deeper ones crash in this package
            context_dim=CONTEXT,
            use_checkpoint=False,
            legacy=False,
        )
    unet.num_classes = "sequential"
    unet.label_emb = nn.Sequential(nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128)))
    return randomised(unet)


def deepened(unet: nn.Module, depth: int = 3) -> nn.Module:
    """Give the transformers of LDM's U-Net this many blocks each, as those of SDXL's have 2 and 10."""
    classes = {type(module) for module in unet.modules() if type(module).__name__ == "SpatialTransformer"}

    class SpatialTransformer(*classes):
        def forward(self, x, context=None):
            return super().forward(x, [context] * len(self.transformer_blocks))

    for module in unet.modules():
        if type(module) in classes:
            module.__class__ = SpatialTransformer
            module.transformer_blocks.extend(deepcopy(module.transformer_blocks[0]) for _ in range(depth - 1))
    return randomised(unet, seed=1)


def unet_inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    context = torch.randn(1, 7, CONTEXT, generator=generator)
    return latents.to(dtype), torch.tensor([500]), context.to(dtype)


def predict(unet: nn.Module, inputs: tuple[torch.Tensor, ...] | None = None) -> torch.Tensor:
    """Return the output of a U-Net of either layout."""
    latents, timesteps, context = inputs or unet_inputs(next(unet.parameters()).dtype)
    if hasattr(unet, "input_blocks"):
        return unet(latents, timesteps, context=context)
    return unet(latents, timesteps, context).sample


def network_for(
    unet: nn.Module,
    algorithm: str = "lora",
    *,
    layers: Iterable[str] = (),
    architecture: str = "sd1",
    scale: float = 1.0,
) -> Network:
    """Return a network with a module of this algorithm on the layers whose keys contain one of `layers` (or any)."""
    torch.manual_seed(2)
    modules = {}
    for key, layer in layers_by_key(unet, architecture).items():
        if layers and not any(part in key for part in layers):
            continue
        if algorithm == "norm":
            if layer.weight.ndim == 1:
                modules[key] = module_from_tensors(
                    key, {"w_norm": filled(len(layer.weight)), "b_norm": filled(len(layer.weight))}
                )
        elif algorithm in POINTWISE_ONLY and weight_shape(layer)[2:] not in ((), (1, 1)):
            continue
        elif layer.weight.ndim > 1 and "conv_in" not in key and "conv_out" not in key:
            tensors = make_tensors(algorithm, layer)
            modules[key] = module_from_tensors(key, tensors)
    return Network("tiny", architecture, modules)


def state_of(model: nn.Module) -> Mapping[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Fail unless the model is bit-identical to `before` and has no hook."""
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
