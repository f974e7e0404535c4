"""The WebUI's entry point: registers callbacks, the accordion and the tab; all work is in `lib_blocktrain`.

The WebUI runs this file again at "Reload UI", while `lib_blocktrain` stays imported; `unload` undoes what this file
does. Nothing heavy is imported before it is used.
"""

import logging

import gradio as gr
from modules import script_callbacks, scripts, shared, ui_common

from lib_blocktrain.hosts.webui.integration import UnknownWebUI, detect
from lib_blocktrain.server import webui

TITLE = "Block weights"
HELP = "preset or values for all LoRAs of the prompt without their own bw=; or lines for some: NAME: preset or values"
refusal = ""
pages = []
try:
    integration = detect()
except UnknownWebUI as error:
    integration, refusal = None, str(error)
    logging.getLogger("lib_blocktrain").error("Block weights: %s", refusal)


class BlockWeightsScript(scripts.Script):
    """The accordion in txt2img and img2img; through the API: alwayson_scripts, "Block weights", one text."""

    def title(self):
        return TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible if integration is not None else False

    def ui(self, is_img2img):
        tab = "img2img" if is_img2img else "txt2img"

        def elem_id(name):
            return {"elem_id": f"blocktrain_{tab}_{name}"}

        def choices():
            return ["", *webui.preset_names(integration)]

        with gr.Accordion(TITLE, open=False, **elem_id("accordion")):
            with gr.Row():
                preset = gr.Dropdown(choices(), value="", label="Preset", scale=1, **elem_id("preset"))
                ui_common.create_refresh_button(
                    preset, lambda: None, lambda: {"choices": choices()}, f"blocktrain_{tab}_refresh"
                )
                text = gr.Textbox("", label=TITLE, info=HELP, scale=3, max_lines=4, **elem_id("text"))
            with gr.Row():
                write = gr.Button("Write into the prompt", size="sm", **elem_id("write"))
                edit = gr.Button("Edit in the tab", size="sm", **elem_id("edit"))
        for component in (preset, text, write, edit):
            component.do_not_save_to_config = True
        preset.input(fn=lambda name: name, inputs=[preset], outputs=[text], show_progress="hidden", queue=False)
        script = "js" if gr.__version__.startswith("4") else "_js"
        write.click(None, [text], None, **{script: f"(text) => {{ blocktrainWebUI.write('{tab}', text); }}"})
        edit.click(None, [text], None, **{script: f"(text) => {{ blocktrainWebUI.edit('{tab}', text); }}"})
        self.infotext_fields = [(text, webui.accordion_text)]
        return [text]

    def process(self, p, text="", *_):
        webui.set_weights(p, str(text or ""))


def settings():
    for name, (default, label, info) in webui.SETTINGS.items():
        option = shared.OptionInfo(default, label, section=("blocktrain", TITLE))
        shared.opts.add_option(name, option.info(info))


def build_tab():
    with gr.Blocks(analytics_enabled=False) as blocks:
        pages.append(webui.build_page(integration, blocks))
        gr.HTML(webui.footer(integration), elem_id="blocktrain_footer")
    return [(blocks, TITLE, "blocktrain")]


def unload():
    """Undo what this file did: it is about to run again, or the extension was disabled. A run in training continues."""
    integration.unpatch()
    webui.restore_log()
    while pages:
        pages.pop().close()


def build_refusal():
    """Return a tab that says why this WebUI is not supported."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.Markdown(refusal, elem_id="blocktrain_refusal")
    return [(blocks, TITLE, "blocktrain")]


def register():
    script_callbacks.on_before_ui(lambda: webui.prepare(integration))
    script_callbacks.on_ui_settings(settings)
    script_callbacks.on_ui_tabs(build_tab)
    script_callbacks.on_cfg_denoiser(integration.on_cfg_denoiser)
    script_callbacks.on_infotext_pasted(lambda _text, parameters: webui.paste(integration, parameters))
    script_callbacks.on_app_started(lambda _demo, app: webui.mount_api(integration, app, shared.cmd_opts, shared.opts))
    script_callbacks.on_script_unloaded(unload)


if integration is not None:
    register()
else:
    script_callbacks.on_ui_tabs(build_refusal)
