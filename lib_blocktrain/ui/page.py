"""The page: its tabs, and what they share. To add a tab, add its class to `TABS`."""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.runner import Runner
from lib_blocktrain.ui import frame
from lib_blocktrain.ui.analyse_tab import AnalyseTab
from lib_blocktrain.ui.dataset_tab import DatasetTab
from lib_blocktrain.ui.job_chip import JobChip
from lib_blocktrain.ui.lora_controls import InitialState, LoraControls
from lib_blocktrain.ui.lost_jobs import LostJobs
from lib_blocktrain.ui.preview_tab import PreviewTab
from lib_blocktrain.ui.runs_tab import RunsTab
from lib_blocktrain.ui.train_tab import TrainTab
from lib_blocktrain.ui.widgets import Shared, Tab, Widgets
from lib_blocktrain.workspace.jobs import Jobs
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.picture_sets import PictureSets
from lib_blocktrain.workspace.preset_store import PresetStore

READING = Markup('<p class="blocktrain-reading" role="status">Reading the model …</p>')
TABS = (PreviewTab, AnalyseTab, DatasetTab, TrainTab, RunsTab)


class Page:
    """The page on a host. Build it inside ``with gr.Blocks() as blocks``, then call ``on_load(blocks)``.

    Pass the existing ``runner``, which outlives the page, so that a rebuilt page shows the run in training; pass the
    API's ``jobs``, ``lora_index`` and ``picture_sets`` so that both use one queue and read each header once.
    """

    def __init__(
        self,
        host: Host,
        initial: InitialState | None = None,
        runner: Runner | None = None,
        jobs: Jobs | None = None,
        lora_index: LoraIndex | None = None,
        picture_sets: PictureSets | None = None,
    ) -> None:
        self.lora_index = lora_index = lora_index or LoraIndex.of_host(host)
        controls = LoraControls(host, lora_index, PresetStore(lambda: host.presets_path), initial or InitialState())
        self.runner = runner or Runner(host)
        self.jobs = jobs or Jobs(host)
        self.picture_sets = picture_sets or PictureSets(host)
        shared = Shared(host, controls.initial, lora_index, controls, self.jobs, self.runner, self.picture_sets)
        self.job_chip, self.lost_jobs = JobChip(self.runner), LostJobs(self.jobs)
        self.widgets = Widgets()
        self.tabs: tuple[Tab, ...] = tuple(kind(shared) for kind in TABS)
        with gr.Column(elem_id="blocktrain"):
            with frame.header(self.widgets, [tab.title for tab in self.tabs], READING, host.name):
                self.job_chip.build(self.widgets)
                self.lost_jobs.build(self.widgets)
            with gr.Tabs(elem_id="blocktrain_places") as self.widgets["tabs"]:
                for tab in self.tabs:
                    with gr.Tab(tab.title, id=tab.title, elem_id=f"blocktrain_place_{frame.place_name(tab.title)}"):
                        tab.build(self.widgets)
            self.widgets.tell_titles()
        self.job_chip.wire(self.widgets)
        for tab in self.tabs:
            tab.wire(self.widgets)
        self.lost_jobs.wire(self.widgets)

    def on_load(self, blocks: gr.Blocks) -> None:
        """Fill the tabs whenever the page is loaded in a browser."""
        for tab in self.tabs:
            tab.on_load(blocks, self.widgets)

    def close(self) -> None:
        """Cancel the jobs. Runs belong to the runner, which has its own `close`."""
        self.jobs.close()
