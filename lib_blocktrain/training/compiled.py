"""The U-Net as one compiled graph, for the training step only: samples and analyses use it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lib_blocktrain.training.config_json import ConfigError

BACKEND = "inductor"  # torch's own; it needs a C++ compiler on a CPU, Triton on a GPU
COMPILED_CALL = "_compiled_call_impl"  # the attribute that `nn.Module.__call__` uses if it is set


class CompiledUNet:
    """Inside `active`, a call of the U-Net runs the graph that torch.compile has made of it, hooks included.

    The graph is made at the first call, which takes minutes, and again for each other size of the latents. Raises
    ConfigError for a U-Net that is not in diffusers' layout: those of WebUIs are patched while they run.
    """

    def __init__(self, unet: nn.Module):
        if not hasattr(unet, "conv_in"):
            raise ConfigError(
                "compile = true: a WebUI's U-Net is patched while it runs: expected a model opened standalone, or false"
            )
        self._unet = unet
        self._call = torch.compile(unet._call_impl, backend=BACKEND)

    def __enter__(self) -> CompiledUNet:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def forget(self) -> None:
        """Make the graph anew at the next call: torch does not notice other hooks."""
        torch._dynamo.reset()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run the U-Net compiled; raise ConfigError where torch cannot compile it."""
        own, before = vars(self._unet), vars(self._unet).get(COMPILED_CALL)
        own[COMPILED_CALL] = self._call
        try:
            yield
        except torch._dynamo.exc.TorchDynamoException as error:
            reason, *_ = str(error).strip().split("\n\n")  # advice for developers of compilers follows
            message = " ".join(reason.split())[:300]
            raise ConfigError(f"compile = true, but torch cannot: {message}: expected a compiler, or false") from error
        finally:
            del own[COMPILED_CALL]
            if before is not None:
                own[COMPILED_CALL] = before
