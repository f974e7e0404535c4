"""Routes for presets, what their strings mean, and block weights in a prompt's tags."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from lib_blocktrain.api.errors import ApiError, not_found
from lib_blocktrain.api.schemas import (
    Architecture,
    Done,
    FixRandomBody,
    ParseBody,
    ParsedWeights,
    PresetBody,
    PresetList,
    Prompt,
    TagAnswer,
    TagBody,
    WriteWeightsBody,
    values_of,
)
from lib_blocktrain.api.service import Service
from lib_blocktrain.weights.preset_strings import Parsed
from lib_blocktrain.weights.tagged_prompts import fix_random_weights, write_weights


def add_preset_routes(reading: APIRouter, writing: APIRouter, service: Service) -> None:
    """Add the routes under ``/presets``."""

    @reading.get("/presets", response_model=PresetList, summary="List presets, the user's own first")
    def list_presets(architecture: Architecture | None = None) -> dict[str, Any]:
        own = service.presets.own.read().presets
        each = [preset for named in service.presets.all().values() for preset in named.each]
        fitting = [preset for preset in each if architecture in (None, *preset.architectures)]
        problems = [{"line": p.line, "text": p.text, "message": p.message} for p in service.presets.problems()]
        return {"presets": [{**vars(p), "own": p.name in own} for p in fitting], "problems": problems}

    @reading.post("/presets/parse", response_model=ParsedWeights, summary="Read a preset string")
    def parse_weights(body: ParseBody) -> dict[str, Any]:
        return _parsed(service.parse(body.text, body.architecture, body.seed, body.x, layers=True))

    @writing.post("/presets", response_model=Done, summary="Save a preset in the user's own file")
    def save_preset(body: PresetBody) -> dict[str, str]:
        from lib_blocktrain.workspace.preset_store import PresetExists

        parsed = service.parse(body.weights, body.architecture, layers=True)
        with service.presets_lock:
            try:
                service.presets.save(body.name, parsed.acting, area_share=parsed.area_share, replace=body.replace)
            except PresetExists as error:
                raise ApiError(409, "conflict", f"{error} (send replace)") from error
        return {"done": f"saved {body.name.strip()}"}

    @writing.delete("/presets/{name:path}", response_model=Done, summary="Delete a preset of the user's own")
    def delete_preset(name: str) -> dict[str, str]:
        with service.presets_lock:
            if name not in service.presets.all():
                raise not_found(f"there is no preset {name!r}")
            if name not in service.presets.own.read().presets:
                raise ApiError(409, "conflict", f"{name!r} comes with the extension and stays")
            service.presets.delete(name)
        return {"done": f"deleted {name}"}


def add_prompt_routes(public: APIRouter, page: APIRouter, service: Service) -> None:
    """Add the routes under ``/prompt``. The WebUI's own page calls them: the grammar of the tag is in Python alone."""

    @page.post("/prompt/tag", response_model=TagAnswer, summary="Read or change the tag that the cursor is in")
    def tag_at_cursor(body: TagBody) -> dict[str, Any]:
        from lib_blocktrain.workspace.tag_editor import TagChange, TagEditor

        change = None if body.change is None else TagChange(**values_of(body.change))
        found = TagEditor(service.lora_index, service.presets).edit(body.prompt, body.position, change)
        return {"tag": None if found is None else vars(found)}

    @public.post("/prompt/write-weights", response_model=Prompt, summary="Write block weights into a prompt's tags")
    def write(body: WriteWeightsBody) -> dict[str, str]:
        return {"prompt": write_weights(body.prompt, body.weights)}

    @public.post(
        "/prompt/fix-random", response_model=Prompt, summary="Write a picture's values in place of R and U in a prompt"
    )
    def fix_random(body: FixRandomBody) -> dict[str, str]:
        return {"prompt": fix_random_weights(body.prompt, body.parameters)}


def _parsed(found: Parsed) -> dict[str, Any]:
    """What a preset string means, in the form of ``presets parse --json``."""
    weights = found.weights
    return {
        "architecture": weights.architecture,
        "name": found.name,
        "form": found.form,
        "weights": {"BASE": weights.base, **weights.values, "REST": weights.rest},
        "changes": found.layers.changes,
        "notices": list(found.notices),
        "line": found.layers.to_line(found.name or "PRESET"),
    }
