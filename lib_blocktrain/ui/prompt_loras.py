"""The LoRAs of a prompt's tags on the list with their weights: a WebUI's prompt, and the prompt of a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from lib_blocktrain.networks.cards import recommended_text
from lib_blocktrain.ui.lora_controls import LoraControls
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.layer_weights import LayerWeights
from lib_blocktrain.weights.prompt_tags import Multipliers, PageWeights, Resolved, read_tag, resolve
from lib_blocktrain.weights.tagged_prompts import tag_items, without
from lib_blocktrain.workspace.lora_files import LoraFile
from lib_blocktrain.workspace.lora_selection import LoraEntry, LoraSelection


@dataclass
class PromptLoras:
    """What was made of a prompt's tags.

    `entries` are the LoRAs by key. `missing` are the names of LoRAs that are not in the folders. `problems` say why a
    tag cannot be taken over; such a tag stays in the prompt, which is without the others. `notes` are what to know of
    those that were.
    """

    prompt: str
    entries: dict[str, LoraEntry] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """What to say of them."""
        words = [f"not in the folders: {', '.join(self.missing)}"] if self.missing else []
        changed = {key: one.changes for key, one in self.entries.items() if one.changes}
        words += [f"{key}: {changes} under “Kinds of layers, steps”" for key, changes in changed.items()]
        words += [f"{problem}, so its tag stays in the prompt" for problem in self.problems]
        return [*words, *self.notes]


def loras_of_prompt(controls: LoraControls, prompt: str, text: str = "", seed: int = 0) -> PromptLoras:
    """Return the LoRAs of a prompt; `text` is the accordion's, and random weights are drawn from the seed."""
    tags, found = tag_items(prompt), PromptLoras(prompt)
    stay = set()
    for name, items in tags.items():
        file = controls.lora_index.named(name)
        if file is None:
            found.missing.append(name)
            continue
        if file.problem:
            found.notes.append(f"{name} cannot be used: {file.problem}")
            continue
        try:
            resolved = resolve(
                read_tag(items),
                controls.architecture(LoraSelection()),
                page=PageWeights(text),
                loras=tags,
                seed=seed,
                presets=controls.presets.all(),
                recommended=partial(_recommended, file),
            )
            found.entries[file.key] = _entry(controls, resolved, found.notes)
        except (ValueError, OSError) as error:
            found.problems.append(f"{name}: {error}")
            stay.add(name)
    found.prompt = without(prompt, tags.keys() - stay)[0]
    return found


def _recommended(file: LoraFile, _: str) -> str:
    return recommended_text(file.path)


def _entry(controls: LoraControls, resolved: Resolved, notes: list[str]) -> LoraEntry:
    """Return a LoRA of a prompt as an entry of the list; raises ValueError for what the sliders cannot show.

    Another strength of the text encoder becomes its weight; what has no place here is named in the notes.
    """
    tag = resolved.tag
    te, unet, others = Multipliers.of(tag)
    strength = unet or te
    weights = LayerWeights.of(resolved.weights or BlockWeights.uniform(controls.architecture(LoraSelection()), 1.0))
    if te != unet:
        weights = weights.times(te / strength, 1.0 if unet else 0.0)
    weights = weights.with_gates(*tag.gates).with_gates_in_one()
    entry = LoraEntry.checked(strength, LoraEntry().weights).with_weights(weights)
    ignored = " ".join(resolved.notices)
    left = [f"{item} is not taken over" for item in others if item not in ignored]
    notes += [f"{tag.name}: {notice}" for notice in (*resolved.notices, *left)]
    return entry
