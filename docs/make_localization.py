"""Writes docs/localization.json: every text that the tab shows when it opens or its scripts may show, for translators.

A translation is the same file with the right-hand sides filled in, as `localizations/LANGUAGE.json`: AUTOMATIC1111 and
Forge find it there and put it in the place of whole texts; `javascript/localization.js` does the rest. In a text `{}`
stands for a number and `{name}` for anything. Texts that are no longer shown are taken out of the translations, too.

    python docs/make_localization.py        # wants gradio, of either version
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TEMPLATE = Path(__file__).with_name("localization.json")
SHOWN = ("label", "info", "placeholder")
TITLES = ("title", "aria-label", "placeholder")
IN_SCRIPTS = (
    re.compile(r'(?:textContent: |aria-label", |title: )"([^"]+)"'),
    re.compile(r'"([A-Z][^"\n{}<>]*[a-z]{2}[^"\n<>]*)"'),  # a sentence or a label
)
IN_ACCORDION = re.compile(r'(?:gr.Button\(|label=|^HELP = )"([^"]+)"', re.MULTILINE)
HTML_IN_SCRIPTS = re.compile(r"`\s*(<[a-z][^`]*)`")
NOT_SHOWN = re.compile(
    r"[A-Z][a-z]+[A-Z]\w*( .*)?|Arrow|Enter|Escape|Content-Type|aria-.*|DOMContentLoaded|Alt\+Arrow.*|PageUp.*"
    r"|Block weights: |ADetailer draws .*"  # a part of a text
)
# Texts with a number or a name in them: what stands between is looked up in the sources by tests/ui/test_words.py.
COMPOSED = (
    "{} of {} chosen", "{} of {} pictures drawn, seed {}", "{} pictures", "{} blocks", "{} LoRA files", "{} files",
    "all {}", "{} picture", "{} captions", "{} caption", "{} tokens of {}", "{} token of {}", "{} steps an epoch",
    "{} buckets", "step {} of {}", "step {}", "Step {}", "Prompt {}", "waiting", "{} changed", "{} weight changed",
    "{} weights changed", "{name} changed since drawn.", "{} weights changed since drawn.",
    "{} weight changed since drawn.", "seed {} · drawn {name} in {name}", "Picture {} of {} · step {}/{}",
    "Cancelled: {} of {} pictures drawn", "Adding {} …", "Adding {} of {} …", "reading {} of {}",
    "Smaller than {} px", "{} presets added", "{} min {} s",
    "{} of {} pictures drawn, seed {}; the others are unchanged",
    "{} of {} pictures drawn, seed {}; the last two are the same, since every block is at 1",
    "{} of {} pictures drawn, seed {}: nothing has changed, and the earlier ones are shown", "{} s",
    "{name}: done in {} s", "{name}: {} of {}", "Starting …", "trained here", "reading …", "Back to {name}",
    "Save over {name}", "a preset of yours", "the weights as loaded", "no LoRA yet", "every block at {}",
    "{name}, others 0", "{name}, {} blocks",
    "Strength of {name}", "Strength of {name}, number", "Mute {name}", "Unmute {name}", "Remove {name}",
    "Choose {name}", "Caption of {name}", "Caption of {name} saved.", "Mask of {name} saved.",
    "Mask of {name} removed.", "{} caption not saved", "{} captions not saved", "{} mask not saved",
    "{} masks not saved", "not saved",
    "{name} is being probed.", "There is no .safetensors file in {name}",
    "No LoRA matches “{name}”",
    "Saved {name} in {name}", "Saved in {name}", "{name} renamed to {name}",
    "No block stands out from the noise for {name}: try more seeds.",
    "{name} and {name} replace each other ({name} of the effect)",
    "{name} and {name} need each other ({name} of the effect)",
    "No pair of blocks is beyond the noise: what they do adds up.",
    "{name} is spread over the blocks: {name} leads with {name}.", "No model: {name}", "{name} is chosen",
    "{name} finished.", "{} steps · saved among the LoRAs as {name}", "{name} waits:",
    "{name} was stopped at {name}.", "{name} is paused at {name}.", "{name} failed at step {}:", "Saved at step {}.",
    "Resume from step {}", "training · {name} left", "waiting · next", "waiting · number {}",
    "Checkpoint saved: {name}", "Failed: {name}", "Saved as {name} among the LoRAs",
    "Waiting for the model: {name} is being trained; Pause in Runs releases it",
    "{name} and its weights are on the sliders: press Draw to see what they do",
    "{name} and {name} and their weights are on the sliders: press Draw to see what they do",
    "{name} is at strength {} here; the weights were found at {}",
    "without the name {name}: the preset {name} has other weights",
    "without the name {name}: what was pasted has other weights", "Loss over {} steps",
    "None of {} runs has “{name}” in its name, state, blocks or notes.",
    "The run {name}: change what you like, then press Start", "{name} has no effect here",
    "Its block weights are those that were set during training", "These weights were set during training",
    "From the WebUI: {name}", "By effect", "By place",
    "ADetailer draws without these weights: add blocktrain to its setting “Script names to apply to "
    "ADetailer”, or write them into the prompt.",
    "Use", "Draw at {}×{}", "Use {name}", "Compare", "Picture {}",
    "Without LoRA", "the model alone", "Every block at 1", "the LoRA as it is", "Under the weights", "Zoom",
    "Zoom: {name}",
    "not drawn again: the same", "LoRAs in use", "none yet", "time", "memory", "No run yet.",
    "no layers in this LoRA", "skip partner {name}", "affects the picture mostly through {name}",
    "believed: {name} (grade {name}: {name})", "{name}, {} to {} channels", "a .toml", "{} folder", "{} folders",
    "{} × {} cells at {} px: a cell sees {} px", "text encoder: what words mean to the model", "{} of {}",
    "not part of the U-Net; no skip partner", "{} % of a step’s arithmetic; LoRA {name}, LoCon {name}", "{} modules",
    "{} module", "none", "rank {}", "{} steps", "All {}", "{} % of a step",
    "Understood as {name} for {name}: {name}", "{name}, seed {}: weights, settings and pictures back",
    "The time is known once a run has started.", "A step, beside all blocks", "The backward pass stops at {name}.",
    "{name} in {name} by path", "What the map shows", "% of A less % of B",
    "{} of {} MiB free", "Memory is enough", "Memory is not enough", "The name is free", "The LoRA has no name yet",
    "There are no pictures yet", "Pictures: {}, each with a caption",
    "Without a caption: {} of {} pictures, trained on an empty prompt",
    "The loaded run has its own numbers in place of the weights ({name}): to have none, start from a run.json without "
    "them",
    "There is a LoRA {name} already: the new one gets a number", "It starts after {name}", "Trained", "File", "A step",
    "Samples", "{} numbers", "about {name}", "{} MiB of {}", "ready", "needs a name", "none of the presets", "smooth",
    "{name} Show its weights", "{name} “{name}”", "The connection broke off before this was done. Start it again.",
    "The files did not arrive: the server or a proxy refused them (HTTP {}).",
    "This argues for {name} (evidence: {name}).",
    "“{name}” is in {} of {} captions: a LoRA of all blocks draws it where a prompt names no background",
    "the OUT blocks alone. On the demo model they showed the training background 0.28 less often (0.20 to 0.36), and "
    "a lower rank in all blocks as much less (docs/evidence.md)",
    "“{name}” is in {name} of the captions, {name} in {name} or less: the first is long learnt when the others "
    "begin. More repeats for the pictures of the rare ones even that out",
    "a face that fills 1/8 to 1/3 of the picture: the blocks but OUT03-OUT05, as the tutorial has it (users of LoRA "
    "Block Weight say the contrary). On the demo model the character was learnt as well without OUT03-OUT05; the "
    "rare accessories were learnt in neither case",
    "Train with {name}", "Train's weights become the preset {name}",
    "Waiting for the model …", "Cancelling …", "Cancelled", "Drawing …", "Sample drawn", "A sample could not be drawn",
    "Stopped", "Stopped without saving", "Finished early: {name}", "Finished", "Paused", "Started", "Resumed",
    "{name}: {} blocks, {} modules", "The block weights were changed{name}", "The block weights were changed",
    "{} bucket", "The new weights were refused: {name}",
    "preparing", "training", "pausing", "stopping", "running elsewhere", "paused", "finished", "stopped", "failed",
    "interrupted", "broken off", "diverged", "cannot be read", "· prepares: {name}", "encoding picture {} of {}",
    "waiting for the model", "· step {}/{}", "step {}/{}", "{} steps/s", "{} s a step", "{}:{} left", "{}:{}:{} left",
    "is saved after this step, then waits", "ends after this step", "is trained by another process: {name}",
    "it is the next one", "{} before it", "it is not in the queue", "{name}; the queue has not been started",
    "{name} Resume goes on as if it had not stopped.", "{} of {} steps, since {name} · saved among the LoRAs as {name}",
    "{name} was interrupted at {name}:", "the program ended. {name}", "Nothing was saved: Resume begins at step 0.",
    "No run can be read: choose one in the list to see why.", "{name} cannot be read:", "batch {}", "rate {name}",
    "{} MiB at most", "activation text", "Into the prompt", "negative text", "Into the negative prompt",
    "preferred strength", "block weights", "notes", "description", "No model", "Show the run",
    "The queue is held: show the runs", "and {} more", "{} of {} pictures", "one for each preset",
    "one for each weight of the block", "one for each strength", "one for each seed", "one for each LoRA in use, alone",
    "your weights", "structure and shape", "colour and texture", "pose and composition",
    "faces; the tutorial leaves these out to keep a face", "colours", "content and layout",
    "local detail; B-LoRA says content and layout", "style and colour", "layout and composition",
    "a character without its style; B-LoRA has style in OUT01", "users of LoRA Block Weight", "users of SDXL",
    "a study by sparse autoencoders, arXiv 2410.22366",
    "InstantStyle, arXiv 2404.02733; a study by sparse autoencoders, arXiv 2410.22366",
    "B-LoRA, arXiv 2403.14572; InstantStyle, arXiv 2404.02733; a study by sparse autoencoders, arXiv 2410.22366",
)  # fmt: skip
TRANSLATIONS = ROOT / "localizations"
NO_WORDS = re.compile(r"[\W\d_]*|(IN|OUT|M|BASE)\d*|\d+×\d+|[\d.]+")


class _Words(HTMLParser):
    """The text nodes and titles of a piece of HTML, without the facts of the U map's blocks: those are numbers."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.inside = 0  # elements of a tooltip

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.inside or "blocktrain-u-tip" in (dict(attrs).get("class") or ""):
            self.inside += 1
        else:
            self.found += [value for name, value in attrs if name in TITLES and value]

    def handle_endtag(self, tag: str) -> None:
        self.inside = max(0, self.inside - 1)

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.found.append(data)


def words() -> dict[str, str]:
    """Return every text, in the order of the page, with nothing as its translation."""
    from lib_blocktrain.hosts.standalone import StandaloneHost
    from lib_blocktrain.server.app import build
    from lib_blocktrain.ui.train_html import MEANINGS

    blocks, tab = build(StandaloneHost())
    tab.close()
    tab.runner.close()
    found = list(tab.widgets.titles.values())
    for component in blocks.config["components"]:
        found += _of(component["type"], component["props"])
    for path in sorted((ROOT / "javascript").glob("*.js")):
        found += _in_script(path.read_text("utf-8"))
    found += (*MEANINGS.values(), *_in_webui())
    clean = (" ".join(unescape(text).split()) for text in (*found, *COMPOSED))
    return {text: "" for text in clean if not NO_WORDS.fullmatch(text)}


def _in_script(source: str) -> Iterator[str]:
    source = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("//"))
    for pattern in IN_SCRIPTS:
        yield from (text for text in pattern.findall(source) if not NOT_SHOWN.fullmatch(text))
    for text in HTML_IN_SCRIPTS.findall(source):
        parser = _Words()
        parser.feed(text)
        yield from (text for text in parser.found if "${" not in text)


def _in_webui() -> Iterator[str]:
    """The accordion of txt2img and img2img, and the settings, which the standalone page has not."""
    from lib_blocktrain.server.webui import SETTINGS

    yield from IN_ACCORDION.findall((ROOT / "scripts" / "blocktrain.py").read_text("utf-8"))
    for _, label, info in SETTINGS.values():
        yield from (label, f"({info})")  # as the WebUI shows them


def kept(translation: dict[str, str], template: dict[str, str]) -> dict[str, str]:
    """Return a translation in the template's order, without the texts that are no longer there."""
    return {text: translation[text] for text in template if translation.get(text)}


def written(words: dict[str, str]) -> str:
    return json.dumps(words, indent=1, ensure_ascii=False) + "\n"


def _of(kind: str, properties: dict) -> Iterator[str]:
    if "blocktrain-unseen" in properties.get("elem_classes", ()):
        return
    yield from (str(properties[name]) for name in SHOWN if properties.get(name))
    if kind in ("button", "uploadbutton"):
        yield str(properties.get("value") or properties.get("label") or "")
    if kind == "markdown":
        yield from re.split(r"\*\*|(?:^|\n)- ", str(properties.get("value") or ""))
    if kind == "html":
        parser = _Words()
        parser.feed(str(properties.get("value") or ""))
        yield from parser.found
    for choice in properties.get("choices") or ():
        yield str(choice[0] if isinstance(choice, list | tuple) else choice)


if __name__ == "__main__":
    template = words()
    TEMPLATE.write_text(written(template), "utf-8")
    for path in TRANSLATIONS.glob("*.json"):
        path.write_text(written(kept(json.loads(path.read_text("utf-8")), template)), "utf-8")
