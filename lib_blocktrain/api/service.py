"""What all routes share: the host, its LoRA files and presets, its jobs and its runs.

Nothing here imports torch before the first request: the routes are mounted while a WebUI starts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lib_blocktrain.api.access import Access
from lib_blocktrain.api.errors import ApiError, busy, not_found
from lib_blocktrain.networks.cards import recommended_text
from lib_blocktrain.weights.preset_strings import weights_in_errors

if TYPE_CHECKING:
    from lib_blocktrain.hosts.host import Host
    from lib_blocktrain.runner import Runner
    from lib_blocktrain.training.runs import Run
    from lib_blocktrain.weights.preset_strings import Parsed
    from lib_blocktrain.workspace.drawn_pictures import PictureFolder
    from lib_blocktrain.workspace.jobs import Job, Jobs
    from lib_blocktrain.workspace.lora_files import LoraFile
    from lib_blocktrain.workspace.lora_index import LoraIndex
    from lib_blocktrain.workspace.lora_previews import LoraPreviews
    from lib_blocktrain.workspace.picture_sets import PictureSets
    from lib_blocktrain.workspace.preset_store import PresetStore

T = TypeVar("T")


class Service:
    """One host as the API sees it. ``runner``, ``jobs`` and so on give the page's; else the API makes its own."""

    def __init__(
        self,
        host: Host,
        access: Access,
        runner: Callable[[], Runner] | None = None,
        jobs: Callable[[], Jobs] | None = None,
        loras: Callable[[], LoraIndex] | None = None,
        sets: Callable[[], PictureSets] | None = None,
    ):
        self.host, self.access = host, access
        self.presets_lock = threading.Lock()  # a preset file is read, changed and written
        self._loras, self._sets = loras or _once(self._new_loras), sets or _once(self._new_sets)
        self._runner, self._jobs = runner or _once(self._new_runner), jobs or _once(self._new_jobs)

    @property
    def runner(self) -> Runner:
        """The runner of the host's training runs."""
        return self._runner()

    @property
    def jobs(self) -> Jobs:
        """The queue of everything else that needs the model."""
        return self._jobs()

    @property
    def lora_index(self) -> LoraIndex:
        """The host's LoRA files."""
        return self._loras()

    @property
    def picture_sets(self) -> PictureSets:
        """The sets of pictures for training."""
        return self._sets()

    @cached_property
    def lora_previews(self) -> LoraPreviews:
        """The pictures beside the host's LoRA files."""
        from lib_blocktrain.workspace.lora_previews import LoraPreviews

        return LoraPreviews(self.lora_index)

    @cached_property
    def presets(self) -> PresetStore:
        """The presets, the user's own included."""
        from lib_blocktrain.workspace.preset_store import PresetStore

        return PresetStore(lambda: self.host.presets_path)

    @cached_property
    def pictures(self) -> PictureFolder:
        """The pictures of Preview's history."""
        from lib_blocktrain.workspace.drawn_pictures import PictureFolder

        return PictureFolder.of_host(self.host)

    def begin(self, work: Callable[[Job[T]], T], what: str, wait: float) -> Job[T]:
        """Start a job and return once it has the model.

        Raises ApiError (busy) at once while a run is trained or too many callers wait, else after ``wait`` seconds.
        """
        from lib_blocktrain.workspace.jobs import Busy

        training = self._training()
        if training is not None:
            raise busy(training)
        try:
            return self.jobs.begin(work, what, wait)
        except Busy as error:
            raise busy(self._training() or str(error)) from error

    def progress(self) -> dict[str, Any]:
        """What has the model now, as ``schemas.Progress`` describes it."""
        run, job = self.runner.current, self.jobs.current
        if run is not None:
            status = self.runner.status(run)
            text = f"{status.state}, step {status.step} of {status.steps}"
            share = status.step / max(status.steps, 1)
            return {"busy": True, "what": "training", "job": status.name, "text": text, "share": share}
        if job is None:
            return {"busy": False}
        step = job.step
        text = f"step {step.done} of {step.steps}" if step else "begins"
        return {"busy": True, "what": job.what, "job": job.id, "text": text, "share": step.share if step else None}

    def interrupt(self) -> str:
        """End the running job before its next step, or pause the run that is trained; return what was done."""
        run = self.runner.current
        if run is not None:
            self.runner.pause("interrupted through the API")
            return f"run {run.folder.name} pauses after this step"
        job = self.jobs.current
        if job is None:
            raise ApiError(409, "conflict", "nothing is running that could be interrupted")
        job.cancel()
        return f"{job.what} ends before its next step"

    def lora(self, name: str) -> LoraFile:
        """The LoRA of this name, or the only one whose last part it is. A name is looked up, never used as a path."""
        self.lora_index.refresh()
        files = self.lora_index.files()
        sought = name.removesuffix(".safetensors")
        exact = [file for file in files if file.key == sought]
        found = exact or [file for file in files if file.path.stem == sought]
        if not found:
            raise not_found(f"there is no LoRA {name!r} in the folders")
        if len(found) > 1:
            names = ", ".join(file.key for file in found[:5])
            raise ApiError(400, "bad request", f"there are {len(found)} LoRAs {name!r}: expected one of {names}")
        file = self.lora_index.file(found[0].key)
        if file.problem:
            raise ApiError(400, "bad request", f"{file.key} cannot be used: {file.problem}")
        return file

    def parse(
        self,
        text: str,
        architecture: str,
        seed: int | None = None,
        x: float | None = None,
        lora: LoraFile | None = None,
        *,
        layers: bool = False,
    ) -> Parsed:
        """Read block weights, `card` for those that the LoRA recommends.

        `layers`: they may have weights by kind of layer and over the steps. Raises ValueError that names the text,
        since a request may have several.
        """
        recommended = partial(recommended_text, lora.path) if lora is not None else None
        with weights_in_errors(text):
            return self.presets.parse(text, architecture, seed, x, recommended, layers=layers)

    def run(self, name: str) -> Run:
        """The run of this name. A name is looked up among the folders, links excepted, and never used as a path."""
        if name not in _runs(self.runner.root):
            raise not_found(f"there is no run {name!r}")
        return self.runner.find(name)

    def _training(self) -> str | None:
        """Which run is trained now and how to end that, as a sentence; None for none."""
        run = self.runner.current
        if run is None:
            return None
        return f"run {run.folder.name} is being trained: pause it first, or wait for its end"

    def _new_loras(self) -> LoraIndex:
        from lib_blocktrain.workspace.lora_index import LoraIndex

        return LoraIndex.of_host(self.host)

    def _new_sets(self) -> PictureSets:
        from lib_blocktrain.workspace.picture_sets import PictureSets

        return PictureSets(self.host, self.access.dataset_dirs)

    def _new_runner(self) -> Runner:
        from lib_blocktrain.runner import Runner

        return Runner(self.host)

    def _new_jobs(self) -> Jobs:
        from lib_blocktrain.workspace.jobs import Jobs

        return Jobs(self.host)


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """``make``, called at the first call alone, whichever threads call."""
    lock, made = threading.Lock(), list[T]()

    def get() -> T:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _runs(root: Path) -> set[str]:
    if not root.is_dir():
        return set()
    return {path.name for path in root.iterdir() if (path / "run.json").is_file() and not path.is_symlink()}
