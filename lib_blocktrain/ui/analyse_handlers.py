"""The handlers of the Analyse tab: run an analysis, and turn its result into block weights. They use no widgets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from lib_blocktrain.analysis.pairs import notable
from lib_blocktrain.analysis.regions import Feature, area_warning
from lib_blocktrain.analysis.request import AnalysisRequest, build_request
from lib_blocktrain.analysis.results import Analysis, compare, write_analysis
from lib_blocktrain.analysis.similar import of_file
from lib_blocktrain.analysis.weight_rules import RULES, fewest, preset_of, weights_by_rule
from lib_blocktrain.blocks import ARCHITECTURES, BASE
from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts.host import Host
from lib_blocktrain.ui import analyse_html, html
from lib_blocktrain.ui.feature_form import DRAWN, first_feature, second_feature
from lib_blocktrain.ui.found_weights import as_preset, in_training, on_sliders
from lib_blocktrain.ui.job_stream import Panel, stream_job
from lib_blocktrain.ui.lora_controls import LoraControls, error_to
from lib_blocktrain.ui.u_map import UMap, View
from lib_blocktrain.ui.values import AnalyseValues, Changes, Properties
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.analyses import AnalysisResult, rank_similar, run_analysis, sample_request
from lib_blocktrain.workspace.jobs import Job, Jobs
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.lora_selection import in_range
from lib_blocktrain.workspace.recent import Recent

MAX_RESULTS = 8  # kept in memory for the buttons
SUGGESTED = "suggested"  # the weights that a probe suggests; not one of weight_rules.RULES
RULE_LABELS = {
    "strongest": "Strongest",
    "proportional": "In proportion",
    "lower": "Lower where B",
    SUGGESTED: "As probed",
}
assert RULE_LABELS.keys() <= {*RULES, SUGGESTED}
KEPT_AT_FIRST = 0.6  # of the effect: where the slider begins; more brings back what is to be left out
RULE_OF = {label: name for name, label in RULE_LABELS.items()}  # a gradio 3 choice has labels only, no values


@dataclass(frozen=True)
class StoredResult:
    """The result of an analysis, and the key of its LoRA. For a probe, which has no LoRA, the key is "".

    A probe also suggests weights; `others` are its further analyses of the same pictures.
    """

    lora: str
    result: AnalysisResult
    suggested: BlockWeights | None = None
    others: tuple[Analysis, ...] = ()

    @property
    def first(self) -> Analysis:
        return self.result.analyses[0]

    @property
    def second(self) -> Analysis | None:
        return self.result.analyses[1] if len(self.result.analyses) > 1 else None


class AnalyseHandlers:
    """Run and cancel an analysis; compute weights from its result, and send them to the other tabs."""

    def __init__(self, host: Host, controls: LoraControls, lora_index: LoraIndex, jobs: Jobs):
        self.host, self.controls, self.lora_index, self.jobs = host, controls, lora_index, jobs
        self._results: Recent[str, StoredResult] = Recent(MAX_RESULTS)

    def refresh(self, values: AnalyseValues) -> Changes:
        """Read the LoRA folders again."""
        keys, key = self._keys(values)
        return {"analyse_lora": Properties(choices=keys, value=key)}

    def open(self, values: AnalyseValues) -> Changes:
        """Fill the menu of LoRAs, and show an empty map for the one selected in it."""
        keys, key = self._keys(values)
        file = self.lora_index.file(key) if key else None
        architecture_id = (file.architecture if file else "") or "sd1"  # "": it cannot be read
        absent = self.controls.lacks(file, architecture_id) if file and file.architecture else {}
        empty = UMap("analyse", architecture_id, values={}, absent=absent)
        return {"analyse_lora": Properties(choices=keys, value=key), "analyse_map": empty.html()}

    def _keys(self, values: AnalyseValues) -> tuple[list[str], str | None]:
        """The keys of the readable LoRAs now in the folders, and the one to select."""
        self.lora_index.refresh()
        keys = self.lora_index.usable()
        preferred = (values["analyse_lora"], self.controls.initial.lora, *keys)
        return keys, next((key for key in preferred if key in keys), None)

    def is_readable(self, key: object) -> bool:
        """Whether there is a readable LoRA of this key."""
        return key in self.lora_index.usable()

    # --- the analysis ---------------------------------------------------------------------------------------------

    def start(self, values: AnalyseValues) -> Iterator[Changes]:
        """Run the analysis as a job."""
        try:
            key, request = self._request(values, _features(values))
        except (ValueError, OSError) as error:
            yield {"analyse_status": html.failure(str(error))}
            return

        def work(job: Job[AnalysisResult]) -> AnalysisResult:
            return run_analysis(self.host, request, job.progress("Analysing"))

        def finished(job: Job[AnalysisResult]) -> Changes:
            return self.store(job.id, StoredResult(key, job.result()))

        yield from stream_job(self.jobs, Panel("analyse", values, "analysis"), work, finished)

    def draw(self, values: AnalyseValues) -> Iterator[Changes]:
        """Draw the picture over which the user then paints the feature."""
        try:
            _, request = self._request(values)
        except (ValueError, OSError) as error:
            yield {"analyse_status": html.failure(str(error))}
            return
        sample = sample_request(self.host, request)

        def work(job: Job[Image.Image]) -> Image.Image:
            return self.host.sample(sample, job.progress("Drawing"))

        def finished(job: Job[Image.Image]) -> Changes:
            note = html.note("Paint over the feature, then press Analyse")
            image = analyse_html.paintable(job.result())
            return {"analyse_drawing": image, "analyse_kind": DRAWN, "analyse_status": note}

        yield from stream_job(self.jobs, Panel("analyse", values, "preview"), work, finished)

    def cancel(self, values: AnalyseValues) -> Changes:
        """Cancel the analysis or drawing that this page has started."""
        self.jobs.cancel(values["analyse_job"] or "")
        return {}

    def store(self, job_id: str, stored: StoredResult) -> dict[str, object]:
        """Store a result for the buttons that use it, and show it."""
        self._results[job_id] = stored
        first, second = stored.first, stored.second
        figures = analyse_html.bars(first, second) + analyse_html.pairs(first) + html.note(stored.result.area_sentence)
        compared = Markup("") if second is None else analyse_html.comparison(compare(first, second))
        sheets = analyse_html.sheets(stored.result.sheets)
        return {
            "analyse_found": job_id,
            "analyse_amount": max(1, len(fewest(first, KEPT_AT_FIRST))),
            "analyse_head": analyse_html.answer(first),
            "analyse_bars": figures + self._preset_warnings(first),
            "analyse_table": compared + analyse_html.table(first) + sheets,
            "analyse_map": _map(first, second),
            "analyse_status": html.done(f"{first.feature}: done in {first.seconds:.0f} s"),
            "analyse_using": Properties(visible=True),
            "analyse_save": Properties(interactive=True),
        }

    def show_again(self, job_id: object) -> Changes:
        """Show a result that is still in memory, after a reload of the page; no changes if it is not."""
        stored = self._results.get(job_id) if isinstance(job_id, str) else None
        return {} if stored is None else self.store(str(job_id), stored)

    def _preset_warnings(self, analysis: Analysis) -> Markup:
        """Warnings about the user's presets that were found for a feature of another size."""
        notes = []
        for preset in self.controls.presets.own.read().presets.values():
            architecture = analysis.architecture
            if analysis.area_share is None or architecture not in preset.architectures or "canvas=" not in preset.text:
                continue
            share = self.controls.presets.parse(preset.text, architecture).area_share
            text = area_warning(share, analysis.area_share)
            notes += [html.note(f"Your preset {preset.name}: {text}")] if text else []
        return Markup("").join(notes)

    # --- what to do with it ---------------------------------------------------------------------------------------

    def show_weights(self, values: AnalyseValues) -> Changes:
        """Show the weights that the rule gives for the result, on the map and in words."""
        stored = self._results.get(values["analyse_found"] or "")
        if stored is None:
            return {}
        try:
            _, weights = self._weights(values)
        except ValueError as error:
            said = html.failure(str(error))
            return {"analyse_map": _map(stored.first, stored.second), "analyse_weights": said, "analyse_keep": ""}
        live = (values["analyse_rule"] or "") in ("strongest", RULE_LABELS["strongest"])
        return {
            "analyse_map": _map(stored.first, stored.second, weights.with_base),
            "analyse_weights": analyse_html.weights(stored.first, weights),
            "analyse_keep": analyse_html.keep(stored.first, stored.second, weights, live),
        }

    @error_to("analyse_message")
    def to_sliders(self, values: AnalyseValues) -> Changes:
        """Set the sliders of Preview to the weights: for the LoRA analysed or, after a probe, for the active one."""
        stored, weights = self._weights(values)
        first, strength = stored.first, stored.first.settings.get("multiplier")
        shown = on_sliders(self.controls, values, stored.lora, weights, first.area_share, strength)
        return {**shown, "analyse_message": ""}

    @error_to("analyse_message")
    def to_preset(self, values: AnalyseValues) -> Changes:
        """Save the weights as a preset, with their architecture and the share of the picture the feature fills."""
        stored, weights = self._weights(values)
        name = (values["analyse_preset"] or "").strip()
        preset = preset_of(stored.first, weights, name)
        changes, said = as_preset(self.controls, values, preset, values["analyse_replace"])
        return {**changes, "analyse_message": said, "analyse_replace": False}

    @error_to("analyse_message")
    def to_training(self, values: AnalyseValues) -> Changes:
        """Put the weights into the training form."""
        stored, weights = self._weights(values)
        line = weights.to_line(with_architecture=True, area_share=stored.first.area_share)
        return {**in_training(line), "analyse_message": ""}

    @error_to("analyse_message")
    def save(self, values: AnalyseValues) -> Changes:
        """Write JSON, CSV and contact sheets to the host's output folder."""
        stored = self._result(values)
        folder = self.host.output_dir / "blocktrain" / "analyses"
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(stored.lora).name or 'dataset'}-{stored.first.method}"
        paths = write_analysis(stored.first, folder, stem)
        if stored.second is not None:
            paths += write_analysis(stored.second, folder, f"{stem}-against")
        for number, other in enumerate(stored.others, start=2):
            paths += write_analysis(other, folder, f"{stem}-{number}")
        for name, image in stored.result.sheets.items():
            path = folder / f"{stem}-{name}.png"
            with atomic_write(path) as temporary:
                image.save(temporary, format="PNG")
            paths.append(path)
        return {"analyse_message": html.note(f"Saved in {folder}: {', '.join(path.name for path in paths)}")}

    @error_to("analyse_message")
    def find_similar(self, values: AnalyseValues) -> Changes:
        """Rank the other LoRAs by similarity to the selected one."""
        target = of_file(self.lora_index.file(chosen_lora(values)).path)
        return {"analyse_similar": analyse_html.ranking(rank_similar(self.host, target)), "analyse_message": ""}

    def request(self, values: AnalyseValues) -> AnalysisRequest:
        """The request for the selected LoRA and the whole picture; raises ValueError."""
        return self._request(values)[1]

    def _request(self, values: AnalyseValues, features: Sequence[Feature] = ()) -> tuple[str, AnalysisRequest]:
        """The key of the selected LoRA, and the request to analyse it; without features, for the whole picture."""
        key = chosen_lora(values)
        request = build_request(
            self.lora_index.network(key),
            method=values["analyse_method"] or "",
            prompts=prompts_of(values),
            negative=values["analyse_negative"] or "",
            seeds=values["analyse_seeds"] or "",
            guidance=in_range("CFG", values["analyse_cfg"], 0, 30),
            width=side(values["width"]),
            height=side(values["height"]),
            features=features,
            multiplier=in_range("strength", values["analyse_strength"], -2, 2),
            pairs=values["analyse_pairs"],
        )
        return key, request

    def _weights(self, values: AnalyseValues) -> tuple[StoredResult, BlockWeights]:
        """The result, and the weights that the rule gives for it."""
        stored = self._result(values)
        label, amount = values["analyse_rule"] or "", values["analyse_amount"]
        rule = RULE_OF.get(label, label)
        if rule != SUGGESTED:
            return stored, weights_by_rule(rule, stored.first, None if amount is None else float(amount), stored.second)
        if stored.suggested is None:
            raise ValueError("only a probe of pictures suggests weights: choose another rule")
        return stored, stored.suggested

    def _result(self, values: AnalyseValues) -> StoredResult:
        stored = self._results.get(values["analyse_found"] or "")
        if stored is None:
            raise ValueError("there is no result yet: press Analyse first")
        return stored


def _map(analysis: Analysis, other: Analysis | None = None, weights: Mapping[str, float] | None = None) -> Markup:
    """The figures as colours on the U map, blocks within the noise uncoloured; with B it can show B, and A less B."""
    known = ARCHITECTURES[analysis.architecture]
    measured = {figure.block for figure in analysis.figures}
    absent = {block_id: "not measured" for block_id in (BASE, *known.block_ids) if block_id not in measured}
    pairs = [(pair.first, pair.second, round(pair.value, 3)) for pair in notable(analysis.pairs)]
    views = [] if other is None else _views(analysis, other)
    name, title, values = analysis.architecture, analysis.feature, _values(analysis)
    shown = UMap("analyse", name, absent=absent, values=values, title=title, weights=weights, pairs=pairs, views=views)
    return shown.html()


def _values(analysis: Analysis) -> dict[str, float]:
    """The figures of the blocks that stand out from the noise."""
    return {figure.block: round(max(figure.mean, 0.0), 4) for figure in analysis.figures if not figure.within_noise}


def _views(first: Analysis, second: Analysis) -> list[View]:
    """What the map shows of two features: A, B, and the difference of their shares beyond the noise."""
    named = [(letter, found.feature.removeprefix("the word ")) for letter, found in (("A", first), ("B", second))]
    points = {row.block: round(100 * row.difference, 1) for row in compare(first, second).rows if not row.within_noise}
    return [
        *(View(" ".join(name), found.feature, _values(found)) for name, found in zip(named, (first, second))),
        View("A − B", "% of A less % of B", points),
    ]


def chosen_lora(values: AnalyseValues) -> str:
    """The key of the LoRA that is chosen; raises ValueError for none."""
    key = values["analyse_lora"]
    if not key:
        raise ValueError("no LoRA is chosen: choose one in the menu")
    return key


def prompts_of(values: AnalyseValues) -> tuple[str, ...]:
    """The prompts, one a line, each once."""
    lines = (line.strip() for line in (values["analyse_prompts"] or "").splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))


def side(value: float | None) -> int | None:
    """A side of Preview's pictures, in pixels; an empty field is the model's own size."""
    return None if value is None else int(value)


def _features(values: AnalyseValues) -> tuple[Feature, ...]:
    if values["analyse_method"] == "norms":  # needs the file only
        return ()
    first, second = first_feature(values), second_feature(values)
    return (first, second) if second.given else (first,)
