"""Where a word is in a picture of a dataset: where it changes what the model predicts for the noised picture.

The picture is noised, and the difference between the predictions with “a photo of a WORD” and with the empty prompt is
averaged over timesteps and noises (DiffEdit, Couairon et al. 2022, 2210.11427). The attention to the word, which finds
it in pictures that the model draws itself (`attention.py`), tells less in given ones: on the demo's datasets it was as
often around the subject as on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lib_blocktrain.analysis.regions import strong
from lib_blocktrain.model.diffusion import add_noise
from lib_blocktrain.model.protocol import Model, Progress
from lib_blocktrain.training.preparation import check_model
from lib_blocktrain.training.rng import generator_of
from lib_blocktrain.training.step import Denoiser

PROMPT = "a photo of a {}"
TIMESTEPS = (400, 500, 600)
NOISES = 2  # of each timestep
MAX_WORD = 200  # characters
SIDES = 64  # pixels: what the sides of a picture are multiples of, so that the U-Net can halve its latents three times


@dataclass(frozen=True)
class WordMask:
    """`image` is "L", 0 or 255; `share` its white part."""

    image: Image.Image
    share: float


@torch.no_grad()
def word_mask(model: Model, image: Image.Image, word: str, progress: Progress | None = None) -> WordMask:
    """Return where a word, or several, is in an RGB image.

    The caller holds the host's queue; the model is left as it was. Raises ValueError for a word that changes nothing,
    and ConfigError for a model that cannot be trained on pictures.
    """
    check_model(model)
    word = " ".join(word.split())
    if not word or len(word) > MAX_WORD:
        raise ValueError(f"word {word[:60]!r}: expected a word of the picture, of up to {MAX_WORD} characters")
    at = [(timestep, number) for timestep in TIMESTEPS for number in range(NOISES)]
    alphas = model.alphas_cumprod.float().cpu()
    with model.trainable():
        latents = model.encode_image(_resized(image, model.native_size)).float().cpu()
        prompts = [model.encode_prompt(text) for text in (PROMPT.format(word), "")]
        denoiser = Denoiser(model, torch.float32, None, checkpointing=False)
        total = torch.zeros(1, 1, *latents.shape[2:])
        for done, (timestep, number) in enumerate(at):
            if progress is not None:
                progress(done, len(at))
            steps = torch.tensor([timestep])
            noise = torch.randn(latents.shape, generator=generator_of(number, "word mask", timestep))
            noised = add_noise(latents, noise, alphas, steps)
            with_word, without = (denoiser.predict(noised, steps, prompt).float().cpu() for prompt in prompts)
            change = (with_word - without).abs().mean(dim=1, keepdim=True)
            total += change / change.mean()  # each timestep counts alike; not a number where nothing changes
    if progress is not None:
        progress(len(at), len(at))
    if not total.isfinite().all():
        raise ValueError(f"word {word[:60]!r}: it changes nothing of what the model sees: expected another word")
    smooth = F.avg_pool2d(total, 3, stride=1, padding=1, count_include_pad=False)  # or the mask would have holes
    where = strong(_enlarged(smooth))[0]
    return WordMask(Image.fromarray((where * 255).byte().numpy()), float(where.mean()))


def _resized(image: Image.Image, native_size: int) -> Image.Image:
    """The image in about the area that the model is trained for, and about its own shape."""
    scale = native_size / (image.width * image.height) ** 0.5
    width, height = (max(SIDES, round(side * scale / SIDES) * SIDES) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _enlarged(heat: Tensor) -> Tensor:
    """The heat `(1, 1, h, w)` of latents in pixels, `(8h, 8w)`, so that the mask's edge has no steps."""
    size = (8 * heat.shape[2], 8 * heat.shape[3])
    return F.interpolate(heat, size, mode="bicubic", align_corners=False)[0, 0]
