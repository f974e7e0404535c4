"""The page's widgets by name, and the protocol of a tab."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Protocol

import gradio as gr
from markupsafe import Markup

from lib_blocktrain.hosts.host import Host
from lib_blocktrain.runner import Runner
from lib_blocktrain.ui.field_help import HELP
from lib_blocktrain.ui.lora_controls import InitialState, LoraControls
from lib_blocktrain.workspace.jobs import Jobs
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.picture_sets import PictureSets


class Widgets(dict[str, gr.components.Component]):
    """The widgets of all tabs by name; each has ``blocktrain_NAME`` as its id in the page.

    Help from `field_help` is shown at the widget; for buttons, which cannot show it, it is collected in `titles`.
    `groups` are widgets that events read and change together, under one name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.titles: dict[str, str] = {}
        self.groups: dict[str, dict[str, gr.components.Component]] = {}

    def pick(self, *names: str) -> dict[str, gr.components.Component | dict[str, gr.components.Component]]:
        """The widgets or groups of these names, in this order."""
        return {name: self.groups[name] if name in self.groups else self[name] for name in names}

    def add(self, name: str, kind: type, *arguments: object, **options: object) -> gr.components.Component:
        """Make a widget inside the open gradio container."""
        if name in self:
            raise ValueError(f"there is a widget {name!r} already")
        if name in HELP and "info" in inspect.signature(kind).parameters:
            options = {"info": HELP[name], **options}
        elif name in HELP:
            self.titles[name] = HELP[name]
        self[name] = kind(*arguments, elem_id=f"blocktrain_{name}", **options)
        return self[name]

    def html(self, name: str, value: Markup | None = None) -> None:
        self.add(name, gr.HTML, value or "")

    def tell_titles(self) -> None:
        """Put the help of buttons into the page, for `javascript/field_help.js`."""
        template = Markup('<div class="blocktrain-titles" data-titles="{}"></div>')
        self.html("titles", template.format(json.dumps(self.titles)))


@dataclass(frozen=True)
class Shared:
    """The objects that the tabs of one page share."""

    host: Host
    initial: InitialState
    lora_index: LoraIndex
    controls: LoraControls
    jobs: Jobs
    runner: Runner
    picture_sets: PictureSets


class Tab(Protocol):
    """One tab of the page, made from `Shared`; `build` is called for all tabs, then `wire`, then `on_load`."""

    @property
    def title(self) -> str: ...

    def build(self, w: Widgets) -> None:
        """Make the widgets inside the open gradio container; their names start with the tab's prefix."""

    def wire(self, w: Widgets) -> None:
        """Connect the events; the widgets of all tabs exist by now."""

    def on_load(self, blocks: gr.Blocks, w: Widgets) -> None:
        """Connect the event that fills the tab whenever the page is loaded."""
