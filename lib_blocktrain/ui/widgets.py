"""The tab's widgets by name, and what a place of the tab is."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from html import escape
from typing import Protocol

import gradio as gr

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.runner import Runner
from lib_blocktrain.ui.field_help import HELP
from lib_blocktrain.ui.lora_controls import InitialState, LoraControls
from lib_blocktrain.workspace.jobs import Jobs
from lib_blocktrain.workspace.lora_index import LoraIndex


class Widgets(dict):
    """The widgets of all places by name; each has ``blocktrain_NAME`` as its id in the page.

    What `field_help` says of a widget stands at it; `titles` are those of buttons, which have no place for it.
    """

    def __init__(self):
        super().__init__()
        self.titles: dict[str, str] = {}

    def pick(self, *names: str) -> dict[str, gr.components.Component]:
        """Those of these names, in this order."""
        return {name: self[name] for name in names}

    def add(self, name: str, kind: type, *arguments: object, **options: object) -> gr.components.Component:
        """Make a widget where the page stands now."""
        if name in self:
            raise ValueError(f"there is a widget {name!r} already")
        if name in HELP and "info" in inspect.signature(kind).parameters:
            options = {"info": HELP[name], **options}
        elif name in HELP:
            self.titles[name] = HELP[name]
        self[name] = kind(*arguments, elem_id=f"blocktrain_{name}", **options)
        return self[name]

    def html(self, name: str, value: str = "") -> None:
        """Make a place for what is said."""
        self.add(name, gr.HTML, value)

    def tell_titles(self) -> None:
        """Give the page the help of buttons (`javascript/field_help.js`)."""
        titles = escape(json.dumps(self.titles), quote=True)
        self.html("titles", f'<div class="blocktrain-titles" data-titles="{titles}"></div>')


@dataclass(frozen=True)
class Shared:
    """What all places have in common: one state, whichever place changes it."""

    host: Host
    first: InitialState
    lora_index: LoraIndex
    controls: LoraControls
    jobs: Jobs
    runner: Runner


class Tab(Protocol):
    """One place of the tab. It is made of what is shared; then it is asked to place its widgets, and to wire them."""

    title: str

    def build(self, w: Widgets) -> None:
        """Make its widgets in the surrounding container; their names begin with the place's own word."""

    def wire(self, w: Widgets) -> None:
        """Tie its events; by now the widgets of all places are there."""

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """Fill the place whenever the page is loaded."""
