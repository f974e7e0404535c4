"""Block weights of prompt tags on patches that are kept by parameter, as Forge Neo and reForge keep them."""

from __future__ import annotations

import sys
import uuid
from types import SimpleNamespace

import pytest

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
BLOCKS = {**{key: block for block, key in UNET.items()}, TEXT: "BASE"}
PLAIN = {"IN01": 1.0, "M00": 1.0, "OUT03": 1.0, "REST": 1.0, "BASE": 1.0}
NAMED = {preset.name: preset for preset in shipped_presets()}


class Patcher:
    """As ComfyUI's ModelPatcher: what is merged into the model depends on `patches_uuid` alone."""

    extra_preserved_memory_during_sampling = 0
    extra_model_patchers_during_sampling = ()

    def __init__(self, model, parent=None):
        self.model, self.patches = model, {}
        if parent is not None:
            self.patches = {key: changes[:] for key, changes in parent.patches.items()}
        self.follow(parent)

    def follow(self, parent):
        self.patches_uuid = uuid.uuid4() if parent is None else parent.patches_uuid

    def clone(self):
        return type(self)(self.model, self)

    def add_patches(self, keys, strength, file):
        for key in keys:
            self.patches.setdefault(key, []).append((strength, file, 1.0, None, None, False))
        self.follow(None)

    @property
    def identity(self):
        return self.patches_uuid

    def memory_required(self, shape):
        return shape[0]


class OlderPatcher(Patcher):
    """As Forge Classic's: an object is merged once, whatever becomes of its patches, until it is unloaded."""

    identity = property(id)

    def follow(self, parent):
        pass


def unload_model_clones(patcher):
    patcher.model.uuid = None


def load(models, memory_required=0, **more):
    """Merge again what differs: the strengths of each file by block."""
    for patcher in models:
        assert not (isinstance(patcher, OlderPatcher) and more)
        model = patcher.model
        if model.uuid == patcher.identity:
            continue
        model.uuid, model.merges, model.merged = patcher.identity, model.merges + 1, {}
        for key, changes in patcher.patches.items():
            for strength, file, *_ in changes:
                model.merged.setdefault(file, {})[BLOCKS[key]] = strength


class Clip:
    def __init__(self, patcher):
        self.patcher = patcher

    def clone(self):
        return Clip(self.patcher.clone())


@pytest.fixture
def neo(monkeypatch, request):
    """A process with a loaded model, Neo's Lora extension, and block weights on it."""
    patcher = getattr(request, "param", Patcher)
    with forge_backend.process(monkeypatch) as found:
        memory = sys.modules["backend.memory_management"]
        memory.load_models_gpu, memory.unload_model_clones = load, unload_model_clones
        kernels = [SimpleNamespace(uuid=None, merges=0, merged={}) for _ in range(2)]
        objects = forge_backend.Objects(unet=patcher(kernels[0]), clip=Clip(patcher(kernels[1])))
        names = ("forge_objects", "forge_objects_original", "forge_objects_after_applying_lora")
        model = SimpleNamespace(**{name: objects.shallow_copy() for name in names}, current_lora_hash="[]")
        networks = module("networks", loaded_networks=[])
        found.sd_model = found.shared.sd_model = found.data.sd_model = model
        found.unet, found.text, found.reads, found.networks = *kernels, [], networks

        def load_lora_for_models(model, clip, lora, strength_model, strength_clip, filename="", online_mode=False):
            unet, text = model.clone(), clip.clone()
            unet.add_patches(lora, strength_model, filename)
            text.patcher.add_patches([TEXT], strength_clip, filename)
            return unet, text

        class ExtraNetworkLora:
            """As `extra_networks_lora.ExtraNetworkLora` with `networks.load_networks`."""

            def activate(self, p, params_list):
                asked = [(f"{params.items[0]}.file", float(params.items[1])) for params in params_list]
                networks.loaded_networks[:] = [
                    SimpleNamespace(mentioned_name=params.items[0], network_on_disk=SimpleNamespace(filename=file))
                    for params, (file, _) in zip(params_list, asked)
                ]
                if model.current_lora_hash == str(asked):
                    return
                model.current_lora_hash, now = str(asked), model.forge_objects
                now.unet, now.clip = model.forge_objects_original.unet, model.forge_objects_original.clip
                for file, strength in asked:
                    found.reads.append(file)
                    keys = [UNET["OUT03"]] if file == "small.file" else [*UNET.values()]
                    loading = networks.load_lora_for_models(now.unet, now.clip, keys, strength, strength, filename=file)
                    now.unet, now.clip = loading
                model.forge_objects_after_applying_lora = now.shallow_copy()

        networks.load_lora_for_models = load_lora_for_models
        monkeypatch.setitem(sys.modules, "networks", networks)
        activation = module("extra_networks_lora", ExtraNetworkLora=ExtraNetworkLora)
        monkeypatch.setitem(sys.modules, "extra_networks_lora", activation)
        from lib_blocktrain.hosts.neo import lora

        found.lora = lora
        lora.patch(lambda: TagContext("sd1", lambda: NAMED), lambda names: None)
        yield found
        lora.unpatch()


def draw(neo, *tags):
    """Do what Neo does for an image up to its first step; return the processing object."""
    p, model = Processing(), neo.sd_model
    model.forge_objects = model.forge_objects_original.shallow_copy()
    activation = sys.modules["extra_networks_lora"].ExtraNetworkLora()
    activation.activate(p, [ExtraNetworkParams(tag.split(":")) for tag in tags])
    model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
    load([model.forge_objects.unet, model.forge_objects.clip.patcher])
    return p


def strengths(neo):
    """Return the strengths that are merged, by LoRA and block."""
    merged = {file: dict(found) for file, found in neo.unet.merged.items()}
    for file, found in neo.text.merged.items():
        merged.setdefault(file, {}).update(found)
    return {file.removesuffix(".file"): found for file, found in merged.items()}


@pytest.mark.parametrize("neo", [Patcher, OlderPatcher], indirect=True)
def test_weights_scale_by_key_and_by_file(neo):
    p = draw(neo, "x:0.5:bw=IN01=0,M00=0.5,OUT03=2,BASE=0.25", "small:1", "y:1:bw=M00=0.5")
    assert strengths(neo) == {
        "x": {"M00": 0.25, "OUT03": 1.0, "BASE": 0.125, "REST": 0.5},
        "small": {"OUT03": 1.0, "BASE": 1.0},
        "y": {"M00": 0.5, "REST": 1.0, "BASE": 1.0},
    }
    assert "x: " in p.extra_generation_params["Block weights"]


def test_all_is_neos_own_and_none_is_no_lora(neo):
    draw(neo, "x:1")
    plain, merges = neo.sd_model.forge_objects.unet, neo.unet.merges
    draw(neo, "x:1:bw=ALL")
    assert (neo.sd_model.forge_objects.unet, neo.unet.merges) == (plain, merges)
    draw(neo, "x:1:bw=NONE")
    assert strengths(neo) == {}
    assert neo.reads == ["x.file"]


@pytest.mark.parametrize("neo", [Patcher, OlderPatcher], indirect=True)
def test_weights_do_not_stay_and_no_file_is_read_again(neo):
    for tag, expected in (
        ("x:1", PLAIN),
        ("x:1:bw=*=0.5,BASE=0.5", {"IN01": 0.5, "M00": 0.5, "OUT03": 0.5, "BASE": 0.5, "REST": 0.5}),
        ("x:1:bw=OUT03=3,BASE=1,M00=1,IN01=1", {**PLAIN, "OUT03": 3.0}),
        ("x:1", PLAIN),
    ):
        draw(neo, tag)
        assert strengths(neo)["x"] == expected
    assert neo.reads == ["x.file"]
    draw(neo)
    assert strengths(neo) == {}


def test_the_same_weights_merge_once(neo):
    for _ in range(3):
        draw(neo, "x:1:bw=M00=0.5:start=1:stop=9")
        neo.lora.enter_step(SamplingStep(1, 1, of=10))
    assert neo.unet.merges == 1


@pytest.mark.parametrize("neo", [Patcher, OlderPatcher], indirect=True)
def test_steps(neo):
    """It acts in steps 3 and 4; on the text encoder, which runs before the first step, it acts as a whole."""
    draw(neo, "x:1:bw=M00=0.5:start=3:stop=5", "y:1")
    acting = []
    for step in (1, 2, 3, 3, 4, 5, 6):
        neo.lora.enter_step(SamplingStep(step, step, of=10), (2, 4, 8, 8))
        acting.append(strengths(neo)["x"].get("M00"))
    assert acting == [None, None, 0.5, 0.5, 0.5, None, None]
    assert strengths(neo)["y"] == PLAIN
    assert neo.unet.merges == 3
    draw(neo, "x:1:bw=M00=0.5:start=3:stop=5", "y:1")  # the next image begins with its first step
    assert "M00" not in strengths(neo)["x"]
    draw(neo, "x:1", "y:1")
    neo.lora.enter_step(SamplingStep(4, 4, of=10))
    assert strengths(neo) == {"x": PLAIN, "y": PLAIN}
    assert neo.reads == ["x.file", "y.file"]


def test_kinds_of_layers_and_curves(neo):
    draw(neo, "x:1:bw=*=1,OUT.attn2=0.25,M00.proj=0,IN=0@0,1@0.5", "y:1")
    by_step = []
    for step in range(1, 6):
        neo.lora.enter_step(SamplingStep(step, step, of=5))
        by_step.append(strengths(neo)["x"].get("IN01"))
        others = {"OUT03": 0.25, "REST": 1.0, "BASE": 1.0}
        assert {block: w for block, w in strengths(neo)["x"].items() if block != "IN01"} == others
    assert by_step == [None, 0.5, 1, 1, 1]
    assert neo.unet.merges == 3  # not again where the weights rest
    assert strengths(neo)["y"] == PLAIN


@pytest.mark.parametrize("neo", [Patcher, OlderPatcher], indirect=True)
def test_steps_where_another_extension_has_added_patches(neo):
    draw(neo, "x:1:start=2")
    others = neo.sd_model.forge_objects.unet = neo.sd_model.forge_objects.unet.clone()
    others.add_patches([UNET["M00"]], 7.0, "other.file")
    load([others])
    for step, expected in ((1, None), (2, PLAIN["M00"]), (3, PLAIN["M00"])):
        neo.lora.enter_step(SamplingStep(step, step, of=10))
        assert strengths(neo)["x"].get("M00") == expected
        assert strengths(neo)["other"] == {"M00": 7.0}


def test_loras_that_were_loaded_before_the_extension_are_read_again(neo):
    neo.lora.unpatch()
    draw(neo, "x:1")
    neo.lora.patch(lambda: TagContext("sd1", lambda: NAMED), lambda names: None)
    draw(neo, "x:1:bw=NONE")
    assert strengths(neo) == {}
    assert neo.reads == ["x.file"] * 2


def test_steps_are_refused_where_the_model_is_not_known(neo):
    """In the image's parameters, where the user looks."""
    neo.lora.unpatch()
    neo.lora.patch(lambda: TagContext(None, dict, unsupported="flux.safetensors is a Flux"), lambda names: None)
    p = draw(neo, "x:1", "y:1:start=2", "small:1:bw=OUTD")
    assert list(strengths(neo)) == ["x"]
    problem = p.extra_generation_params["Block weights problem"]
    assert problem == "; ".join(f"{name} left out: flux.safetensors is a Flux" for name in ("y", "small"))


def test_undone(neo):
    names = ("load_lora_for_models", "activate")
    owners = (neo.networks, sys.modules["extra_networks_lora"].ExtraNetworkLora)
    before = [getattr(owner, name) for owner, name in zip(owners, names)]
    draw(neo, "x:1:bw=OUTD:stop=3")
    neo.lora.unpatch()
    draw(neo, "x:1")  # the same LoRA at the same strength, which Neo does not load again
    assert strengths(neo) == {"x": PLAIN}
    assert all(getattr(owner, name) is not old for owner, name, old in zip(owners, names, before))
    neo.lora.patch(lambda: TagContext("sd1", lambda: NAMED), lambda names: None)
