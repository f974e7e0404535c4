"""Which blocks a training on some pictures would move, before there is a LoRA: a button of the place Analyse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lib_blocktrain.analysis.probe import probe_dataset
from lib_blocktrain.training.config import DatasetConfig, FolderConfig
from lib_blocktrain.training.dataset import DatasetError
from lib_blocktrain.ui import analyse_html, html
from lib_blocktrain.ui.analyse_handlers import RULE_LABELS, SUGGESTED, AnalyseHandlers, Result
from lib_blocktrain.ui.job_stream import stream_job
from lib_blocktrain.ui.values import Changes, Values
from lib_blocktrain.workspace.analyses import AnalysisResult
from lib_blocktrain.workspace.jobs import Job

MOST_PICTURES = 64


class ProbeHandlers:
    """What Probe does; what it finds is kept, and used, as an analysis is."""

    def __init__(self, analysing: AnalyseHandlers):
        self.analysing = analysing

    def start(self, values: Values) -> Iterator[Changes]:
        """Probe the pictures of a folder, with progress, in the host's queue."""
        try:
            config, most = _asked(values)
        except (ValueError, OSError) as error:
            yield {"probe_status": html.failure(str(error))}
            return
        class_prompt = str(values["probe_class"] or "").strip()
        convolutions = bool(values["probe_convolutions"])
        found: list[Result] = []

        def work(job: Job) -> None:
            model = self.analysing.host.model()
            progress = job.progress("Probing", 0, 1)
            asked = {"class_prompt": class_prompt, "most": most, "convolutions": convolutions, "progress": progress}
            probed, dataset = probe_dataset(model, config, **asked)
            canvas, (width, height) = dataset.canvas, next(iter(dataset.buckets))
            analyses = tuple(
                replace(analysis, canvas=canvas) for analysis in (probed.differs, probed.moves) if analysis is not None
            )
            try:
                suggested = probed.weights
            except ValueError:  # nothing above the noise: the figures are shown all the same
                suggested = None
            answered = AnalysisResult(analyses[:1], latent=(height // 8, width // 8))
            found.append(Result("", answered, suggested, analyses[1:]))

        yield from stream_job(self.analysing.jobs, "probe", work, lambda job: self._ended(job, found[0]))

    def cancel(self, values: Values) -> Changes:
        """Stop the probe that this page has begun."""
        self.analysing.jobs.cancel(values["probe_job"] or "")
        return {}

    def _ended(self, job: Job, result: Result) -> Changes:
        changes = dict(self.analysing.keep(job.id, result))
        said = str(changes.pop("analyse_status"))
        if result.suggested is None:
            said += html.note("no block's gradient is above the noise: more pictures may tell, or more alike ones")
        else:
            changes["analyse_rule"] = RULE_LABELS[SUGGESTED]
        details = "".join(analyse_html.heading(other) + analyse_html.bars(other) for other in result.others)
        changes["analyse_table"] = str(changes["analyse_table"]) + details
        return {**changes, "probe_status": said}


def _asked(values: Values) -> tuple[DatasetConfig, int]:
    lines = [line.strip() for line in str(values["probe_folder"] or "").splitlines() if line.strip()]
    if not lines:
        raise ValueError("no folder of pictures: expected one, as in Train")
    folders = [Path(line).expanduser().resolve() for line in lines]
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: expected a folder of pictures")
    most = values["probe_pictures"]
    if isinstance(most, bool) or not isinstance(most, (int, float)) or not 2 <= most <= MOST_PICTURES:
        raise ValueError(f"pictures {most!r}: expected a whole number from 2 to {MOST_PICTURES}")
    return DatasetConfig(folders=tuple(FolderConfig(str(folder)) for folder in folders)), int(most)
