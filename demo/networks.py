"""The demo model's networks in plain torch: a U-Net, an autoencoder and a CLIP text encoder.

Parameter names and arithmetic are those of diffusers' ``UNet2DConditionModel`` and ``AutoencoderKL`` and of
transformers' ``CLIPTextModel``, so that a state dict saved here *is* the diffusers checkpoint, and training needs
neither package. Topology: Stable Diffusion 1 (12 + 1 + 12 blocks, attention in the first three of four levels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """Widths of the U-Net; depth and attention are Stable Diffusion 1's."""

    channels: tuple[int, int, int, int] = (64, 128, 128, 64)
    layers: int = 2
    heads: int = 4
    context: int = 128
    latent_channels: int = 4


@dataclass(frozen=True)
class VAEConfig:
    """Widths of the autoencoder; its four levels reduce each side by 8."""

    channels: tuple[int, int, int, int] = (64, 64, 64, 128)
    layers: int = 1
    latent_channels: int = 4


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder; vocabulary and context length are CLIP's."""

    vocabulary: int = 49408
    width: int = 128
    layers: int = 3
    heads: int = 4
    length: int = 77


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=eps)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions, with a shift by the time embedding between them unless ``time_width`` is 0."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int = 0, eps: float = 1e-5):
        super().__init__()
        self.norm1 = group_norm(channels_in, eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, channels_out) if time_width else None
        self.norm2 = group_norm(channels_out, eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in float32 on a CPU, where the fused bfloat16 backward pass is several times slower."""
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float())


class Attention(nn.Module):
    """Multi-head attention over ``(batch, tokens, width)``; ``bias`` is that of q, k and v."""

    def __init__(self, width: int, context: int, heads: int, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context, width, bias=bias)
        self.to_v = nn.Linear(context, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(-2))


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, width * 4), nn.Identity(), nn.Linear(width * 4, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, width, heads)
        self.attn2 = Attention(width, context, heads)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """One transformer block over the pixels of a feature map, with 1x1 convolutions as SD1 has them."""

    def __init__(self, channels: int, context: int, heads: int):
        super().__init__()
        self.norm = group_norm(channels, 1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, context, heads)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        tokens = self.transformer_blocks[0](h.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Stride-2 convolution; the autoencoder pads right and below only, as LDM's does."""

    def __init__(self, channels: int, asymmetric: bool = False):
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """A down or up block with diffusers' names; the network that owns it sets its children."""

    resnets: nn.ModuleList
    attentions: nn.ModuleList


def _level(resnets: list, attentions: list, **samplers: nn.Module | None) -> Level:
    level = Level()
    level.resnets = nn.ModuleList(resnets)
    if attentions:
        level.attentions = nn.ModuleList(attentions)
    for name, sampler in samplers.items():
        if sampler is not None:
            setattr(level, name, nn.ModuleList([sampler]))
    return level


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding, cosines first, of timesteps ``(batch,)`` as ``(batch, width)``."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2, device=timesteps.device) / (width // 2))
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.linear_1 = nn.Linear(channels, channels * 4)
        self.linear_2 = nn.Linear(channels * 4, channels * 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class UNet(nn.Module):
    """Stable Diffusion's U-Net: ``(batch, 4, h, w)`` latents, timesteps and ``(batch, tokens, context)`` to noise."""

    def __init__(self, config: UNetConfig | None = None):
        super().__init__()
        self.config = c = config or UNetConfig()
        width, time = c.channels[0], c.channels[0] * 4
        self.conv_in = nn.Conv2d(c.latent_channels, width, 3, padding=1)
        self.time_embedding = TimeEmbedding(width)
        skips, last = [width], len(c.channels) - 1
        self.down_blocks = nn.ModuleList()
        for i, channels in enumerate(c.channels):
            resnets = [ResnetBlock(width if j == 0 else channels, channels, time) for j in range(c.layers)]
            width = channels
            attentions = [SpatialTransformer(width, c.context, c.heads) for _ in resnets] if i < last else []
            skips += [width] * c.layers + ([width] if i < last else [])
            self.down_blocks.append(_level(resnets, attentions, downsamplers=Downsample(width) if i < last else None))
        self.mid_block = _level(
            [ResnetBlock(width, width, time) for _ in range(2)], [SpatialTransformer(width, c.context, c.heads)]
        )
        self.up_blocks = nn.ModuleList()
        for i, channels in enumerate(reversed(c.channels)):
            resnets = []
            for _ in range(c.layers + 1):
                resnets.append(ResnetBlock(width + skips.pop(), channels, time))
                width = channels
            attentions = [SpatialTransformer(width, c.context, c.heads) for _ in resnets] if i > 0 else []
            self.up_blocks.append(_level(resnets, attentions, upsamplers=Upsample(width) if i < last else None))
        self.conv_norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, c.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        time = self.time_embedding(timestep_embedding(timesteps, self.config.channels[0]).to(x.dtype))
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for j, resnet in enumerate(block.resnets):
                x = resnet(x, time)
                if hasattr(block, "attentions"):
                    x = block.attentions[j](x, context)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block.resnets[0](x, time)
        x = self.mid_block.resnets[1](self.mid_block.attentions[0](x, context), time)
        for block in self.up_blocks:
            for j, resnet in enumerate(block.resnets):
                x = resnet(torch.cat([x, skips.pop()], dim=1), time)
                if hasattr(block, "attentions"):
                    x = block.attentions[j](x, context)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class PixelAttention(nn.Module):
    """The autoencoder's single-head self-attention over pixels."""

    def __init__(self, channels: int):
        super().__init__()
        self.group_norm = group_norm(channels, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        y = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


def _vae_middle(channels: int) -> Level:
    return _level([ResnetBlock(channels, channels, eps=1e-6) for _ in range(2)], [PixelAttention(channels)])


def _through_middle(block: Level, x: Tensor) -> Tensor:
    return block.resnets[1](block.attentions[0](block.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, c: VAEConfig):
        super().__init__()
        width, last = c.channels[0], len(c.channels) - 1
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, channels in enumerate(c.channels):
            resnets = [ResnetBlock(width if j == 0 else channels, channels, eps=1e-6) for j in range(c.layers)]
            width = channels
            self.down_blocks.append(
                _level(resnets, [], downsamplers=Downsample(width, asymmetric=True) if i < last else None)
            )
        self.mid_block = _vae_middle(width)
        self.conv_norm_out = group_norm(width, 1e-6)
        self.conv_out = nn.Conv2d(width, 2 * c.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            for resnet in block.resnets:
                x = resnet(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(_through_middle(self.mid_block, x))))


class Decoder(nn.Module):
    def __init__(self, c: VAEConfig):
        super().__init__()
        width, last = c.channels[-1], len(c.channels) - 1
        self.conv_in = nn.Conv2d(c.latent_channels, width, 3, padding=1)
        self.mid_block = _vae_middle(width)
        self.up_blocks = nn.ModuleList()
        for i, channels in enumerate(reversed(c.channels)):
            resnets = [ResnetBlock(width if j == 0 else channels, channels, eps=1e-6) for j in range(c.layers + 1)]
            width = channels
            self.up_blocks.append(_level(resnets, [], upsamplers=Upsample(width) if i < last else None))
        self.conv_norm_out = group_norm(width, 1e-6)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = _through_middle(self.mid_block, self.conv_in(z))
        for block in self.up_blocks:
            for resnet in block.resnets:
                x = resnet(x)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VAE(nn.Module):
    """Autoencoder of ``(batch, 3, h, w)`` images in -1..1 and ``(batch, 4, h/8, w/8)`` latents (unscaled)."""

    def __init__(self, config: VAEConfig | None = None):
        super().__init__()
        self.config = c = config or VAEConfig()
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant_conv = nn.Conv2d(2 * c.latent_channels, 2 * c.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(c.latent_channels, c.latent_channels, 1)

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents."""
        mean, log_variance = self.quant_conv(self.encoder(pictures)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


class CLIPAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).flatten(-2))


class CLIPMLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width * 4), nn.Linear(width * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))  # CLIP's quick GELU


class CLIPLayer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.mlp = CLIPAttention(width, heads), CLIPMLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextTransformer(nn.Module):
    def __init__(self, c: TextConfig):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.token_embedding = nn.Embedding(c.vocabulary, c.width)
        self.embeddings.position_embedding = nn.Embedding(c.length, c.width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([CLIPLayer(c.width, c.heads) for _ in range(c.layers)])
        self.final_layer_norm = nn.LayerNorm(c.width)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embeddings.token_embedding(tokens) + self.embeddings.position_embedding(positions)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class TextEncoder(nn.Module):
    """Token ids ``(batch, 77)`` to hidden states ``(batch, 77, width)``, as ``CLIPTextModel`` returns them."""

    def __init__(self, config: TextConfig | None = None):
        super().__init__()
        self.config = config or TextConfig()
        self.text_model = TextTransformer(self.config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.text_model(tokens)
