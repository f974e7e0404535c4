"""The checkpoint that reForge has loaded: it can be drawn with, and not be hooked or trained on."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

from PIL import Image
from torch import Tensor, nn

from lib_blocktrain import blocks
from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.webui.model import NOTHING_LOADED, check_blocks, known_architecture
from lib_blocktrain.model.protocol import Prediction
from lib_blocktrain.model.unet_forward import BlockState, Caller


def drawable_model(sd_model: Any, refusal: str) -> ReForgeModel:
    """Return the model; raise NoModel if it is none of SD1, SD2 and SDXL."""
    if not hasattr(sd_model, "forge_objects_original"):
        raise NoModel(NOTHING_LOADED)
    name = sd_model.sd_checkpoint_info.name_for_extra
    known = known_architecture(name, sd_model)
    check_blocks(name, sd_model.forge_objects_original.unet.model.diffusion_model, known)
    return ReForgeModel(sd_model, name, known.id, refusal)


@dataclass(frozen=True)
class ReForgeModel:
    """The protocol `Model`, of which everything that needs the weights themselves raises NoModel with `refusal`."""

    sd_model: Any = field(repr=False)
    name: str
    architecture: str
    refusal: str = field(repr=False)

    @property
    def unet(self) -> nn.Module:
        return self.sd_model.forge_objects_original.unet.model.diffusion_model

    @property
    def native_size(self) -> int:
        return blocks.architecture(self.architecture).native_size

    @property
    def in_channels(self) -> int:
        return self.sd_model.forge_objects_original.unet.model.diffusion_model.in_channels

    @property
    def prediction(self) -> Prediction:
        return "v" if getattr(self.sd_model, "parameterization", "eps") == "v" else "epsilon"

    @property
    def movable(self) -> tuple[nn.Module, ...]:
        return ()

    def sampling(self) -> AbstractContextManager[None]:
        return nullcontext()  # the WebUI puts the LoRAs of each prompt on again

    def _refuse(self) -> NoReturn:
        raise NoModel(self.refusal)

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        self._refuse()

    @property
    def vae(self) -> nn.Module:
        self._refuse()

    @property
    def alphas_cumprod(self) -> Tensor:
        self._refuse()

    @property
    def zero_terminal_snr(self) -> bool:
        self._refuse()

    def encoding(self, vae: str | None, clip_skip: int | None) -> AbstractContextManager[None]:
        self._refuse()

    def encode_image(self, image: Image.Image) -> Tensor:
        self._refuse()

    def decode(self, latents: Tensor) -> list[Image.Image]:
        self._refuse()

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> Mapping[str, Tensor]:
        self._refuse()

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        self._refuse()

    def enter_blocks(self, latents: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> BlockState:
        self._refuse()

    def run_blocks(
        self,
        start: str,
        saved: BlockState,
        *,
        keep: MutableMapping[str, BlockState] | None = None,
        call: Caller | None = None,
    ) -> Tensor:
        self._refuse()

    def trainable(self) -> AbstractContextManager[None]:
        self._refuse()
