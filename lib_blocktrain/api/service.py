"""What all routes share: the host, its files and presets, its runs, and whose turn it is.

Nothing here imports torch before somebody asks: the routes are put up while a WebUI starts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.errors import ApiError, not_found
from lib_blocktrain.api.jobs import Turns
from lib_blocktrain.weights.preset_strings import weights_in_errors

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.runner import Runner
    from lib_blocktrain.training.runs import Run
    from lib_blocktrain.weights.preset_strings import Parsed
    from lib_blocktrain.workspace.lora_index import LoraFile, LoraIndex
    from lib_blocktrain.workspace.preset_store import PresetStore


class Service:
    """One host as the API sees it."""

    def __init__(self, host: Host, access: Access, runner: Callable[[], Runner] | None = None):
        self.host, self.access = host, access
        self.turns = Turns(host, self.training)
        self.presets_lock = threading.Lock()  # a preset file is read, changed and written
        self._given_runner, self._own_runner, self._making = runner, None, threading.Lock()

    @property
    def runner(self) -> Runner:
        """The runner of the host's runs: the tab's, or one of the API's own."""
        if self._given_runner is not None:
            return self._given_runner()
        with self._making:
            if self._own_runner is None:
                from lib_blocktrain.runner import Runner

                self._own_runner = Runner(self.host)
            return self._own_runner

    @cached_property
    def library(self) -> LoraIndex:
        """The host's LoRA files."""
        from lib_blocktrain.workspace.lora_index import LoraIndex

        return LoraIndex(lambda: self.host.lora_dirs)

    @cached_property
    def shelf(self) -> PresetStore:
        """The presets, the user's own among them."""
        from lib_blocktrain.workspace.preset_store import PresetStore

        return PresetStore(lambda: self.host.presets_path)

    def progress(self) -> dict:
        """What goes on, as ``bodies.Progress`` has it."""
        run, turn = self.runner.current, self.turns.current
        if run is not None:
            status = self.runner.status(run)
            text = f"{status.state}, step {status.step} of {status.steps}"
            share = status.step / status.steps
            return {"busy": True, "what": "training", "job": status.name, "text": text, "share": share}
        if turn is not None:
            text = f"step {turn.done} of {turn.steps}" if turn.steps else "begins"
            return {"busy": True, "what": turn.what, "job": turn.id, "text": text, "share": turn.share}
        return {"busy": False}

    def interrupt(self) -> str:
        """End what goes on before its next step; a run is paused. Returns what was done, as a sentence."""
        run = self.runner.current
        if run is not None:
            self.runner.pause("interrupted through the API")
            return f"run {run.folder.name} pauses after this step"
        what = self.turns.interrupt()
        if what is None:
            raise ApiError(409, "conflict", "nothing goes on that could be interrupted")
        return f"{what} ends before its next step"

    def training(self) -> str | None:
        """What is trained now, as a sentence; it holds the model for long."""
        run = self.runner.current
        if run is None:
            return None
        return f"run {run.folder.name} is being trained: pause it first, or wait for its end"

    def lora(self, name: str) -> LoraFile:
        """The LoRA of this name, or the only one whose last part it is; a name is looked up and never opened."""
        self.library.refresh()
        files = self.library.files()
        sought = name.removesuffix(".safetensors")
        exact = [file for file in files if file.key == sought]
        found = exact or [file for file in files if file.path.stem == sought]
        if not found:
            raise not_found(f"there is no LoRA {name!r} in the folders")
        if len(found) > 1:
            names = ", ".join(file.key for file in found[:5])
            raise ApiError(400, "bad request", f"there are {len(found)} LoRAs {name!r}: expected one of {names}")
        if found[0].problem:
            raise ApiError(400, "bad request", f"{found[0].key} cannot be used: {found[0].problem}")
        return found[0]

    def parse(self, text: str, architecture: str, seed: int | None = None, x: float | None = None) -> Parsed:
        """Read block weights that were sent; raise ValueError with the text that cannot be read: there may be many."""
        with weights_in_errors(text):
            return self.shelf.parse(text, architecture, seed, x)

    def run(self, name: str) -> Run:
        """The run of this name; a name is looked up among the folders, and links are none."""
        if name not in _runs(self.runner.root):
            raise not_found(f"there is no run {name!r}")
        return self.runner.find(name)


def _runs(root: Path) -> set[str]:
    if not root.is_dir():
        return set()
    return {path.name for path in root.iterdir() if (path / "run.json").is_file() and not path.is_symlink()}
