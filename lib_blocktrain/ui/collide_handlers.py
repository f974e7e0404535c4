"""The handlers of "Two LoRAs" in the Analyse tab: which blocks both want, and weights that divide them."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from lib_blocktrain.analysis.collision import BlockOverlap, Collision
from lib_blocktrain.analysis.request import AnalysisRequest
from lib_blocktrain.ui import html
from lib_blocktrain.ui.analyse_handlers import AnalyseHandlers
from lib_blocktrain.ui.found_weights import in_use
from lib_blocktrain.ui.job_stream import Panel, stream_job
from lib_blocktrain.ui.lora_controls import error_to, selection_of
from lib_blocktrain.ui.values import AnalyseValues, Changes, Properties
from lib_blocktrain.workspace.analyses import run_collide
from lib_blocktrain.workspace.jobs import Job
from lib_blocktrain.workspace.recent import Recent

KEPT = 8  # results that "Use both in Preview" can take
_TABLE = Markup(
    '<table class="blocktrain-figures"><thead><tr><th>block</th><th>{}</th><th>{}</th><th>deltas</th><th>reads</th>'
    "<th>writes</th><th>effects</th></tr></thead><tbody>{}</tbody></table>"
)
_ROW = Markup("<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>")
_WORDS = Markup(
    "<p>The first two columns are each block’s share of a LoRA; deltas and effects are cosines, −1 to 1; reads and"
    " writes are the share of one LoRA that lies in the other’s subspaces.</p><p>Weights for both: <code>{}</code>"
    " <code>{}</code></p>"
)


class CollideHandlers:
    """Compare the LoRA of Analyse with another one; the weights go to Preview, for both."""

    def __init__(self, analyse: AnalyseHandlers) -> None:
        self.host, self.jobs, self.controls, self.lora_index = (
            analyse.host,
            analyse.jobs,
            analyse.controls,
            analyse.lora_index,
        )
        self.analyse = analyse
        self._results: Recent[str, tuple[tuple[str, str], Collision]] = Recent(KEPT)

    def open(self, values: AnalyseValues) -> Changes:
        """Fill the menu of the second LoRA."""
        keys = self.lora_index.usable()
        known = values["collide_with"] if values["collide_with"] in keys else None
        return {"collide_with": Properties(choices=keys, value=known)}

    def start(self, values: AnalyseValues) -> Iterator[Changes]:
        """Compare both as a job: their files, or their effects on the pictures that Analyse asks for."""
        try:
            keys, request = self._request(values)
            networks = [self.lora_index.network(key) for key in keys]
        except (ValueError, OSError) as error:
            yield {"collide_status": html.failure(str(error))}
            return

        def work(job: Job[Collision]) -> Collision:
            grid = None if request is None else request.grid
            return run_collide(self.host, networks[0], networks[1], grid, job.progress("Comparing"))

        def finished(job: Job[Collision]) -> Changes:
            self._results[job.id] = (keys, job.result())
            ready = Properties(interactive=True)
            return {"collide_found": job.id, "collide_table": _html(job.result()), "collide_use": ready}

        yield from stream_job(self.jobs, Panel("collide", values, "analysis"), work, finished)

    def cancel(self, values: AnalyseValues) -> Changes:
        """Cancel the comparison that this page has started."""
        self.jobs.cancel(values["collide_job"] or "")
        return {}

    @error_to("collide_status")
    def to_preview(self, values: AnalyseValues) -> Changes:
        """Use both LoRAs in Preview, under the weights that divide the blocks."""
        found = self._results.get(values["collide_found"] or "")
        if found is None:
            raise ValueError("there is no comparison: press Compare")
        keys, result = found
        lines = {key: weights.to_line(with_architecture=True) for key, weights in zip(keys, result.weights)}
        changes = in_use(self.controls, selection_of(values), lines, 1.0)
        return {**changes, "tabs": Properties(selected="Preview"), "status": html.changed_elsewhere(*keys)}

    def _request(self, values: AnalyseValues) -> tuple[tuple[str, str], AnalysisRequest | None]:
        first, second = values["analyse_lora"], values["collide_with"]
        if not first or not second or first == second:
            raise ValueError("choose another LoRA to compare with the one above")
        if not values["collide_effects"]:
            return (first, second), None
        return (first, second), self.analyse.request(values)


def _html(found: Collision) -> Markup:
    rows = Markup("").join(_row(row) for row in found.blocks)
    notes = Markup("").join(html.note(notice) for notice in found.notices)
    table = _TABLE.format(found.names[0], found.names[1], rows)
    lines = [f"{name}: {weights.to_line()}" for name, weights in zip(found.names, found.weights)]
    return table + _WORDS.format(lines[0], lines[1]) + notes


def _row(row: BlockOverlap) -> Markup:
    shares = (f"{row.first:.0%}", f"{row.second:.0%}", _number(row.cosine), _share(row.inputs), _share(row.outputs))
    return _ROW.format(row.block, *shares, _number(row.effect))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
