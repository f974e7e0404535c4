"""Block weights of prompt tags on Forge's patches: by key and by file, on clones that are removed again."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from lib_blocktrain.hosts.webui.prompt import TagContext
from lib_blocktrain.weights.presets import shipped_presets
from lib_blocktrain.weights.tag_steps import SamplingStep
from tests.hosts import forge_backend
from tests.hosts.fake_webui import ExtraNetworkParams, Processing, module

UNET = {  # by block; `out.2` lies outside the blocks
    "IN01": "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    "M00": "diffusion_model.middle_block.1.proj_in.weight",
    "OUT03": "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
    "REST": "diffusion_model.out.2.weight",
}
TEXT = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


TAG_CONTEXT = TagContext("sd1", lambda: {preset.name: preset for preset in shipped_presets()})


@pytest.fixture
def forge(monkeypatch):
    """A process with a loaded model, Forge's Lora extension, and block weights on it."""
    with forge_backend.process(monkeypatch) as found:
        found.sd_model = found.shared.sd_model = found.data.sd_model = forge_backend.sd_model(unet_of(UNET.values()))
        networks = module("networks", loaded_networks=[], load_lora_for_models=None)

        class ExtraNetworkLora:
            """As `extra_networks_lora.ExtraNetworkLora`: for the same names and strengths it does nothing."""

            def activate(self, p, params_list):
                asked = [(params.items[0], float(params.items[1])) for params in params_list]
                networks.loaded_networks[:] = [
                    SimpleNamespace(mentioned_name=name, network_on_disk=SimpleNamespace(filename=f"{name}.file"))
                    for name, _ in asked
                ]
                model = found.sd_model
                if model.current_lora_hash == str(asked):
                    return
                model.current_lora_hash = str(asked)
                unet, clip = model.forge_objects_original.unet.clone(), model.forge_objects_original.clip.clone()
                for name, strength in asked:
                    identifier = (f"{name}.file", strength, 1.0, False)
                    keys = UNET.values() if name != "small" else [UNET["OUT03"]]
                    unet.lora_patches[identifier] = patches_for(unet.model, keys, strength)
                    clip.patcher.lora_patches[identifier] = patches_for(clip.cond_stage_model, [TEXT], strength)
                for objects in (model.forge_objects, model.forge_objects_after_applying_lora):
                    objects.unet, objects.clip = unet, clip

        activation = module("extra_networks_lora", ExtraNetworkLora=ExtraNetworkLora)
        monkeypatch.setitem(sys.modules, "networks", networks)
        monkeypatch.setitem(sys.modules, "extra_networks_lora", activation)
        from lib_blocktrain.hosts.forge import lora

        lora.patch(lambda: TAG_CONTEXT, lambda names: None)
        yield found
        lora.unpatch()


def unet_of(keys):
    """Return a U-Net with these layers only."""
    unet = torch.nn.Module()
    for key in keys:
        *folders, layer, _ = key.removeprefix("diffusion_model.").split(".")
        place = unet
        for name in folders:
            if name not in place._modules:
                place.add_module(name, torch.nn.Module())
            place = place._modules[name]
        place.add_module(layer, torch.nn.Linear(4, 4))
    return unet


def patches_for(model, keys, strength):
    def change(key):
        shape = model.get_parameter(key).shape
        return ("lora", (torch.ones(shape[0], 1), torch.ones(1, shape.numel() // shape[0]), 1.0, None, None))

    return {key: [[strength, change(key), 1.0, None, None]] for key in keys}


def draw(forge, *tags):
    """Do what Forge does for an image up to its first step; return the processing object."""
    p = Processing()
    forge.sd_model.forge_objects = forge.sd_model.forge_objects_original.shallow_copy()
    activation = sys.modules["extra_networks_lora"].ExtraNetworkLora()
    activation.activate(p, [ExtraNetworkParams(tag.split(":")) for tag in tags])
    forge.sd_model.forge_objects = forge.sd_model.forge_objects_after_applying_lora.shallow_copy()
    objects = forge.sd_model.forge_objects
    forge.load([objects.unet, objects.clip.patcher])
    return p


def strengths(forge):
    """Return the strengths of the merged patches by LoRA and block."""
    blocks = {**{key: block for block, key in UNET.items()}, TEXT: "BASE"}
    found: dict[str, dict[str, float]] = {}
    objects = forge.sd_model.forge_objects
    for patcher in (objects.unet, objects.clip.patcher):
        for (file, *_), patches in patcher.lora_patches.items():
            by_block = found.setdefault(file.partition(".")[0], {})
            by_block.update({blocks[key]: changes[0][0] for key, changes in patches.items()})
    return found


def weight(forge, block):
    objects = forge.sd_model.forge_objects
    model = objects.clip.cond_stage_model if block == "BASE" else objects.unet.model
    return model.get_parameter(TEXT if block == "BASE" else UNET[block])


PLAIN = {"IN01": 1.0, "M00": 1.0, "OUT03": 1.0, "REST": 1.0, "BASE": 1.0}


def test_weights_scale_by_key(forge):
    original = {block: weight(forge, block) for block in PLAIN}
    p = draw(forge, "x:0.5:bw=IN01=0,M00=0.5,OUT03=2,BASE=0.25")
    assert strengths(forge) == {"x": {"M00": 0.25, "OUT03": 1.0, "BASE": 0.125, "REST": 0.5}}
    assert weight(forge, "IN01") is original["IN01"]
    assert torch.allclose(weight(forge, "OUT03") - original["OUT03"], torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(weight(forge, "BASE") - original["BASE"], torch.tensor(0.125), atol=1e-5)
    assert "x: " in p.extra_generation_params["Block weights"]


def test_all_is_forges_own_and_none_is_no_lora(forge):
    original = {block: weight(forge, block) for block in PLAIN}
    draw(forge, "x:1")
    plain, merges = forge.sd_model.forge_objects.unet, forge.sd_model.forge_objects.unet.lora_loader.merges
    merged = {block: weight(forge, block) for block in PLAIN}
    draw(forge, "x:1:bw=ALL")
    assert forge.sd_model.forge_objects.unet is plain
    assert plain.lora_loader.merges == merges
    assert all(weight(forge, block) is merged[block] for block in PLAIN)
    draw(forge, "x:1:bw=NONE")
    assert strengths(forge) == {}
    assert all(weight(forge, block) is original[block] for block in PLAIN)


def test_weights_do_not_stay(forge):
    """A plain tag after a weighted one has the same name and strength: Forge would merge nothing."""
    draw(forge, "x:1")
    plain = {key: list(changes) for key, changes in forge.sd_model.forge_objects.unet.lora_patches.items()}
    for tag in ("x:1:bw=OUT03=0.5", "x:1:bw=OUT03=0.25", "x:1"):
        draw(forge, tag)
    assert strengths(forge) == {"x": PLAIN}
    assert {key: list(changes) for key, changes in forge.sd_model.forge_objects.unet.lora_patches.items()} == plain
    draw(forge)
    assert strengths(forge) == {}


def test_several_loras_keep_their_own_weights(forge):
    """The second has fewer keys than the first: by position, weights would be wrong from the second block on."""
    draw(forge, "x:1:bw=IN=1,M00=1,BASE=0", "small:0.5:bw=OUT03=0.5")
    assert strengths(forge) == {"x": {"IN01": 1.0, "M00": 1.0, "REST": 1.0}, "small": {"OUT03": 0.25, "BASE": 0.5}}
    draw(forge, "x:1", "small:0.5:bw=OUT03=0.5")
    assert strengths(forge)["x"] == PLAIN


def test_a_weight_twice_merges_once(forge):
    for _ in range(2):
        draw(forge, "x:1:bw=M00=0.5")
    assert forge.sd_model.forge_objects.unet.lora_loader.merges == 1


def test_steps(forge):
    """It acts in steps 3 and 4; on the text encoder, which runs before the first step, it acts as a whole."""
    from lib_blocktrain.hosts.forge import lora

    original = weight(forge, "M00")
    draw(forge, "x:1:bw=M00=0.5:start=3:stop=5")
    acting = []
    for step in (1, 2, 3, 3, 4, 5, 6):
        lora.enter_step(SamplingStep(step, step, of=10))
        acting.append(weight(forge, "M00") is not original)
    assert acting == [False, False, True, True, True, False, False]
    assert weight(forge, "BASE") is not forge.sd_model.forge_objects_original.clip.patcher.lora_loader.backup[TEXT]
    for tag, before, after in (("x:1:start=2", False, True), ("x:1:stop=2", True, False)):
        draw(forge, tag)
        assert (weight(forge, "M00") is not original) is before
        lora.enter_step(SamplingStep(2, 2, of=10))
        assert (weight(forge, "M00") is not original) is after


def test_kinds_of_layers_and_curves(forge):
    from lib_blocktrain.hosts.forge import lora

    original = {block: weight(forge, block) for block in ("M00", "OUT03")}
    draw(forge, "x:1:bw=*=1,OUT.attn2=0.25,M00.proj=0,IN=0@0,1@0.5")
    by_step, weights = [], []
    for step in range(1, 6):
        lora.enter_step(SamplingStep(step, step, of=5))
        by_step.append(strengths(forge)["x"].get("IN01"))
        weights.append(weight(forge, "IN01"))
    assert by_step == [None, 0.5, 1, 1, 1]
    assert strengths(forge)["x"]["OUT03"] == 0.25
    assert torch.allclose(weight(forge, "OUT03") - original["OUT03"], torch.tensor(0.25), atol=1e-5)
    assert weight(forge, "M00") is original["M00"]
    assert weights[2] is weights[4]  # not merged again where the weights rest


def test_a_tag_that_cannot_be_read_leaves_its_lora_out(forge):
    p = draw(forge, "x:1:bw=NO_SUCH_PRESET", "small:1")
    assert list(strengths(forge)) == ["small"]
    assert "NO_SUCH_PRESET" in p.extra_generation_params["Block weights problem"]
    assert any("NO_SUCH_PRESET" in comment for comment in p.comments)


def test_undone(forge):
    from lib_blocktrain.hosts.forge import lora

    activate = sys.modules["extra_networks_lora"].ExtraNetworkLora.activate
    draw(forge, "x:1:bw=OUTD")
    lora.unpatch()
    assert sys.modules["extra_networks_lora"].ExtraNetworkLora.activate is not activate
    draw(forge, "x:1")  # the same LoRA at the same strength, which Forge does not load again
    assert strengths(forge) == {"x": PLAIN}
    lora.patch(lambda: TAG_CONTEXT, lambda names: None)


def test_without_a_model_that_is_known_weighed_loras_are_left_out(forge):
    """As in a Forge with another backend: plain tags work, and the others say why they do not."""
    from lib_blocktrain.hosts.forge import lora

    lora.unpatch()
    lora.patch(lambda: TagContext(None, dict, unsupported="not in this Forge"), lambda names: None)
    p = draw(forge, "x:1", "small:1:bw=OUTD", "other:1:start=2")
    assert strengths(forge) == {"x": PLAIN}
    assert list(p.comments) == [f"Block weights: {name} left out: not in this Forge" for name in ("small", "other")]
