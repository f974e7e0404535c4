"""The handlers of a search for weights in the Analyse tab: keep A, drop B."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lib_blocktrain.analysis.request import read_seeds
from lib_blocktrain.analysis.solve_result import KINDS, Solved, SolveRequest, build_solve_request
from lib_blocktrain.ui import html, solve_html
from lib_blocktrain.ui.analyse_handlers import MAX_RESULTS, AnalyseHandlers, chosen_lora, prompts_of, side
from lib_blocktrain.ui.feature_form import first_feature, second_feature
from lib_blocktrain.ui.found_weights import as_preset, in_training, on_sliders
from lib_blocktrain.ui.job_stream import Panel, stream_job
from lib_blocktrain.ui.lora_controls import error_to
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.values import AnalyseValues, Changes, Properties
from lib_blocktrain.workspace.analyses import run_solve
from lib_blocktrain.workspace.jobs import Job
from lib_blocktrain.workspace.lora_selection import in_range
from lib_blocktrain.workspace.recent import Recent

KIND_LABELS = {"free": "-0.5 to 1.5", "sparse": "few blocks", "on-off": "0 or 1"}
assert KIND_LABELS.keys() == KINDS.keys()
KIND_OF = {label: name for name, label in KIND_LABELS.items()}  # a gradio 3 menu has labels only, no values


@dataclass(frozen=True)
class StoredSolution:
    """An answer, and the key of its LoRA."""

    lora: str
    solved: Solved


class SolveHandlers:
    """Run and end a search, and send the weights of a place of its front to the other tabs."""

    def __init__(self, analyse: AnalyseHandlers):
        self.host, self.jobs, self.controls = analyse.host, analyse.jobs, analyse.controls
        self.lora_index = analyse.lora_index
        self._results: Recent[str, StoredSolution] = Recent(MAX_RESULTS)

    def start(self, values: AnalyseValues) -> Iterator[Changes]:
        """Search as a job; Cancel ends it with the best until then."""
        try:
            key, request = self._request(values)
        except (ValueError, OSError) as error:
            yield {"solve_status": html.failure(str(error))}
            return

        def work(job: Job[Solved]) -> Solved:
            return run_solve(self.host, request, job.progress("Searching"))

        def finished(job: Job[Solved]) -> Changes:
            return self.store(job.id, StoredSolution(key, job.result()))

        yield from stream_job(self.jobs, Panel("solve", values, "search for weights"), work, finished)

    def cancel(self, values: AnalyseValues) -> Changes:
        """End the search that this page has started."""
        self.jobs.cancel(values["solve_job"] or "")
        return {}

    def store(self, job_id: str, stored: StoredSolution, place: int | None = None) -> dict[str, object]:
        """Store an answer for the buttons that use it, and show it: at the place chosen in it, or another from 0 on."""
        self._results[job_id] = stored
        solved = stored.solved
        at = solved.chosen if place is None else place
        return {
            "solve_found": job_id,
            "solve_place": at + 1,
            "solve_front": solve_html.front(solved),
            "solve_status": solve_html.summary(solved),
            **self._shown(solved, at),
            "solve_using": Properties(visible=True),
        }

    def show_again(self, job_id: object, place: object = None) -> Changes:
        """Show an answer that is still in memory, after a reload of the page; no changes if it is not.

        ``place`` is the number on the slider, from 1 on; any other is the one chosen by the search.
        """
        stored = self._results.get(job_id) if isinstance(job_id, str) else None
        if stored is None:
            return {}
        known = isinstance(place, int) and 1 <= place <= len(stored.solved.front)
        return self.store(str(job_id), stored, int(str(place)) - 1 if known else None)

    def show(self, values: AnalyseValues) -> Changes:
        """Show the weights at the place of the slider, in words and on the map."""
        try:
            stored, place = self._at(values)
        except ValueError as error:
            return {"solve_weights": html.failure(str(error))}
        return self._shown(stored.solved, place)

    def _shown(self, solved: Solved, place: int) -> Changes:
        found = UMap("analyse", solved.architecture, weights=solved.at(place).weights.with_base)
        return {"solve_weights": solve_html.solution(solved, place), "analyse_map": found.html()}

    @error_to("analyse_message")
    def to_sliders(self, values: AnalyseValues) -> Changes:
        """Set the sliders of Preview to the weights."""
        stored, place = self._at(values)
        solved, weights = stored.solved, stored.solved.at(place).weights
        strength = solved.settings["multiplier"]
        shown = on_sliders(self.controls, values, stored.lora, weights, solved.rounded_share, strength)
        return {**shown, "analyse_message": ""}

    @error_to("analyse_message")
    def to_preset(self, values: AnalyseValues) -> Changes:
        """Save the weights as a preset, with their architecture and the share of the picture that A fills."""
        stored, place = self._at(values)
        solved = stored.solved
        preset = solved.preset((values["solve_preset"] or "").strip(), place)
        changes, said = as_preset(self.controls, values, preset, values["solve_replace"])
        return {**changes, "analyse_message": said, "solve_replace": False}

    @error_to("analyse_message")
    def to_training(self, values: AnalyseValues) -> Changes:
        """Put the weights into the training form, those below 0 as 0."""
        stored, place = self._at(values)
        weights = stored.solved.at(place).weights
        below = {block: 0.0 for block, value in weights.with_base.items() if value < 0}
        line = weights.replace(below).to_line(with_architecture=True, area_share=stored.solved.rounded_share)
        said = html.note(f"{', '.join(below)}: below 0 in the search, 0 here, as training takes 0 to 2")
        return {**in_training(line), "analyse_message": "", "train_message": said if below else ""}

    def _at(self, values: AnalyseValues) -> tuple[StoredSolution, int]:
        """The answer, and the place of its front that the slider is at."""
        stored = self._results.get(values["solve_found"] or "")
        if stored is None:
            raise ValueError("there are no weights yet: press Search first")
        place = int(values["solve_place"] or 0) - 1
        stored.solved.at(place)
        return stored, place

    def _request(self, values: AnalyseValues) -> tuple[str, SolveRequest]:
        key, drop = chosen_lora(values), second_feature(values)
        first, count = read_seeds(values["analyse_seeds"] or "0"), int(values["solve_pictures"] or 0)
        label = values["solve_kind"] or ""
        request = build_solve_request(
            self.lora_index.network(key),
            prompts=prompts_of(values),
            keep=first_feature(values),
            drop=drop if drop.given else None,
            negative=values["analyse_negative"] or "",
            seeds=tuple(range(first[0] if first else 0, (first[0] if first else 0) + count)),
            guidance=in_range("CFG", values["analyse_cfg"], 0, 30),
            width=side(values["width"]),
            height=side(values["height"]),
            kind=KIND_OF.get(label, label),
            budget=int(values["solve_budget"] or 0),
            multiplier=in_range("strength", values["analyse_strength"], -2, 2),
        )
        return key, request
