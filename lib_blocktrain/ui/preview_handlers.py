"""The right side of the tab: drawing, with progress and Cancel; saving and loading pictures; baking."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lib_blocktrain.files import checked_name
from lib_blocktrain.hosts.host import Cancelled, Host
from lib_blocktrain.networks.bake import bake
from lib_blocktrain.runner import describe_error
from lib_blocktrain.ui import html
from lib_blocktrain.ui.job_stream import WAITING, status_update, stream_job
from lib_blocktrain.ui.lora_controls import LoraControls, error_to, selection_of
from lib_blocktrain.ui.values import Changes, PreviewValues, Properties
from lib_blocktrain.workspace.drawing import (
    WEIGHTED,
    PreviewRenderer,
    Rendered,
    Settings,
    Variant,
    comparison,
    grid,
    with_seed,
)
from lib_blocktrain.workspace.images import Parameters, read_png, save_png
from lib_blocktrain.workspace.jobs import Job, Jobs

KEPT_RESULTS = 8
MOST_PRESETS = 24  # in a grid


class PreviewHandlers:
    """What Preview, Grid, Cancel, Save, Load and Bake do."""

    def __init__(
        self,
        host: Host,
        controls: LoraControls,
        renderer: PreviewRenderer,
        jobs: Jobs,
        trained: Callable[[], str | None] = lambda: None,
    ):
        self.host = host
        self.controls = controls
        self.renderer = renderer
        self.jobs = jobs
        self._trained = trained  # the name of the run that has the model now
        self._results: OrderedDict[str, dict[int, Rendered]] = OrderedDict()

    # --- drawing --------------------------------------------------------------------------------------------------

    def compare(self, values: PreviewValues) -> Iterator[Changes]:
        """Draw the three pictures: without, at 1, under the block weights."""
        yield from self._drawing(values, self._compared)

    def compare_presets(self, values: PreviewValues) -> Iterator[Changes]:
        """Draw one picture a preset."""
        yield from self._drawing(values, self._presets)

    def cancel(self, values: PreviewValues) -> Changes:
        """Stop the drawing that this page has begun; what is drawn already stays."""
        self.jobs.cancel(values["job"] or "")
        return {}

    def _compared(self, values: PreviewValues) -> list[Variant]:
        return comparison(selection_of(values), self.host.model().architecture)

    def _presets(self, values: PreviewValues) -> list[Variant]:
        names = list(values["grid_presets"] or [])
        if len(names) > MOST_PRESETS:
            raise ValueError(f"{len(names)} presets: expected up to {MOST_PRESETS} in one grid")
        architecture = self.host.model().architecture
        weights = {name: self.controls.presets.parse(name, architecture, seed=0).weights for name in names}
        return grid(selection_of(values), weights, architecture)

    def _drawing(
        self, values: PreviewValues, variants_of: Callable[[PreviewValues], list[Variant]]
    ) -> Iterator[Changes]:
        try:
            settings = with_seed(Settings.from_values(values, self.host.samplers))
            variants = variants_of(values)
        except (ValueError, OSError) as error:
            yield {"status": html.failure(str(error))}
            return
        job = self.jobs.start(self.renderer.work(variants, settings))
        try:
            yield from self._followed(job, variants, settings)
        finally:
            job.cancel()  # of a page that was closed: nobody waits for its pictures

    def _followed(self, job: Job, variants: Sequence[Variant], settings: Settings) -> Iterator[Changes]:
        """What the page shows while a job goes on."""
        drawn: dict[int, Rendered] = {}
        self._keep(job.id, drawn)
        size = settings.width, settings.height
        empty = html.pictures(variants, drawn, size)
        yield {"job": job.id, "pictures": empty, "status": html.note("Starting …"), "cancel": _enabled(True)}
        for report in job.reports():
            if isinstance(report, Rendered):
                drawn[report.number] = report
                yield {"pictures": html.pictures(variants, drawn, size)}
            else:
                yield status_update(report, "status", html.progress, self._waiting())
        ending = html.ended(job.id, _ending(job, settings, variants, drawn))
        yield {"status": ending, "cancel": _enabled(False)}

    def _waiting(self) -> str:
        name = self._trained()
        return f"Waiting for the model: {name} is trained on it; Pause in Runs frees it" if name else WAITING

    def _keep(self, job_id: str, drawn: dict[int, Rendered]) -> None:
        self._results[job_id] = drawn
        while len(self._results) > KEPT_RESULTS:
            self._results.popitem(last=False)

    # --- pictures on disk -----------------------------------------------------------------------------------------

    @error_to("status")
    def save(self, values: PreviewValues) -> Changes:
        """Write the last pictures to the host's output folder, with their parameters inside."""
        drawn = self._results.get(values["job"] or "")
        if not drawn:
            raise ValueError("there are no pictures to save: press Preview first")
        folder = self.host.output_dir / "blocktrain"
        now, names = time.strftime("%Y%m%d-%H%M%S"), []
        for picture in drawn.values():
            path = _free(folder, f"{now}-{picture.request.seed}-{picture.variant.name}")
            save_png(picture.picture, path, picture.request, picture.model)
            names.append(path.name)
        return {"status": html.note(f"Saved in {folder}: {', '.join(names)}")}

    @error_to("status")
    def load(self, values: PreviewValues) -> Changes:
        """Take prompt, settings, LoRAs and weights out of a picture's parameters."""
        path: Path | None = values["png_file"]
        if path is None:
            return {}
        found = read_png(path)
        changes, said = _settings_in(found, self.host.samplers)
        entries, missing = self._entries_in(found)
        if entries or found.loras:
            changes = {**changes, **self.controls.use_exactly(entries)}
        if missing:
            said.append(f"not in the folders: {', '.join(missing)}")
        return {**changes, "status": html.note("; ".join(["Parameters loaded", *said]))}

    def _entries_in(self, found: Parameters) -> tuple[dict, list[str]]:
        files = {file.path.stem: file.key for file in self.controls.lora_index.files()}
        there = [lora for lora in found.loras if lora.name in files]
        entries = {files[lora.name]: self.controls.entry(lora.weights, lora.multiplier) for lora in there}
        return entries, [lora.name for lora in found.loras if lora.name not in files]

    # --- baking ---------------------------------------------------------------------------------------------------

    def bake(self, values: PreviewValues) -> Iterator[Changes]:
        """Write the active LoRA, the weights inside, to the first LoRA folder: with progress, in the host's queue."""
        try:
            selection = selection_of(values)
            if selection.active is None:
                raise ValueError("no LoRA is chosen: tick one in the list")
            name, replace = checked_name(values["bake_name"]), bool(values["bake_replace"])
            path = self.host.lora_dirs[0] / f"{name}.safetensors"
            if path.exists() and not replace:
                raise FileExistsError(f"there is a {path.name} already: choose another name, or tick “replace”")
            network = self.controls.lora_index.network(selection.active)
        except (ValueError, OSError) as error:
            yield {"bake_status": html.failure(str(error))}
            return
        weights = selection.shown.block_weights(network.architecture)

        def work(job: Job) -> None:
            model = self.host.model()
            base = {"unet": model.unet, **model.text_encoders} if model.architecture == network.architecture else None
            progress = job.progress("Baking", 0, 1)
            bake(network, weights, path, base=base, overwrite=replace, progress=progress)

        def ended(_: Job) -> Changes:
            self.controls.lora_index.refresh()
            listed = self.controls.find({**values, "search": ""})
            said = html.note(f"Wrote {path}: at strength 1 it does what {selection.active} does under these weights")
            return {"loras": listed["loras"], "search": "", "bake_status": said, "bake_replace": False}

        yield from stream_job(self.jobs, "bake", work, ended)

    def cancel_bake(self, values: PreviewValues) -> Changes:
        """Stop before anything is written."""
        self.jobs.cancel(values["bake_job"] or "")
        return {}


def _enabled(yes: bool) -> Properties:
    return Properties(interactive=yes)


def _ending(job: Job, settings: Settings, variants: Sequence[Variant], drawn: dict[int, Rendered]) -> str:
    error = job.error()
    if isinstance(error, Cancelled):
        return html.note(f"Cancelled: {len(drawn)} of {len(variants)} pictures drawn")
    if error is not None:
        return html.failure(describe_error(error))
    fresh = sum(not picture.again for picture in drawn.values())
    said = f"{fresh} of {len(variants)} pictures drawn, seed {settings.seed}"
    if variants[-1].name == WEIGHTED and variants[-1].weights == variants[-2].weights:
        said += "; every block is at 1, so that the last two are one: move a block, and press Preview again"
    elif not fresh:
        said += ": they are known from before, and nothing has changed"
    elif fresh < len(variants):
        said += "; nothing else has changed"
    notices = dict.fromkeys(notice for picture in drawn.values() for notice in picture.notices)
    return "".join(html.note(text) for text in (said, *notices))


def _settings_in(found: Parameters, samplers: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """The widgets' values that a picture's parameters give, and what is to be said about the others."""
    values = found.values
    changes: dict[str, object] = {"prompt": found.prompt, "negative": found.negative}
    said = []
    for name, widget, kind in (("Steps", "steps", int), ("CFG scale", "cfg", float), ("Seed", "seed", int)):
        if name in values:
            changes[widget] = kind(values[name])
    width, cross, height = values.get("Size", "").partition("x")
    if cross:
        changes |= {"width": int(width), "height": int(height)}
    sampler = values.get("Sampler")
    if sampler in samplers:
        changes["sampler"] = sampler
    elif sampler:
        said.append(f"its sampler, {sampler}, is not known here")
    return changes, said


def _free(folder: Path, stem: str) -> Path:
    """A path that is not taken: two saves within a second must not replace each other."""
    number, path = 2, folder / f"{stem}.png"
    while path.exists():
        number, path = number + 1, folder / f"{stem}-{number}.png"
    return path
