"""What `scripts/blocktrain.py` asks of a kind of WebUI, each part imported when it is first needed."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.hosts.webui.prompt import Reading
    from lib_blocktrain.weights.presets import Preset


class Kind:
    """What AUTOMATIC1111's WebUI and those made from it have in common; `package` has the modules of one."""

    package: str

    @functools.cache  # noqa: B019 - there is one of each kind, for the life of the process
    def host(self) -> Host:
        """The host, the same one always: a run that goes on outlives "Reload UI"."""
        return self.make_host()

    def make_host(self) -> Host:
        """A host of this kind."""
        raise NotImplementedError

    def reading(self) -> Reading:
        """How prompt tags are to be read just now; may load the checkpoint, so that the queue must be held."""
        raise NotImplementedError

    def found(self) -> dict[str, bool]:
        """What of this WebUI is there or not, for people to read."""
        raise NotImplementedError

    @property
    def lora(self) -> ModuleType:
        """How the WebUI's own LoRAs are given block weights: `patch`, `unpatch`, `enter_step`, `extension`."""
        return importlib.import_module(f"{self.package}.lora")

    def patch(self) -> None:
        """Let the WebUI's own LoRAs obey block weights."""
        from lib_blocktrain.hosts.webui import folders, runs

        self.lora.patch(self.reading, lambda names: runs.offer(names, folders.output_dir() / "runs"))

    def unpatch(self) -> None:
        """Undo ``patch``."""
        self.lora.unpatch()

    def entered(self, params: Any) -> None:
        """The U-Net is about to be evaluated for a step; `params` are the WebUI's CFGDenoiserParams."""
        from lib_blocktrain.hosts.webui import steps

        self.lora.enter_step(steps.step_of(params.denoiser))
        steps.entered(params)

    def presets(self) -> dict[str, Preset]:
        """The presets by name, the user's own among them."""
        from lib_blocktrain.hosts.webui import folders

        return folders.presets()

    def checkpoints(self) -> list[str]:
        """The network files that runs have saved on the way, by name, in the order of their steps."""
        from lib_blocktrain.hosts.webui import folders

        return folders.checkpoints()

    def xyz_grid(self) -> ModuleType | None:
        """The WebUI's own X/Y/Z plot script, None if it is not there."""
        from modules import scripts

        names = ("xyz_grid.py", "scripts.xyz_grid")
        return next((data.module for data in scripts.scripts_data if data.script_class.__module__ in names), None)

    def has_block_weight_script(self) -> bool:
        """Whether LoRA Block Weight is there and reads its own tags."""
        from modules import scripts

        return any(data.path.endswith("lora_block_weight.py") for data in scripts.scripts_data)

    def features(self) -> list[str]:
        """What was found of this WebUI, for people to read."""
        found = {**self.found(), "X/Y/Z plot": self.xyz_grid() is not None}
        lines = [name if there else f"no {name}" for name, there in found.items()]
        return [*lines, "LoRA Block Weight (reads lbw= itself)"] if self.has_block_weight_script() else lines
