"""Forge's U-Net for tests, made of Stability's: the same weights, in Forge's manner of holding and computing them.

What is Forge's about it: linear layers that are not torch's, blocks that are told the size to come to, transformers
that add in place, parameters that are inference tensors. `tests/webui/test_forge.py` asks the real one the same.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Module):
    def __init__(self, like: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def attention_function(q, k, v, heads, mask=None):
    """As `backend.attention` has it: `(batch, tokens, heads * width)` in and out."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


def forge_unet(unet: nn.Module) -> nn.Module:
    """Turn Stability's U-Net into Forge's, where it stands."""
    classes = _classes(unet)
    for module in list(unet.modules()):
        module.__class__ = classes.get(type(module), type(module))
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, Linear(child))
    return unet


@torch.inference_mode()
def load_as_forge_does(model: nn.Module) -> nn.Module:
    """Give a model parameters that are inference tensors and ask for gradients, in training mode."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.clone())
    return model.train()


def _classes(unet: nn.Module) -> dict[type, type]:
    """Forge's classes by Stability's."""
    ldm = {type(module).__name__: type(module) for module in unet.modules()}
    transformer = ldm["SpatialTransformer"]

    class Attention(ldm["CrossAttention"]):
        def forward(self, x, context=None):
            context = x if context is None else context
            q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
            return self.to_out(attention_function(q, k, v, self.heads))

    class TransformerBlock(ldm["BasicTransformerBlock"]):
        def forward(self, x, context=None):
            x += self.attn1(self.norm1(x))
            x += self.attn2(self.norm2(x), context=context)
            skipped = x
            x = self.ff(self.norm3(x))
            x += skipped
            return x

    class Block(ldm["TimestepEmbedSequential"]):
        def forward(self, x, emb, context=None, transformer_options={}, output_shape=None):  # noqa: B006, as Forge's
            transformer_options["block_index"] = 0
            for layer in self:
                if type(layer) is ldm["ResBlock"]:
                    x = layer(x, emb)
                elif type(layer) is transformer:
                    x = layer(x, context)
                elif type(layer) is ldm["Upsample"]:
                    size = output_shape[2:] if output_shape is not None else [2 * side for side in x.shape[2:]]
                    x = layer.conv(F.interpolate(x, size=size, mode="nearest"))
                else:
                    x = layer(x)
            return x

    class UNet(type(unet)):
        def forward(self, x, timesteps=None, context=None, y=None, control=None, transformer_options={}, **_):  # noqa: B006
            half = self.model_channels // 2
            frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
            angles = timesteps[:, None].float() * frequencies[None]
            emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype))
            if self.num_classes is not None:
                emb = emb + self.label_emb(y)
            h, skips = x, []
            for block in self.input_blocks:
                h = block(h, emb, context, transformer_options)
                skips.append(h)
            h = self.middle_block(h, emb, context, transformer_options)
            for block in self.output_blocks:
                h = torch.cat([h, skips.pop()], dim=1)
                h = block(h, emb, context, transformer_options, skips[-1].shape if skips else None)
            return self.out(h).type(x.dtype)

    return {
        ldm["CrossAttention"]: Attention,
        ldm["BasicTransformerBlock"]: TransformerBlock,
        ldm["TimestepEmbedSequential"]: Block,
        type(unet): UNet,
    }
