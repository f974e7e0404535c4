"""The handlers of the probe in the Analyse tab: which blocks training on given pictures would change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from lib_blocktrain.analysis.probe import ProbeRequest, build_probe_request, probe_dataset
from lib_blocktrain.ui import analyse_html, html
from lib_blocktrain.ui.analyse_handlers import RULE_LABELS, SUGGESTED, AnalyseHandlers, StoredResult
from lib_blocktrain.ui.job_stream import Panel, stream_job
from lib_blocktrain.ui.values import AnalyseValues, Changes
from lib_blocktrain.workspace.analyses import AnalysisResult
from lib_blocktrain.workspace.jobs import Job


class ProbeHandlers:
    """Run and cancel a probe; its result is stored and used like that of an analysis."""

    def __init__(self, analyse: AnalyseHandlers):
        self.host, self.jobs, self.analyse = analyse.host, analyse.jobs, analyse

    def start(self, values: AnalyseValues) -> Iterator[Changes]:
        """Probe the pictures of the folders as a job."""
        try:
            request = _request(values)
        except (ValueError, OSError) as error:
            yield {"probe_status": html.failure(str(error))}
            return

        def work(job: Job[StoredResult]) -> StoredResult:
            result = probe_dataset(self.host.model(), request, job.progress("Probing"))
            try:
                suggested = result.weights
            except ValueError:  # no block is above the noise; the figures are still shown
                suggested = None
            first, *others = result.analyses
            return StoredResult("", AnalysisResult((first,), latent=result.latent), suggested, tuple(others))

        yield from stream_job(self.jobs, Panel("probe", values), work, self._finished)

    def cancel(self, values: AnalyseValues) -> Changes:
        """Cancel the probe that this page has started."""
        self.jobs.cancel(values["probe_job"] or "")
        return {}

    def _finished(self, job: Job[StoredResult]) -> Changes:
        stored = job.result()
        changes = self.analyse.store(job.id, stored)
        notes, table = changes.pop("analyse_status"), changes["analyse_table"]
        if stored.suggested is None:
            more = html.note("no block's gradient is above the noise: try more pictures, or more similar ones")
        else:
            more, changes["analyse_rule"] = Markup(""), RULE_LABELS[SUGGESTED]
        others = Markup("").join(analyse_html.answer(other) + analyse_html.bars(other) for other in stored.others)
        changes["analyse_table"] = Markup("{}{}").format(table, others)
        return {**changes, "probe_status": Markup("{}{}").format(notes, more)}


def _request(values: AnalyseValues) -> ProbeRequest:
    lines = (line.strip() for line in (values["probe_folder"] or "").splitlines())
    return build_probe_request(
        [Path(line).expanduser().resolve() for line in lines if line],
        class_prompt=values["probe_class"] or "",
        images=values["probe_pictures"],
        convolutions=values["probe_convolutions"],
    )
