"""Handlers of the right side of Preview: drawing with progress and Cancel, saving and loading pictures, baking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

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
from lib_blocktrain.workspace.lora_selection import LoraEntry
from lib_blocktrain.workspace.recent import Recent

KEPT_RESULTS = 8
MAX_PRESETS = 24  # in a grid
_DRAWING = {"draw": Properties(value="Drawing …", interactive=False), "cancel": Properties(interactive=True)}
_IDLE = {"draw": Properties(value="Draw", interactive=True), "cancel": Properties(interactive=False)}


class PreviewHandlers:
    """Handlers of Draw, Draw the grid, Cancel, Save, Load PNG and Bake."""

    def __init__(
        self,
        host: Host,
        controls: LoraControls,
        renderer: PreviewRenderer,
        jobs: Jobs,
        trained: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.host = host
        self.controls = controls
        self.renderer = renderer
        self.jobs = jobs
        self._trained = trained  # returns the name of the run in training, or None
        self._results: Recent[str, dict[int, Rendered]] = Recent(KEPT_RESULTS)  # by job id

    # --- drawing --------------------------------------------------------------------------------------------------

    def compare(self, values: PreviewValues) -> Iterator[Changes]:
        """Draw three pictures: without the LoRA, with all blocks at 1, and under the block weights."""
        yield from self._draw(values, self._comparison)

    def compare_presets(self, values: PreviewValues) -> Iterator[Changes]:
        """Draw one picture for each preset."""
        yield from self._draw(values, self._grid)

    def cancel(self, values: PreviewValues) -> Changes:
        """Cancel the drawing that this page has started; finished pictures are kept."""
        self.jobs.cancel(values["job"] or "")
        return {}

    def _comparison(self, values: PreviewValues) -> list[Variant]:
        return comparison(selection_of(values), self.host.model().architecture)

    def _grid(self, values: PreviewValues) -> list[Variant]:
        names = values["grid_presets"] or []
        if len(names) > MAX_PRESETS:
            raise ValueError(f"{len(names)} presets: expected up to {MAX_PRESETS} in one grid")
        architecture = self.host.model().architecture
        weights = {name: self.controls.presets.parse(name, architecture).weights for name in names}
        return grid(selection_of(values), weights, architecture)

    def _draw(self, values: PreviewValues, variants_of: Callable[[PreviewValues], list[Variant]]) -> Iterator[Changes]:
        try:
            settings = with_seed(Settings.from_values(values, self.host.samplers))
            variants = variants_of(values)
        except (ValueError, OSError) as error:
            yield {"status": html.failure(str(error))}
            return
        job = self.jobs.start(self.renderer.work(variants, settings), "preview")
        try:
            yield from self._stream(job, variants, settings)
        finally:
            job.cancel()  # if the page was closed before the end

    def _stream(self, job: Job[None], variants: Sequence[Variant], settings: Settings) -> Iterator[Changes]:
        """Stream the pictures and the progress of a job to the page."""
        rendered: dict[int, Rendered] = {}
        self._results[job.id] = rendered
        size = settings.width, settings.height
        empty = html.pictures(variants, rendered, size)
        yield {"job": job.id, "pictures": empty, "status": html.note("Starting …"), **_DRAWING}
        for report in job.reports():
            if isinstance(report, Rendered):
                rendered[report.number] = report
                yield {"pictures": html.pictures(variants, rendered, size)}
            else:
                yield status_update(report, "status", html.progress, self._waiting())
        ending = html.ended(job.id, _ending(job, settings, variants, rendered))
        yield {"status": ending, **_IDLE}

    def _waiting(self) -> str:
        name = self._trained()
        return f"Waiting for the model: {name} is being trained; Pause in Runs releases it" if name else WAITING

    # --- pictures on disk -----------------------------------------------------------------------------------------

    @error_to("status")
    def save(self, values: PreviewValues) -> Changes:
        """Save the latest pictures to the host's output folder, with their generation parameters."""
        rendered = self._results.get(values["job"] or "")
        if not rendered:
            raise ValueError("there are no pictures to save: press Draw first")
        folder = self.host.output_dir / "blocktrain"
        now, names = time.strftime("%Y%m%d-%H%M%S"), []
        for one in rendered.values():
            path = _free(folder, f"{now}-{one.request.seed}-{one.variant.name}")
            save_png(one.image, path, one.request, one.model)
            names.append(path.name)
        return {"status": html.note(f"Saved in {folder}: {', '.join(names)}")}

    @error_to("status")
    def load(self, values: PreviewValues) -> Changes:
        """Load prompt, settings, LoRAs and weights from a picture's generation parameters."""
        path = values["png_file"]
        if path is None:
            return {}
        found = read_png(path)
        changes, messages = _settings_of(found, self.host.samplers)
        entries, missing = self._entries_of(found)
        if entries or found.loras:
            changes = {**changes, **self.controls.use_exactly(entries)}
        if missing:
            messages.append(f"not in the folders: {', '.join(missing)}")
        return {**changes, "status": html.note("; ".join(["Parameters loaded", *messages]))}

    def _entries_of(self, found: Parameters) -> tuple[dict[str, LoraEntry], list[str]]:
        """The LoRAs of a picture that are in the folders, and the names of those that are not."""
        files = {file.path.stem: file.key for file in self.controls.lora_index.files()}
        there = [lora for lora in found.loras if lora.name in files]
        entries = {files[lora.name]: self.controls.entry(lora.weights, lora.multiplier) for lora in there}
        return entries, [lora.name for lora in found.loras if lora.name not in files]

    # --- baking ---------------------------------------------------------------------------------------------------

    def bake(self, values: PreviewValues) -> Iterator[Changes]:
        """Write the active LoRA with its weights baked in to the first LoRA folder, as a job."""
        try:
            selection = selection_of(values)
            if selection.active is None:
                raise ValueError("no LoRA is chosen: add one from the list")
            name, replace = checked_name(values["bake_name"] or ""), bool(values["bake_replace"])
            path = self.host.lora_dirs[0] / f"{name}.safetensors"
            if path.exists() and not replace:
                raise FileExistsError(f"there is a {path.name} already: choose another name, or tick “replace”")
            network = self.controls.lora_index.network(selection.active)
        except (ValueError, OSError) as error:
            yield {"bake_status": html.failure(str(error))}
            return
        weights = selection.shown.block_weights(network.architecture)

        def work(job: Job[None]) -> None:
            model = self.host.model()
            base = {"unet": model.unet, **model.text_encoders} if model.architecture == network.architecture else None
            bake(network, weights, path, base=base, overwrite=replace, progress=job.progress("Baking"))

        def finished(_: Job[None]) -> Changes:
            self.controls.lora_index.refresh()
            note = html.note(f"Wrote {path}: at strength 1 it does what {selection.active} does under these weights")
            return {"lora_data": self.controls.data(), "bake_status": note, "bake_replace": False}

        yield from stream_job(self.jobs, "bake", work, finished)

    def cancel_bake(self, values: PreviewValues) -> Changes:
        """Cancel baking; no file is written."""
        self.jobs.cancel(values["bake_job"] or "")
        return {}


def _ending(
    job: Job[None], settings: Settings, variants: Sequence[Variant], rendered: Mapping[int, Rendered]
) -> Markup:
    error = job.error()
    if isinstance(error, Cancelled):
        return html.note(f"Cancelled: {len(rendered)} of {len(variants)} pictures drawn")
    if error is not None:
        return html.failure(describe_error(error))
    drawn = sum(not one.reused for one in rendered.values())
    summary = f"{drawn} of {len(variants)} pictures drawn, seed {settings.seed}"
    if variants[-1].name == WEIGHTED and variants[-1].weights == variants[-2].weights:
        summary += "; every block is at 1, so the last two pictures are the same: change a block and press Draw again"
    elif not drawn:
        summary += ": nothing has changed, and the earlier ones are shown"
    elif drawn < len(variants):
        summary += "; the others are unchanged"
    notices = dict.fromkeys(notice for one in rendered.values() for notice in one.notices)
    return Markup("").join(html.note(text) for text in (summary, *notices))


def _settings_of(found: Parameters, samplers: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """The widgets' values from a picture's parameters, and messages about those that cannot be used."""
    values = found.values
    changes: dict[str, object] = {"prompt": found.prompt, "negative": found.negative}
    messages: list[str] = []
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
        messages.append(f"the sampler {sampler} is not available here")
    return changes, messages


def _free(folder: Path, stem: str) -> Path:
    """A path that does not exist yet, with a number if there were several saves within a second."""
    number, path = 2, folder / f"{stem}.png"
    while path.exists():
        number, path = number + 1, folder / f"{stem}-{number}.png"
    return path
