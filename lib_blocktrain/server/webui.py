"""What `scripts/blocktrain.py` does in a WebUI, on whichever host `kind` (see `hosts.detect`) this is.

Everything is imported when it is first used: the WebUI's start must not feel this extension.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from lib_blocktrain import __version__
from lib_blocktrain.weights.prompt_tags import INFOTEXT, pasted

if TYPE_CHECKING:
    from lib_blocktrain.hosts.webui.kind import Kind
    from lib_blocktrain.runner import Runner
    from lib_blocktrain.ui.page import Page

log = logging.getLogger(__name__)

SETTINGS = {  # name: default, label, what is to be known
    "blocktrain_output_dir": ("", "Folder for runs and saved previews", "empty: outputs/blocktrain of the WebUI"),
    "blocktrain_presets_file": ("", "File of your own presets", "empty: blocktrain-presets.txt beside config.json"),
    "blocktrain_api_open": (
        False,
        "Let other machines change things through the API without a password",
        "only asked for where the WebUI listens to them and has no --api-auth",
    ),
    "blocktrain_dataset_dirs": (
        "",
        "Folders in which datasets may lie, for runs that are started through the API",
        "one a line",
    ),
}


@functools.cache
def runner(kind: Kind) -> Runner:
    """The runner of the host's runs, one for the life of the process: "Reload UI" ends no run."""
    from lib_blocktrain.runner import Runner

    return Runner(kind.host())


def prepare(kind: Kind) -> None:
    """Before the page is built: let LoRAs obey block weights, and give the X/Y/Z plot its axes."""
    kind.patch()
    xyz_grid = kind.xyz_grid()
    if xyz_grid is not None:
        from lib_blocktrain.hosts.webui.axes import Axes

        Axes(kind.reading, kind.checkpoints).add_to(xyz_grid)


def preset_names(kind: Kind) -> list[str]:
    """The presets that the accordion offers."""
    return list(kind.presets())


def set_weights(p: Any, text: str) -> None:
    """Give a picture the accordion's block weights."""
    from lib_blocktrain.hosts.webui.prompt import set_page

    set_page(p, text=text)


def place_tab(kind: Kind, blocks: Any) -> Page:
    """Build the tab inside the open `gr.Blocks`."""
    from lib_blocktrain.ui.page import Page

    tab = Page(kind.host(), runner=runner(kind))
    tab.on_load(blocks)
    for component in blocks.blocks.values():
        component.do_not_save_to_config = True  # the WebUI would keep today's sliders as tomorrow's defaults
    return tab


def footer(kind: Kind) -> str:
    """Host, version and what was found, for the tab's last line."""
    return f"blocktrain {__version__} · {kind.host().name} · {', '.join(kind.features())}"


def paste(kind: Kind, parameters: MutableMapping[str, Any]) -> None:
    """Give a pasted prompt the block weights that its picture was made with."""
    made_with = parameters.get(INFOTEXT)
    if made_with and isinstance(parameters.get("Prompt"), str):
        parameters["Prompt"] = pasted(parameters["Prompt"], made_with, kind.presets())


def mount_api(kind: Kind, app: Any, options: Any, settings: Any) -> None:
    """Put up the HTTP API; with flags that cannot be read there is none, rather than an open one."""
    from lib_blocktrain.api.access import webui_access
    from lib_blocktrain.api.routes import mount

    try:
        access = webui_access(options, settings)
    except ValueError as error:
        log.warning("no HTTP API: %s", error)
        return
    mount(app, kind.host(), access, runner=lambda: runner(kind))
