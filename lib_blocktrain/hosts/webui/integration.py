"""Detects the WebUI that `scripts/blocktrain.py` runs in, and connects the extension to it.

Heavy modules are imported on first use only, since the WebUI imports this module when it starts.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import TagContext
    from lib_blocktrain.weights.presets import Preset
    from lib_blocktrain.weights.tag_steps import SamplingStep

SDNEXT = (
    "this WebUI is SD.Next, which holds its models and LoRAs by diffusers, where block weights do not reach them: use"
    " its own lbw= there, or this extension in AUTOMATIC1111's WebUI, Forge 2 or Forge Neo, or its standalone page"
)


class UnknownWebUI(RuntimeError):
    """This process is not a supported WebUI; the message says which it is, or what was looked for."""


def detect() -> Integration:
    """Return the integration for this process, by the modules that it has; raise UnknownWebUI if there is none.

    Forks have all modules of AUTOMATIC1111's WebUI and more, so they come first.
    """
    if _can_import("modules.sd_checkpoint") and not _can_import("modules.lowvram"):
        raise UnknownWebUI(SDNEXT)
    if _can_import("modules_forge"):
        return _of("reforge" if not _can_import("backend") else "neo" if _merges_by_parameter() else "forge")
    if _can_import("modules.sd_hijack"):
        return _of("a1111")
    raise UnknownWebUI("not a supported WebUI: found none of modules_forge, modules.sd_hijack")


def _of(host: str) -> Integration:
    integration: Integration = importlib.import_module(f"lib_blocktrain.hosts.{host}").INTEGRATION
    return integration


def _can_import(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is missing, too
        return False


def _merges_by_parameter() -> bool:
    """Whether this Forge has ComfyUI's ModelPatcher, as Neo does, in place of Forge 2's."""
    patcher = importlib.import_module("backend.patcher.base").ModelPatcher
    return hasattr(patcher, "partially_load")


class Integration:
    """The parts common to AUTOMATIC1111's WebUI and its forks; `package` holds the modules for one of them."""

    package: str

    @functools.cache  # noqa: B019 - there is one integration, and it lives as long as the process
    def host(self) -> Host:
        """Return the host, always the same object, since a run outlives "Reload UI"."""
        return self.make_host()

    def make_host(self) -> Host:
        raise NotImplementedError

    def options(self) -> tuple[Any, Any]:
        """Return the WebUI's flags and settings."""
        from modules import shared

        return shared.cmd_opts, shared.opts

    def tag_context(self) -> TagContext:
        """Return the context for reading prompt tags. May load the checkpoint: the caller holds the WebUI's queue."""
        raise NotImplementedError

    def drawing_context(self) -> TagContext:
        """Return the same while a picture is made, which another checkpoint may draw than the one that is chosen."""
        return self.tag_context()

    def host_features(self) -> dict[str, bool]:
        """Return whether each feature specific to this host was found; the keys are shown in the tab's footer."""
        raise NotImplementedError

    @property
    def lora(self) -> ModuleType:
        """The module that applies block weights to the WebUI's own LoRAs: `patch`, `unpatch`, `enter_step`."""
        return importlib.import_module(f"{self.package}.lora")

    def patch(self) -> None:
        """Apply block weights to the WebUI's own LoRAs from now on."""
        from lib_blocktrain.hosts.webui import extra_networks, folders

        self.lora.patch(self.drawing_context, folders.register_checkpoints)
        extra_networks.patch()

    def unpatch(self) -> None:
        from lib_blocktrain.hosts.webui import extra_networks

        self.lora.unpatch()
        extra_networks.unpatch()

    def on_cfg_denoiser(self, params: Any) -> None:
        """Handle the WebUI's callback before each evaluation of the U-Net; `params` are its CFGDenoiserParams."""
        from lib_blocktrain.hosts.webui import steps
        from lib_blocktrain.hosts.webui.prompt import report
        from lib_blocktrain.weights.tag_steps import SamplingStep

        denoiser = params.denoiser
        try:
            step = SamplingStep(steps.current_step(denoiser), params.sampling_step + 1, denoiser.steps or 1)
            self.enter_step(step, tuple(params.x.shape))
        except Exception as error:  # noqa: BLE001 - the WebUI would print its traceback for every step of the image
            report(
                denoiser.p, [f"weights over the steps, start= and stop= do not act: {type(error).__name__}: {error}"]
            )
        steps.report_step(denoiser)

    def enter_step(self, step: SamplingStep, latents: tuple[int, ...]) -> None:
        """Give LoRAs their weights in a step, unless all steps have the same; `latents` is the shape of the image's."""
        self.lora.enter_step(step)

    def presets(self) -> dict[str, Preset]:
        """Return the presets by name, the user's own among them."""
        from lib_blocktrain.hosts.webui import folders

        return folders.presets()

    def recommended(self, name: str) -> str:
        """Return the block weights that the card of the LoRA of this name, or the file itself, recommends."""
        from lib_blocktrain.hosts.webui import folders

        return folders.recommended(name)

    def checkpoints(self) -> list[str]:
        """Return the names of the network files that runs saved during training, in the order of their steps."""
        from lib_blocktrain.hosts.webui import folders

        return sorted(folders.run_checkpoints())

    def xyz_grid(self) -> ModuleType | None:
        """Return the module of the WebUI's X/Y/Z plot, None if it is disabled."""
        from modules import scripts

        names = ("xyz_grid.py", "scripts.xyz_grid")
        return next((data.module for data in scripts.scripts_data if data.script_class.__module__ in names), None)

    def has_block_weight_script(self) -> bool:
        """Whether LoRA Block Weight is installed, or ersatzForge's own of it, which reads `lbw=` tags itself."""
        from modules import scripts

        theirs = ("lora_block_weight.py", "lora_block_weights.py")
        return any(data.path.endswith(theirs) for data in scripts.scripts_data)

    def features(self) -> list[str]:
        """Return the features that were found in this WebUI, for the tab's footer."""
        found = {**self.host_features(), "X/Y/Z plot": self.xyz_grid() is not None}
        lines = [name if there else f"no {name}" for name, there in found.items()]
        return [*lines, "LoRA Block Weight (reads lbw= itself)"] if self.has_block_weight_script() else lines
