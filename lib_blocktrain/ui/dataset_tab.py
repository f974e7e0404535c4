"""The place Pictures: the sets, the pictures of one, and one of them large; `javascript/dataset_*.js` draw all three.

The scripts ask by a hidden button, whose event takes the question from `window.blocktrain.pictureSets`; the answer
comes as JSON in a hidden element. Files come by gradio's upload, since a question is limited in length.
"""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.ui.dataset_handlers import FOLDERS, NAME, TOML, WEIGHTS, DatasetHandlers
from lib_blocktrain.ui.dataset_jobs import DatasetJobs
from lib_blocktrain.ui.frame import actions, aside, bar, messages, pane, panes, segments
from lib_blocktrain.ui.shim import on
from lib_blocktrain.ui.train_handlers import TrainHandlers
from lib_blocktrain.ui.train_tab import follow, form_fields
from lib_blocktrain.ui.widgets import Shared, Widgets

ASKED = "() => window.blocktrain.pictureSets.question()"
UPLOADED = "() => window.blocktrain.pictureSets.uploaded()"
ADDED = "(files) => [files, window.blocktrain.pictureSets.question()]"
USED = "(asked, ...form) => [window.blocktrain.pictureSets.question(), ...form]"
MESSAGE = Markup('<div class="blocktrain-dataset-message"></div>')
ASIDE = Markup('<div class="blocktrain-dataset-aside"></div>')
SETS = Markup('<div class="blocktrain-dataset-sets"></div>')
PICTURES = Markup('<div class="blocktrain-dataset-pictures"></div>')
CHOSEN = Markup('<div class="blocktrain-dataset-chosen"></div>')


class DatasetTab:
    """The pictures to train on, with their captions and masks."""

    title = "Pictures"

    def __init__(self, shared: Shared):
        self.training = TrainHandlers(shared.host, shared.controls, shared.runner)
        jobs = DatasetJobs(shared.host, shared.picture_sets, shared.jobs)
        self.handlers = DatasetHandlers(shared.picture_sets, jobs, self.training.parse)

    def build(self, w: Widgets) -> None:
        segments("pictures", {"pictures": "Pictures", "filter": "Filter", "chosen": "Chosen"})
        with bar("pictures"):
            with actions():
                w.add("dataset_use", gr.Button, "Use for training", variant="primary")
            with messages():
                w.html("dataset_message", MESSAGE)
            with aside():
                w.html("dataset_aside", ASIDE)
        with panes("pictures"):
            with pane("left", "filter"):
                w.html("dataset_sets", SETS)
            with pane("canvas", "pictures"):
                w.html("dataset_pictures", PICTURES)
            with pane("right", "chosen"):
                w.html("dataset_chosen", CHOSEN)
        hidden = {"elem_classes": "blocktrain-unseen"}
        w.add("dataset_ask", gr.Textbox, label="Asked", **hidden)
        w.add("dataset_answer_now", gr.Button, "Answer", **hidden)
        w.add("dataset_add_now", gr.Button, "Add", **hidden)
        w.add("dataset_use_now", gr.Button, "Use", **hidden)
        w.add("dataset_probe_now", gr.Button, "Probe", **hidden)
        w.add("dataset_weigh_now", gr.Button, "Weights", **hidden)
        w.add("dataset_files", gr.UploadButton, "Files", file_count="multiple", **hidden)
        with gr.Column(min_width=0, **hidden):
            w.html("dataset_answer")

    def wire(self, w: Widgets) -> None:
        answer = w.pick("dataset_answer")
        on(w["dataset_answer_now"].click, self.handlers.answer, w.pick("dataset_ask"), answer, js=ASKED)
        on(w["dataset_files"].upload, None, {}, {}, js=UPLOADED)
        on(w["dataset_add_now"].click, self.handlers.add, w.pick("dataset_files", "dataset_ask"), answer, js=ADDED)
        probed = w.pick("dataset_answer", "probe_folder", "tabs")
        on(w["dataset_probe_now"].click, self.handlers.probe, w.pick("dataset_ask"), probed, js=ASKED)
        weights = {**answer, **form_fields(w, WEIGHTS)}
        weighed = on(w["dataset_weigh_now"].click, self.handlers.weigh, w.pick("dataset_ask"), weights, js=ASKED)
        asked = {**w.pick("dataset_ask"), **form_fields(w, NAME)}
        filled = {**answer, **form_fields(w, FOLDERS, TOML, NAME), **w.pick("train_dataset", "train_message", "tabs")}
        used = on(w["dataset_use_now"].click, self.handlers.use, asked, filled, js=USED)
        for event in (used, weighed):
            follow(event.then, self.training, w)

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """The scripts ask when the place is shown."""
