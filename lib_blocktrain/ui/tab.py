"""The tab: its places, side by side, with one state. Another place is one line more in ``PLACES``."""

from __future__ import annotations

import gradio as gr

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.runner import Runner
from lib_blocktrain.ui.analyse_place import AnalysePlace
from lib_blocktrain.ui.desk import Desk, First
from lib_blocktrain.ui.jobs import Jobs
from lib_blocktrain.ui.library import Library
from lib_blocktrain.ui.preview_place import PreviewPlace
from lib_blocktrain.ui.runs_place import RunsPlace
from lib_blocktrain.ui.shelf import Shelf
from lib_blocktrain.ui.train_place import TrainPlace
from lib_blocktrain.ui.widgets import Place, Shared, Widgets

READING = '<p class="blocktrain-reading" role="status">Reading the model …</p>'
PLACES = (PreviewPlace, AnalysePlace, TrainPlace, RunsPlace)


class Tab:
    """The tab on a host. Build it inside ``with gr.Blocks() as blocks``, then ``opened_by(blocks)``.

    The runner outlives the tab: it may be given, so that a tab that is built again finds what is being trained.
    """

    def __init__(self, host: Host, first: First | None = None, runner: Runner | None = None):
        library, shelf = Library(lambda: host.lora_dirs), Shelf(lambda: host.presets_path)
        desk = Desk(host, library, shelf, first or First())
        self.runner = runner or Runner(host)
        self.jobs = Jobs(host)
        shared = Shared(host, desk.first, library, desk, self.jobs, self.runner)
        self.widgets = Widgets()
        self.places: tuple[Place, ...] = tuple(kind(shared) for kind in PLACES)
        with gr.Column(elem_id="blocktrain"):
            self.widgets.html("model_line", READING)
            with gr.Tabs(elem_id="blocktrain_places") as self.widgets["places"]:
                for place in self.places:
                    with gr.Tab(place.title, id=place.title, elem_id=f"blocktrain_place_{place.title.lower()}"):
                        place.place(self.widgets)
            self.widgets.tell_titles()
        for place in self.places:
            place.wire(self.widgets)

    def opened_by(self, blocks: gr.Blocks) -> None:
        """Fill the tab whenever the page is loaded."""
        for place in self.places:
            place.opened_by(blocks, self.widgets)

    def close(self) -> None:
        """Cancel what is being drawn. What is being trained is the runner's: close that too where the program ends."""
        self.jobs.close()
