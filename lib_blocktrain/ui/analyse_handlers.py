"""What the place Analyse does: from named values to named changes, without a page."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lib_blocktrain.analysis.area_share import warning
from lib_blocktrain.analysis.regions import Feature, read_box
from lib_blocktrain.analysis.results import Analysis, compare, write_analysis
from lib_blocktrain.analysis.run import Options
from lib_blocktrain.analysis.similar import Profiles, of_file, rank
from lib_blocktrain.analysis.weight_rules import RULES, chosen, preset_of
from lib_blocktrain.blocks import BASE
from lib_blocktrain.files import atomic_write
from lib_blocktrain.hosts.host import Host, SampleRequest
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.ui import analyse_html, html
from lib_blocktrain.ui.job_stream import stream_job
from lib_blocktrain.ui.lora_controls import RANDOM_SEED_TEXT, LoraControls, error_to, selection_of
from lib_blocktrain.ui.painting import painted
from lib_blocktrain.ui.u_map import UMap
from lib_blocktrain.ui.values import Changes, Properties, Values
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.analyses import AnalysisRequest, AnalysisResult, answer, setting_for
from lib_blocktrain.workspace.jobs import Job, Jobs
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.lora_selection import LoraEntry

KEPT_RESULTS = 8
MOST_SEEDS, MOST_PROMPTS = 32, 16
WHOLE, WORD, BOX, DRAWN, FILE = "the whole picture", "a word", "a box", "drawn on the picture", "a mask file"
KINDS = (WHOLE, WORD, BOX, DRAWN, FILE)
NOTHING = "nothing"
AGAINST = (NOTHING, WORD, BOX, FILE)
SUGGESTED = "suggested"  # by a probe; no rule for the figures of an analysis
RULE_LABELS = {
    "strongest": "keep the strongest (how many)",
    "down-to": "keep so much of the effect (%)",
    "proportional": "weigh by the figures",
    "lower": "lower what carries B",
    SUGGESTED: "as a probe suggests them",
}
assert RULE_LABELS.keys() == {*RULES, SUGGESTED}
USES = ("analyse_sliders", "analyse_train", "analyse_save", "analyse_save_preset")  # buttons that want an answer
RULE_OF = {label: name for name, label in RULE_LABELS.items()}  # gradio 3's menus know no values beside labels


@dataclass(frozen=True)
class Result:
    """What an analysis of this page found, and the LoRA by its key in the library; a probe has none.

    A probe suggests weights, and may have found `others` by the way.
    """

    lora: str
    answered: AnalysisResult
    suggested: BlockWeights | None = None
    others: tuple[Analysis, ...] = ()

    @property
    def first(self) -> Analysis:
        return self.answered.analyses[0]

    @property
    def second(self) -> Analysis | None:
        return self.answered.analyses[1] if len(self.answered.analyses) > 1 else None


class AnalyseHandlers:
    """What Analyse, Cancel, the rules and Save do."""

    def __init__(self, host: Host, controls: LoraControls, lora_index: LoraIndex, jobs: Jobs):
        self.host, self.controls, self.lora_index, self.jobs = host, controls, lora_index, jobs
        self._results: OrderedDict[str, Result] = OrderedDict()

    def refresh(self, values: Values) -> Changes:
        """Look again which LoRAs there are, and fill the menu."""
        self.lora_index.refresh()
        keys = [file.key for file in self.lora_index.files() if not file.problem]
        chosen_before = values.get("analyse_lora")
        first = self.controls.first.lora if self.controls.first.lora in keys else keys[0] if keys else None
        return {"analyse_lora": Properties(choices=keys, value=chosen_before if chosen_before in keys else first)}

    def open(self, values: Values) -> Changes:
        """The page was loaded: the menu, and the map that the answer will colour."""
        menu = self.refresh(values)
        key = menu["analyse_lora"]["value"]
        architecture_id = self.lora_index.file(key).architecture if key else "sd1"
        return {**menu, "analyse_map": UMap("analyse", architecture_id, values={}).html()}

    # --- the analysis ---------------------------------------------------------------------------------------------

    def start(self, values: Values) -> Iterator[Changes]:
        """Analyse, with progress, in the host's queue."""
        try:
            key, inquiry = self._inquiry(values)
        except (ValueError, OSError) as error:
            yield {"analyse_status": html.failure(str(error))}
            return
        found: list[AnalysisResult] = []

        def work(job: Job) -> None:
            found.append(answer(self.host, inquiry, job.progress("Analysing", 0, 1)))

        yield from stream_job(self.jobs, "analyse", work, lambda job: self.keep(job.id, Result(key, found[0])))

    def draw(self, values: Values) -> Iterator[Changes]:
        """Draw the picture that a region is to be drawn on."""
        try:
            _, inquiry = self._inquiry({**values, "analyse_kind": WHOLE, "analyse_against": NOTHING})
        except (ValueError, OSError) as error:
            yield {"analyse_status": html.failure(str(error))}
            return
        pictures: list[Image.Image] = []
        setting, options = inquiry.setting, inquiry.options
        weights = options.weights or BlockWeights.uniform(inquiry.network.architecture, 1.0)
        request = SampleRequest(
            prompt=setting.prompts[0],
            negative=setting.negative,
            seed=setting.seeds[0],
            cfg=setting.guidance,
            sampler=self.host.samplers[0],
            width=setting.width,
            height=setting.height,
            placements=(Placement(inquiry.network, weights, options.multiplier),),
        )

        def work(job: Job) -> None:
            pictures.append(self.host.sample(request, job.progress("Drawing", 0, 1)))

        said = {"analyse_kind": DRAWN, "analyse_status": html.note("Paint over the feature, then press Analyse")}

        def shown(_: Job) -> Changes:
            return {"analyse_drawing": analyse_html.to_paint_on(pictures[0]), **said}

        yield from stream_job(self.jobs, "analyse", work, shown)

    def cancel(self, values: Values) -> Changes:
        """Stop the analysis that this page has begun."""
        self.jobs.cancel(values["analyse_job"] or "")
        return {}

    def _inquiry(self, values: Values) -> tuple[str, AnalysisRequest]:
        key = values["analyse_lora"]
        if not key:
            raise ValueError("no LoRA is chosen: choose one in the menu")
        file = self.lora_index.file(key)
        prompts = tuple(dict.fromkeys(line.strip() for line in str(values["analyse_prompts"] or "").splitlines()))
        prompts = tuple(prompt for prompt in prompts if prompt)
        method = values["analyse_method"]
        if len(prompts) > MOST_PROMPTS:
            raise ValueError(f"{len(prompts)} prompts: expected up to {MOST_PROMPTS}")
        setting = setting_for(
            method,
            prompts,
            negative=str(values["analyse_negative"] or ""),
            seeds=_seeds(values["analyse_seeds"]),
            guidance=float(values["analyse_cfg"]),
        )
        features = [_feature(values, ""), _feature(values, "_against")] if method != "norms" else [Feature()]
        given = tuple(f for n, f in enumerate(features) if n == 0 or f.given)
        options = Options(multiplier=float(values["analyse_strength"]))
        return file.key, AnalysisRequest(self.lora_index.network(key), setting, method, given, options)

    def keep(self, job_id: str, result: Result) -> Changes:
        """Keep what was found for the buttons that use it, and show it."""
        self._results[job_id] = result
        while len(self._results) > KEPT_RESULTS:
            self._results.popitem(last=False)
        changes = dict(_shown(result))
        changes["analyse_bars"] = str(changes["analyse_bars"]) + self._elsewhere(result.first)
        usable = {name: Properties(interactive=True) for name in USES}
        return {**changes, **usable, "analyse_found": job_id}

    def _elsewhere(self, found: Analysis) -> str:
        """Say which of the user's presets were found for another share of the picture than this feature's."""
        said = []
        for preset in self.controls.presets.own.read().presets.values():
            if found.canvas is None or found.architecture not in preset.architectures or "canvas=" not in preset.text:
                continue
            share = self.controls.presets.parse(preset.text, found.architecture, seed=RANDOM_SEED_TEXT).canvas
            warned = warning(share, found.canvas)
            said += [html.note(f"Your preset {preset.name}: {warned}")] if warned else []
        return "".join(said)

    # --- what to do with it ---------------------------------------------------------------------------------------

    def weigh(self, values: Values) -> Changes:
        """Say, and show on the map, which weights the rule makes of what was found."""
        if values["analyse_found"] not in self._results:
            return {}
        try:
            result, weights = self._weights(values)
        except ValueError as error:
            result = self._result(values)
            return {"analyse_map": _map(result.first), "analyse_weights": html.failure(str(error))}
        return {
            "analyse_map": _map(result.first, {BASE: weights.base, **weights.values}),
            "analyse_weights": analyse_html.weights(result.first, weights),
        }

    @error_to("analyse_message")
    def to_sliders(self, values: Values) -> Changes:
        """Put the weights of a rule on the sliders of Preview, for the LoRA that was analysed."""
        result, weights = self._weights(values)
        selection = selection_of(values)
        line = weights.to_line(with_architecture=True)
        said = html.brought(result.lora or selection.active)
        places = {"tabs": Properties(selected="Preview"), "status": said, "analyse_message": ""}
        if not result.lora:  # a probe's: for whichever LoRA is weighed
            return {
                **self.controls.show(selection.with_shown(self.controls.entry(line, selection.shown.strength))),
                **places,
            }
        strength = selection.entries[result.lora].strength if result.lora in selection.entries else 1.0
        entry = self.controls.entry(line, strength)
        others = {key: kept for key, kept in selection.entries.items() if key != result.lora}
        shown = self.controls.use_exactly({result.lora: LoraEntry(entry.strength, entry.weights), **others})
        return {**shown, **places}

    @error_to("analyse_message")
    def to_preset(self, values: Values) -> Changes:
        """Save the weights of a rule under a name, with the architecture and the share they were found for."""
        result, weights = self._weights(values)
        name = str(values["analyse_preset"] or "").strip()
        preset = preset_of(result.first, weights, name)
        own = self.controls.presets.own
        if name in own.read().presets and not values["analyse_replace"]:
            raise ValueError(f"there is a preset {name!r} already: choose another name, or tick “replace”")
        own.put(preset)
        names = [p.name for p in self.controls.presets.fitting(result.first.architecture)]
        return {
            "analyse_message": html.note(f"Saved {name}: {preset.text}"),
            "analyse_replace": False,
            "preset": Properties(choices=names),
            "grid_presets": Properties(choices=names),
            "train_preset": Properties(choices=names),
        }

    @error_to("analyse_message")
    def to_training(self, values: Values) -> Changes:
        """Put the weights of a rule into the training form."""
        result, weights = self._weights(values)
        line = weights.to_line(with_architecture=True, canvas=result.first.canvas)
        places = {"tabs": Properties(selected="Train"), "analyse_message": ""}
        return {"train_network_weights": line, **places}

    @error_to("analyse_message")
    def save(self, values: Values) -> Changes:
        """Write JSON, CSV and sheets to the host's output folder."""
        result = self._result(values)
        folder = self.host.output_dir / "blocktrain" / "analyses"
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(result.lora).name or 'dataset'}-{result.first.method}"
        paths = write_analysis(result.first, folder, stem)
        if result.second is not None:
            paths += write_analysis(result.second, folder, f"{stem}-against")
        for number, other in enumerate(result.others, start=2):
            paths += write_analysis(other, folder, f"{stem}-{number}")
        for name, picture in result.answered.sheets.items():
            path = folder / f"{stem}-{name}.png"
            with atomic_write(path) as temporary:
                picture.save(temporary, format="PNG")
            paths.append(path)
        return {"analyse_message": html.note(f"Saved in {folder}: {', '.join(path.name for path in paths)}")}

    @error_to("analyse_message")
    def similar(self, values: Values) -> Changes:
        """Rank the other LoRAs by their likeness to the chosen one."""
        if not values["analyse_lora"]:
            raise ValueError("no LoRA is chosen: choose one in the menu")
        target = of_file(self.lora_index.file(values["analyse_lora"]).path)
        if target.problem:
            raise ValueError(target.problem)
        profiles = Profiles(self.host.output_dir / "cache" / "profiles.json")
        folders = [folder for folder in self.host.lora_dirs if folder.is_dir()]
        return {"analyse_similar": analyse_html.ranking(rank(target, profiles.of(folders))), "analyse_message": ""}

    def _weights(self, values: Values) -> tuple[Result, BlockWeights]:
        result = self._result(values)
        rule = RULE_OF.get(values["analyse_rule"], values["analyse_rule"])
        if rule == SUGGESTED:
            if result.suggested is None:
                raise ValueError("nothing is suggested here, as only a probe of pictures does: choose another rule")
            return result, result.suggested
        amount = values["analyse_amount"]
        amount = float(amount) if isinstance(amount, (int, float)) and not isinstance(amount, bool) else None
        return result, chosen(rule, result.first, amount, result.second)

    def _result(self, values: Values) -> Result:
        result = self._results.get(values["analyse_found"] or "")
        if result is None:
            raise ValueError("there is no analysis yet: press Analyse first")
        return result


def _shown(result: Result) -> Changes:
    first, second = result.first, result.second
    body = analyse_html.bars(first)
    body += html.note(result.answered.about_canvas())
    if second is not None:
        body += analyse_html.comparison(compare(first, second))
    return {
        "analyse_head": analyse_html.heading(first),
        "analyse_bars": body,
        "analyse_table": analyse_html.table(first) + analyse_html.sheets(result.answered.sheets),
        "analyse_map": _map(first),
        "analyse_status": html.note(f"{first.feature}: done in {first.seconds:.0f} s"),
    }


def _map(found: Analysis, weights: Mapping[str, float] | None = None) -> str:
    """The figures as colours, under these weights; a block within the noise has none."""
    strengths = {figure.block: round(max(figure.mean, 0.0), 4) for figure in found.figures if not figure.within_noise}
    return UMap("analyse", found.architecture, values=strengths, title=found.feature, weights=weights).html()


def _feature(values: Values, which: str) -> Feature:
    """The feature that the page asks for; `which` is "" or "_against"."""
    kind = values["analyse_against" if which else "analyse_kind"]
    if kind == WORD:
        return Feature(word=str(values[f"analyse{which}_word"] or "").strip())
    if kind == BOX:
        return Feature(box=read_box(str(values[f"analyse{which}_box"] or "")))
    if kind == DRAWN:
        mask = painted(str(values["analyse_painted"] or ""))
        if mask is None:
            raise ValueError("nothing is drawn: press “Draw the picture”, and paint over the feature")
        return Feature(mask=mask)
    if kind == FILE:
        path = values[f"analyse{which}_mask"]
        if path is None:
            raise ValueError("no mask file is chosen: expected a picture that is white where the feature is")
        try:
            with Image.open(path) as picture:
                return Feature(mask=picture.copy())
        except UnidentifiedImageError as error:
            raise ValueError(f"{Path(path).name}: expected a picture as the mask") from error
    return Feature()


def _seeds(text: object) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in str(text or "").replace(" ", ",").split(",") if part)
    except ValueError as error:
        raise ValueError(f"seeds {text!r}: expected whole numbers with commas, such as 0,1,2") from error
    if len(seeds) > MOST_SEEDS:
        raise ValueError(f"{len(seeds)} seeds: expected up to {MOST_SEEDS}")
    return seeds
