"""Handlers of the right side of Preview: drawing with progress and Cancel, saving and loading pictures, baking."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from markupsafe import Markup
from torch import nn

from lib_blocktrain.files import atomic_write, checked_name
from lib_blocktrain.hosts.host import Cancelled, Host, NoModel
from lib_blocktrain.networks.bake import bake
from lib_blocktrain.runner import describe_error
from lib_blocktrain.ui import html, pictures_html
from lib_blocktrain.ui.job_stream import WAITING, Panel, status_update, stream_job
from lib_blocktrain.ui.lora_controls import LoraControls, error_to, selection_of
from lib_blocktrain.ui.picture_sheets import (
    GRIDS,
    OVER_BLOCK,
    OVER_LORA,
    OVER_PRESETS,
    OVER_SEED,
    OVER_STRENGTH,
    Comparison,
    Grid,
    Names,
    Sheet,
)
from lib_blocktrain.ui.prompt_loras import loras_of_prompt
from lib_blocktrain.ui.remembered import selection_json
from lib_blocktrain.ui.values import Changes, PreviewValues, Properties
from lib_blocktrain.weights.tagged_prompts import INFOTEXT, INFOTEXT_PROBLEM, pasted
from lib_blocktrain.workspace.drawing import (
    WEIGHTED,
    Cell,
    Live,
    PreviewRenderer,
    Rendered,
    Settings,
    block_cells,
    comparison,
    grid,
    lora_cells,
    preset_cells,
    seed_cells,
    strength_cells,
    with_seed,
)
from lib_blocktrain.workspace.drawn_pictures import DrawnPicture, PictureFolder
from lib_blocktrain.workspace.images import Parameters, read_png
from lib_blocktrain.workspace.jobs import Job, Jobs
from lib_blocktrain.workspace.lora_selection import LoraEntry, LoraSelection
from lib_blocktrain.workspace.recent import Recent

KEPT_RESULTS = 8
MAX_CELLS = 24  # in a grid
SETTINGS = ("prompt", "negative", "sampler", "steps", "cfg", "width", "height", "seed")
AUTOMATIC = "Automatic"  # the WebUI's schedule type that is the sampler's own, as here
MAX_LEFT = 8  # parameters of a picture that are named where they are not taken over
# What is taken from a picture's parameters, is this extension's, or changes nothing that is drawn.
_TAKEN = re.compile(
    "(Steps|CFG scale|Seed|Size|Sampler|Model|Model hash|VAE hash|Hashes|Lora hashes|TI hashes|Version|User"
    rf"|{INFOTEXT}|{INFOTEXT_PROBLEM}|(LoRA|Block weights|Multiplier) \d+)$"
)
_DRAWING = {
    "draw": Properties(value="Drawing …", interactive=False),
    "draw_grid": Properties(interactive=False),
    "cancel": Properties(interactive=True),
}
IDLE = {
    "draw": Properties(value="Draw", interactive=True),
    "draw_grid": Properties(interactive=True),
    "cancel": Properties(interactive=False),
}


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
        self.pictures = PictureFolder.of_host(host)
        self.results: Recent[str, dict[int, DrawnPicture]] = Recent(KEPT_RESULTS)  # by job id

    # --- drawing --------------------------------------------------------------------------------------------------

    def compare(self, values: PreviewValues) -> Iterator[Changes]:
        """Draw three pictures: without the LoRA, with all blocks at 1, and under the block weights."""
        yield from self._draw(values, self._comparison)

    def compare_cells(self, values: PreviewValues) -> Iterator[Changes]:
        """Draw a grid: one picture for each preset, weight of a block, strength, seed or LoRA."""
        yield from self._draw(values, self._grid)

    def idle(self, values: PreviewValues) -> Changes:
        """Free Draw after a drawing, in an event of its own: gradio 3 does not hear a button whose event goes on.

        Not while another drawing of this page goes on.
        """
        return {} if any(map(self.jobs.goes_on, _ids(values["drawing"]))) else {**IDLE}

    def cancel(self, values: PreviewValues) -> Changes:
        """Cancel the drawings that this page has started; finished pictures are kept."""
        for job_id in _ids(values["drawing"]):
            self.jobs.cancel(job_id)
        return {}

    def _comparison(self, values: PreviewValues, settings: Settings) -> Comparison:
        selection, architecture = selection_of(values), self.host.model().architecture
        before = {one.name: one for one in (self.results.get(values["job"] or "") or {}).values()}
        stored = {**selection_json(selection), **{name: values[name] for name in SETTINGS}}  # type: ignore[literal-required]
        return Comparison(comparison(selection, architecture), settings, before, stored, self.names(selection))

    def _grid(self, values: PreviewValues, settings: Settings) -> Grid:
        architecture = self.host.model().architecture
        cells = self._cells(values, selection_of(values), architecture)
        if len(cells) > MAX_CELLS:
            raise ValueError(f"{len(cells)} pictures: expected up to {MAX_CELLS} in one grid")
        return Grid(grid(cells, architecture), settings, values["grid_over"] or "", cells)

    def _cells(self, values: PreviewValues, selection: LoraSelection, architecture: str) -> list[Cell]:
        over = values["grid_over"]
        if over == OVER_PRESETS:
            names = values["grid_presets"] or []
            return preset_cells(
                selection, {name: self.controls.presets.parse(name, architecture, layers=True).acting for name in names}
            )
        if over == OVER_LORA:
            return lora_cells(selection)
        numbers = _numbers(values["grid_values"] or "")
        if over == OVER_BLOCK:
            return block_cells(selection, values["grid_block"] or "", numbers)
        if over == OVER_STRENGTH:
            return strength_cells(selection, numbers)
        if over == OVER_SEED:
            return seed_cells(selection, numbers)
        raise ValueError(f"grid over {over!r}: expected one of {', '.join(GRIDS)}")

    def names(self, selection: LoraSelection) -> Names:
        """How the weights are called: each LoRA's preset, if there is one with exactly these weights."""
        presets, names, texts = self.controls.presets, dict[str, str | None](), dict[str, str]()
        files = {key: self.controls.lora_index.file(key) for key in selection.entries}
        for key, entry in selection.entries.items():
            weights = entry.acting(files[key].architecture)
            names[key], texts[key] = presets.exact(weights), presets.shortest(weights)
        stems = {key: file.path.stem for key, file in files.items()}
        return Names(selection, names, texts, stems, {key: file.output_name for key, file in files.items()})

    def _draw(self, values: PreviewValues, begin: Callable[[PreviewValues, Settings], Sheet]) -> Iterator[Changes]:
        try:
            settings = with_seed(Settings.from_values(values, self.host.samplers))
            sheet = begin(values, settings)
        except (ValueError, OSError) as error:
            yield {"status": html.failure(str(error))}
            return
        job = self.jobs.start(self.renderer.work(sheet.variants, settings), "preview")
        earlier = [job_id for job_id in _ids(values["drawing"]) if self.jobs.goes_on(job_id)]
        try:
            yield from self._stream(job, sheet, [*earlier, job.id])
        finally:
            job.cancel()  # if the page was closed before the end

    def _stream(self, job: Job[None], sheet: Sheet, going: Sequence[str]) -> Iterator[Changes]:
        """Stream the pictures and the progress of a job to the page; ``going`` are the ids of all jobs there."""
        started, rendered = time.time(), list[Rendered]()
        drawn: dict[int, DrawnPicture] = {}
        # Save writes a grid's pictures, too, and the next comparison begins with the last one's
        self.results[job.id] = drawn
        named = {"job": job.id, "drawing": " ".join(going), "live": ""}
        yield {**named, sheet.widget: sheet.html(drawn, busy=True), "status": html.note("Starting …"), **_DRAWING}
        for report in job.reports():
            if isinstance(report, Rendered):
                rendered.append(report)
                drawn[report.number] = DrawnPicture.of(report)
                yield {sheet.widget: sheet.html(drawn, busy=True), "job": job.id}  # others may have been shown since
            elif isinstance(report, Live):
                yield {"live": pictures_html.live(sheet.widget, report.number, report.image)}
            else:
                yield status_update(report, "status", html.progress, self._waiting())
        error, problem = job.error(), ""
        files: list[str] = []
        if error is None and isinstance(sheet, Comparison):
            try:
                files = [self.pictures.save(job.id, one) for one in drawn.values()]
            except OSError as cause:
                problem = f"the pictures are not in the history: {cause}"
        entry = {"id": job.id, "time": started, "seconds": time.time() - started, "files": files} if files else None
        shown = sheet.html(drawn, error=error, entry=entry)
        ending = html.ended(job.id, _ending(error, sheet, rendered) + html.note(problem))
        yield {sheet.widget: shown, "job": job.id, "live": "", "status": ending}

    def _waiting(self) -> str:
        name = self._trained()
        return f"Waiting for the model: {name} is being trained; Pause in Runs releases it" if name else WAITING

    # --- pictures on disk -----------------------------------------------------------------------------------------

    @error_to("status")
    def save(self, values: PreviewValues) -> Changes:
        """Save the latest pictures to the host's output folder, with their generation parameters."""
        drawn = self.results.get(values["job"] or "")
        if not drawn:
            raise ValueError("there are no pictures to save: press Draw first")
        folder = self.host.output_dir / "blocktrain"
        now, names = time.strftime("%Y%m%d-%H%M%S"), []
        for one in drawn.values():
            path = _free(folder, f"{now}-{one.seed}-{one.name}")
            with atomic_write(path) as temporary:
                temporary.write_bytes(one.png)
            names.append(path.name)
        return {"status": html.done(f"Saved in {folder}: {', '.join(names)}")}

    @error_to("status")
    def load(self, values: PreviewValues) -> Changes:
        """Load prompt, settings, LoRAs and weights from a picture's generation parameters."""
        path = values["png_file"]
        if path is None:
            return {}
        found = read_png(path)
        changes, messages = _settings_of(found, self.host.samplers)
        prompt = pasted(found.prompt, found.values.get(INFOTEXT, ""), self.controls.presets.all())
        tagged = loras_of_prompt(self.controls, prompt, seed=int(found.values.get("Seed", 0)))
        recorded, missing, unclear = self._entries_of(found)
        if tagged.entries or found.loras:
            changes |= self.controls.use_exactly({**tagged.entries, **recorded})
        tagged.missing += missing
        words = ["Parameters loaded", *messages, *tagged.words, *unclear]
        return {**changes, "prompt": tagged.prompt, "status": html.note("; ".join(words))}

    def _entries_of(self, found: Parameters) -> tuple[dict[str, LoraEntry], list[str], list[str]]:
        """The LoRAs of a picture that are in the folders, the names of those that are not, and what is unclear.

        A picture has the names of files without their folders.
        """
        files = {lora.name: self.controls.lora_index.named(lora.name) for lora in found.loras}
        entries = {
            file.key: self.controls.entry(lora.weights, lora.multiplier)
            for lora in found.loras
            if (file := files[lora.name]) is not None
        }
        called = {name: self.controls.lora_index.called(name) for name in files}
        unclear = [f"{name} may be {' or '.join(keys)}: the last is used" for name, keys in called.items() if keys[1:]]
        return entries, [name for name, file in files.items() if file is None], unclear

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
        try:
            weights = selection.shown.acting(network.architecture)
        except ValueError as error:
            yield {"bake_status": html.failure(str(error))}
            return

        def work(job: Job[None]) -> None:
            base = self._base_of(network.architecture)
            bake(network, weights, path, base=base, overwrite=replace, progress=job.progress("Baking"))
            self.host.refresh_loras()  # under the lock, as a file that the WebUI has read may be another now

        def finished(_: Job[None]) -> Changes:
            self.controls.lora_index.refresh()
            note = html.note(f"Wrote {path}: at strength 1 it does what {selection.active} does under these weights")
            return {"lora_data": self.controls.data(), "bake_status": note, "bake_replace": False}

        yield from stream_job(self.jobs, Panel("bake", values), work, finished)

    def _base_of(self, architecture: str) -> dict[str, nn.Module] | None:
        """Return the loaded models that a network for `architecture` is for, None where there are none to read."""
        try:
            model = self.host.model()
            return {"unet": model.unet, **model.text_encoders} if model.architecture == architecture else None
        except NoModel:
            return None

    def cancel_bake(self, values: PreviewValues) -> Changes:
        """Cancel baking; no file is written."""
        self.jobs.cancel(values["bake_job"] or "")
        return {}


def _ids(text: str | None) -> list[str]:
    """The ids of the drawings that a page has started, from the text in which it keeps them."""
    return (text or "").split()


def _ending(error: BaseException | None, sheet: Sheet, rendered: Sequence[Rendered]) -> Markup:
    variants = sheet.variants
    if isinstance(error, Cancelled):
        return html.note(f"Cancelled: {len(rendered)} of {len(variants)} pictures drawn")
    if error is not None:
        return html.failure(describe_error(error))
    drawn = sum(not one.reused for one in rendered)
    summary = f"{drawn} of {len(variants)} pictures drawn, seed {sheet.settings.seed}"
    if variants[-1].name == WEIGHTED and variants[-1].weights == variants[-2].weights:
        summary += "; the last two are the same, since every block is at 1"
    elif not drawn:
        summary += ": nothing has changed, and the earlier ones are shown"
    elif drawn < len(variants):
        summary += "; the others are unchanged"
    notices = dict.fromkeys(notice for one in rendered for notice in one.notices)
    return html.done(summary) + Markup("").join(map(html.note, notices))


def _numbers(text: str) -> list[float]:
    """Numbers from "0, 0.5, 1"; raises ValueError that names what is none."""
    parts = [part for part in re.split(r"[,;\s]+", text.strip()) if part]
    if not parts:
        raise ValueError("no values for the grid: expected numbers such as 0, 0.5, 1")
    try:
        return [float(part) for part in parts]
    except ValueError as error:
        raise ValueError(f"values {text[:60]!r}: expected numbers such as 0, 0.5, 1") from error


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
    left = [f"{name} {value[:40]}" for name, value in values.items() if not _TAKEN.match(name) and value != AUTOMATIC]
    if left:
        more = f" and {len(left) - MAX_LEFT} more" if len(left) > MAX_LEFT else ""
        messages.append(f"not taken over: {', '.join(left[:MAX_LEFT])}{more}")
    return changes, messages


def _free(folder: Path, stem: str) -> Path:
    """A path that does not exist yet, with a number if there were several saves within a second."""
    number, path = 2, folder / f"{stem}.png"
    while path.exists():
        number, path = number + 1, folder / f"{stem}-{number}.png"
    return path
