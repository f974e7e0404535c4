"""The functions behind `scripts/blocktrain.py`, given the integration that `hosts.webui.integration.detect` returns.

Modules are imported on first use, so that the extension does not slow down the WebUI's start.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from lib_blocktrain import __version__
from lib_blocktrain.files import visible
from lib_blocktrain.weights.tagged_prompts import INFOTEXT, accordion_of, pasted

if TYPE_CHECKING:
    from lib_blocktrain.hosts.webui.integration import Integration
    from lib_blocktrain.runner import Runner
    from lib_blocktrain.ui.page import Page
    from lib_blocktrain.workspace.jobs import Jobs
    from lib_blocktrain.workspace.lora_index import LoraIndex
    from lib_blocktrain.workspace.picture_sets import PictureSets

log = logging.getLogger(__name__)

SETTINGS: dict[str, tuple[str | bool, str, str]] = {  # name: default, label, info
    "blocktrain_output_dir": ("", "Folder for runs and saved previews", "empty: outputs/blocktrain of the WebUI"),
    "blocktrain_presets_file": ("", "File of your own presets", "empty: blocktrain-presets.txt beside config.json"),
    "blocktrain_api_open": (
        False,
        "Allow changes through the API from other machines without a password",
        "matters only if the WebUI listens to other machines and has no --api-auth",
    ),
    "blocktrain_api_closed": (
        False,
        "Let nobody read or draw through the API without a password",
        "where the WebUI listens to other machines and has no --api-auth; this machine is shut out, too",
    ),
    "blocktrain_card_tag": (
        False,
        "A click on a LoRA in Extra Networks inserts bw=card as well",
        "for LoRAs whose card or file recommends block weights; press Refresh in Extra Networks afterwards",
    ),
    "blocktrain_tag_key": (
        "Alt+B",
        "Key that opens the block weights of the LoRA tag at the cursor, in the prompts of txt2img and img2img",
        "such as Alt+B or Ctrl+Shift+K; empty: none",
    ),
    "blocktrain_tag_menu": (
        True,
        "A right click into a LoRA tag of a prompt opens its block weights",
        "Shift and a right click is the browser's menu; another extension that answers the click comes first",
    ),
    "blocktrain_dataset_dirs": (
        "",
        "Folders that may contain datasets, for runs started through the API and for Pictures",
        "one a line",
    ),
}


class VisibleLog(logging.Handler):
    """Passes this package's records on to the WebUI's handlers, with the control characters of names shown as text."""

    def emit(self, record: logging.LogRecord) -> None:
        shown = copy.copy(record)
        shown.msg, shown.args = visible(record.getMessage()), None
        if record.exc_info:
            shown.exc_text = visible(logging.Formatter().formatException(record.exc_info))
        logging.getLogger().handle(shown)


def show_log_as_text() -> None:
    """Write this package's log to the WebUI's console by `VisibleLog`, until `restore_log`."""
    restore_log()
    package = logging.getLogger("lib_blocktrain")
    package.addHandler(VisibleLog())
    package.propagate = False


def restore_log() -> None:
    package = logging.getLogger("lib_blocktrain")
    package.handlers = [handler for handler in package.handlers if not isinstance(handler, VisibleLog)]
    package.propagate = True


@functools.cache
def runner(integration: Integration) -> Runner:
    """Return the runner of the host's runs, one per process, so that a run continues after "Reload UI"."""
    from lib_blocktrain.runner import Runner

    return Runner(integration.host())


@functools.cache
def jobs(integration: Integration) -> Jobs:
    """Return the queue of jobs that the tab and the API share."""
    from lib_blocktrain.workspace.jobs import Jobs

    return Jobs(integration.host())


@functools.cache
def loras(integration: Integration) -> LoraIndex:
    """Return the index of the host's LoRAs that the tab and the API share."""
    from lib_blocktrain.workspace.lora_index import LoraIndex

    return LoraIndex.of_host(integration.host())


@functools.cache
def picture_sets(integration: Integration) -> PictureSets:
    """Return the sets of pictures that the tab and the API share, below the folders that the settings allow."""
    from lib_blocktrain.api.access import dataset_dirs
    from lib_blocktrain.workspace.picture_sets import PictureSets

    return PictureSets(integration.host(), lambda: dataset_dirs(*integration.options()))


def prepare(integration: Integration) -> None:
    """Apply block weights to the WebUI's LoRAs, and add axes to its X/Y/Z plot, before the page is built."""
    show_log_as_text()
    integration.patch()
    xyz_grid = integration.xyz_grid()
    if xyz_grid is not None:
        from lib_blocktrain.hosts.webui.axes import Axes

        Axes(integration.tag_context, integration.checkpoints).add_to(xyz_grid)


def preset_names(integration: Integration) -> list[str]:
    """Return the presets for the accordion's menu."""
    return list(integration.presets())


def set_weights(p: Any, text: str) -> None:
    """Apply the accordion's block weights to an image."""
    from lib_blocktrain.hosts.webui.prompt import set_page_weights

    set_page_weights(p, text=text)


def accordion_text(parameters: Mapping[str, Any]) -> str | None:
    """Return the accordion's text for a picture's parameters, None where there is nothing to add to its prompt.

    The API's field `infotext` knows the parameters only by this. What the page pastes has been through `paste`.
    """
    return accordion_of(str(parameters.get("Prompt", "")), str(parameters.get(INFOTEXT, ""))) or None


def build_page(integration: Integration, blocks: Any) -> Page:
    """Build the page inside the open `gr.Blocks` of the WebUI's tab."""
    from lib_blocktrain.ui.page import Page

    page = Page(
        integration.host(),
        runner=runner(integration),
        jobs=jobs(integration),
        lora_index=loras(integration),
        picture_sets=picture_sets(integration),
    )
    page.on_load(blocks)
    for component in blocks.blocks.values():
        component.do_not_save_to_config = True  # ui-config.json would turn current values into defaults
    return page


def footer(integration: Integration) -> str:
    """Return the tab's last line: version, host and features found."""
    return f"blocktrain {__version__} · {integration.host().name} · {', '.join(integration.features())}"


def paste(integration: Integration, parameters: MutableMapping[str, Any]) -> None:
    """Write the block weights of pasted generation parameters into their prompt."""
    weights = parameters.get(INFOTEXT)
    if weights and isinstance(parameters.get("Prompt"), str):
        parameters["Prompt"] = pasted(parameters["Prompt"], weights, integration.presets())


def mount_api(integration: Integration, app: Any, options: Any, settings: Any) -> None:
    """Mount the HTTP API, unless the WebUI's flags for it are invalid, so that it is never open by mistake."""
    from lib_blocktrain.api.access import webui_access
    from lib_blocktrain.api.routes import mount

    try:
        access = webui_access(options, settings)
    except ValueError as error:
        log.warning("no HTTP API: %s", error)
        return
    mount(
        app,
        integration.host(),
        access,
        runner=lambda: runner(integration),
        jobs=lambda: jobs(integration),
        loras=lambda: loras(integration),
        sets=lambda: picture_sets(integration),
    )
