"""Block weights on the WebUI's own networks, against small stand-ins of its modules."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from lib_blocktrain.hosts.webui.axes import Axes
from lib_blocktrain.hosts.webui.prompt import TagContext, add_change, page_weights, resolve_tags, set_page_weights
from lib_blocktrain.weights.preset_strings import parse
from lib_blocktrain.weights.presets import shipped_presets
from lib_blocktrain.weights.tag_steps import SamplingStep
from tests.hosts import fake_webui as fake

TEXT, OUT03 = "transformer_text_model_encoder_layers_0_mlp_fc1", "diffusion_model_output_blocks_3_1_proj_in"
IN04, TIME = "diffusion_model_input_blocks_4_1_proj_in", "diffusion_model_time_embed_0"
LAYERS = (TEXT, OUT03, IN04, TIME)


def presets() -> dict:
    return {preset.name: preset for preset in shipped_presets()}


def tag_context(**options) -> TagContext:
    return TagContext(**{"architecture": "sd1", "presets": presets, **options})


@pytest.fixture
def webui(monkeypatch):
    """The Lora extension with two networks whose deltas are 1 everywhere, patched; and a model of four layers."""
    for name in [name for name in sys.modules if name.startswith("lib_blocktrain.hosts.a1111")]:
        monkeypatch.delitem(sys.modules, name)
    patches, networks = fake.Patches(), fake.Networks(["face", "hair"])
    network_module = type("NetworkModule", (fake.NetworkModule,), dict(vars(fake.NetworkModule)))
    network = fake.module("network", NetworkModule=network_module, Network=fake.Network)
    for net in networks.networks_in_memory.values():
        net.modules = {name: network.NetworkModule(net, name, torch.ones(2, 2)) for name in LAYERS}
    activation = fake.extra_networks_lora(networks)
    shared = fake.module("modules.shared", opts=SimpleNamespace(sd_lora="None", extra_networks_default_multiplier=1))
    modules = fake.module("modules", patches=patches, shared=shared)
    contents = {"modules": modules, "modules.shared": shared, "modules.patches": patches, "networks": networks}
    for name, content in {**contents, "network": network, "extra_networks_lora": activation}.items():
        monkeypatch.setitem(sys.modules, name, content)
    from lib_blocktrain.hosts.a1111 import lora

    for name, content in (("patches", patches), ("shared", shared)):  # it may have been imported for another test
        monkeypatch.setattr(lora.activation, name, content)
    asked = {}
    lora.patch(lambda: tag_context(**asked), lambda names: None)
    sd_model = SimpleNamespace(network_layer_mapping={name: fake.layer(name) for name in LAYERS})
    yield SimpleNamespace(
        lora=lora,
        networks=networks,
        network=network,
        activation=activation,
        sd_model=sd_model,
        asked=asked.update,
        options=shared.opts,
        after_activation=lambda networks, params: None,
    )
    lora.unpatch()
    for name in [name for name in sys.modules if name.startswith("lib_blocktrain.hosts.a1111")]:
        sys.modules.pop(name)


def draw(webui, *tags: str, p=None) -> dict[str, float]:
    """Return the weight of each layer in an image with these tags: 1, plus what the networks add."""
    p = p or fake.Processing()
    params = [fake.ExtraNetworkParams(tag.split(":")) for tag in tags]
    webui.activation.ExtraNetworkLora().activate(p, params)
    webui.after_activation(webui.networks, params)
    with torch.no_grad():
        for layer in webui.sd_model.network_layer_mapping.values():
            webui.networks.network_apply_weights(layer)
    webui.p, webui.params = p, params
    return {name: float(layer.weight[0, 0]) for name, layer in webui.sd_model.network_layer_mapping.items()}


def test_each_layer_gets_its_blocks_weight(webui):
    found = draw(webui, "face:0.5:bw=BASE=0.25,OUT03=2,IN04=0,REST=1")
    assert found == {TEXT: 1 + 0.5 * 0.25, OUT03: 1 + 0.5 * 2, IN04: 1.0, TIME: 1.5}


def test_te_and_unet_are_multiplied(webui):
    found = draw(webui, "face:1:te=0.5:unet=2:bw=BASE=1,OUT03=0.5")
    assert (found[TEXT], found[OUT03]) == (1.5, 2.0)


def test_several_networks_have_their_own_weights(webui):
    found = draw(webui, "face:1:bw=OUT03=1,BASE=0", "hair:1:bw=IN04=1,BASE=0")
    assert (found[OUT03], found[IN04], found[TEXT]) == (2.0, 2.0, 1.0)


def test_a_change_of_weights_merges_anew_and_the_same_weights_do_not(webui):
    draw(webui, "face:1:bw=OUT=1")
    before = webui.networks.merged
    draw(webui, "face:1:bw=OUT=1")
    assert webui.networks.merged == before
    draw(webui, "face:1:bw=OUT=0.5")
    assert webui.networks.merged == before + len(LAYERS)


def test_all_is_the_very_numbers_of_a_plain_tag(webui):
    whole = draw(webui, "face:1")
    before = webui.networks.merged
    assert draw(webui, "face:1:bw=ALL") == whole
    assert webui.networks.merged == before  # not even merged again
    assert type(webui.networks.loaded_networks[0].unet_multiplier) is float


def test_a_plain_tag_after_weights_is_plain(webui):
    whole = draw(webui, "face:1")
    draw(webui, "face:1:bw=NONE")
    assert draw(webui, "face:1") == whole
    assert draw(webui) == dict.fromkeys(LAYERS, 1.0)


def test_steps_switch_the_unet_on_and_off(webui):
    draw(webui, "face:1:bw=ALL:start=2:stop=4")
    (net,) = webui.networks.loaded_networks
    module = net.modules[OUT03]
    acting = []
    for step in range(1, 6):
        webui.lora.enter_step(SamplingStep(step, step, of=10))
        acting.append(module.multiplier())
    assert acting == [0, 1, 1, 0, 0]
    assert net.modules[TEXT].multiplier() == 1


def test_kinds_of_layers_and_curves(webui):
    draw(webui, "face:1:bw=*=1,OUT.proj=0.25,OUT.attn2=2,*.ff=0.5,IN=0@0,1@0.5")
    (net,) = webui.networks.loaded_networks
    by_step, multipliers = [], []
    for step in range(1, 6):
        webui.lora.enter_step(SamplingStep(step, step, of=5))
        by_step.append(net.modules[IN04].multiplier())
        multipliers.append(net.unet_multiplier)
        assert (net.modules[OUT03].multiplier(), net.modules[TEXT].multiplier()) == (0.25, 0.5)
    assert by_step == [0, 0.5, 1, 1, 1]
    assert multipliers[2] is multipliers[4]  # nothing to merge again where the weights rest
    assert multipliers[1] != multipliers[2]


def test_loractls_strength_over_the_steps(webui):
    draw(webui, "face:0.5@0,1@1:bw=OUT=1,IN=0.5,BASE=1")
    (net,) = webui.networks.loaded_networks
    by_step = []
    for step in range(1, 6):
        webui.lora.enter_step(SamplingStep(step, step, of=5))
        by_step.append([net.modules[layer].multiplier() for layer in (OUT03, IN04, TEXT)])
    assert by_step == [[0.5 + n / 8, 0.25 + n / 16, 0.5] for n in range(5)]


def lora_block_weight(networks, params_list) -> None:
    """What LoRA Block Weight does to the multipliers after the WebUI has loaded its networks, when it is active.

    It looks for names in every item and reads a number where none is found, and writes to every network of the prompt
    if one of the tags is its own.
    """
    read = {}
    for params in params_list:
        items = params.items

        def value(name, place=9, items=items):
            found = next((item.replace(name, "") for item in items if name in item), None)
            return found or (items[place] if place < len(items) and "=" not in items[place] else None)

        te, unet, weights = value("te=", 1), value("unet=", 2), value("lbw=", 2) or value("w=", 2) or ""
        if weights.count(",") in (11, 16, 19, 25):
            list(map(float, weights.split(",")))
        on = 0 if value("start=") or value("stop=") or value("step=") else 1
        read[items[0]] = (on * float(te or unet or 1), on * float(unet or te or 1))
    if any("lbw=" in item for params in params_list for item in params.items):
        for net in networks.loaded_networks:
            if net.name in read:
                net.te_multiplier, net.unet_multiplier = read[net.name]
                net.name += "_in_LBW_0.1"


@pytest.fixture
def beside_lbw(webui):
    """A function that draws with LoRA Block Weight active."""
    webui.asked(reads_lbw=False)

    def draw_both(*tags: str, p=None) -> dict[str, float]:
        for net in webui.networks.networks_in_memory.values():
            net.name = net.mentioned_name
        webui.after_activation = lora_block_weight
        return draw(webui, *tags, p=p)

    return draw_both


OF_LBW = f"hair:1:lbw={','.join(['1'] * 26)}"


@pytest.mark.parametrize("multipliers", ["1", "0.5", "0.5:0.25", "te=0.5", "unet=0.5", "0.5:te=0.25", "0.5:unet=2"])
@pytest.mark.parametrize("first", [True, False])
def test_both_tags_beside_lora_block_weight(webui, beside_lbw, multipliers, first):
    ours = f"face:{multipliers}:bw=BASE=0.25,OUT03=0.5,IN04=0:start=1:stop=9:x=1"
    alone = draw(webui, ours)
    both = [ours, OF_LBW] if first else [OF_LBW, ours]
    assert beside_lbw(*both) == {layer: weight + 1 for layer, weight in alone.items()}
    assert beside_lbw(ours) == alone


@pytest.mark.parametrize("tag", ["face:0.2@0,1@0.5", "face:te=0.3:unet=0.2@0,1@0.5", "face:1:0.2@0,1@0.5:bw=OUTD"])
def test_a_strength_over_the_steps_beside_lora_block_weight(webui, beside_lbw, tag):
    """It reads the strengths of every tag as numbers. Read again, for the next image of a batch, ours is the same."""
    alone = draw(webui, tag)
    assert beside_lbw(tag) == alone
    assert beside_lbw(tag, OF_LBW) == {layer: weight + 1 for layer, weight in alone.items()}
    found = resolve_tags(webui.p, webui.params, tag_context(reads_lbw=False))
    assert found[0].tag.strength == "0.2@0,1@0.5"
    assert found[0].tag.plain[1:] == tuple(webui.params[0].items[1:3])


def test_weights_of_the_accordion_beside_lora_block_weight(webui, beside_lbw):
    p = fake.Processing()
    set_page_weights(p, text="BASE=0,OUT03=0.5")
    found = beside_lbw("face:1", OF_LBW, p=p)
    assert (found[OUT03], found[IN04], found[TEXT]) == (2.5, 2.0, 2.0)
    assert any("hair: its lbw= is LoRA Block Weight's" in comment for comment in p.comments)
    assert p.extra_generation_params["Block weights"].startswith("face: 0,")


def test_what_is_left_out_is_nothing_to_lora_block_weight_either(beside_lbw):
    assert beside_lbw("face:1:bw=1,2:start=3", OF_LBW) == dict.fromkeys(LAYERS, 2.0)


def test_multipliers_set_while_sampling_keep_the_weights_and_the_step(webui):
    """As Regional Prompter's latent mode sets them for each region, from what it read before the first step."""
    draw(webui, "face:1:bw=BASE=0,OUT03=0.5:start=2")
    (net,) = webui.networks.loaded_networks
    kept = net.unet_multiplier
    webui.lora.enter_step(SamplingStep(2, 2, of=10))
    for region, expected in ((kept, 0.5), (0, 0.0), (0.5, 0.25), (kept * 1, 0.5)):
        net.unet_multiplier = region
        assert net.modules[OUT03].multiplier() == expected
        assert net.modules[IN04].multiplier() == 0
    net.te_multiplier = 2.0
    assert net.modules[TEXT].multiplier() == 0
    assert draw(webui, "face:1") == dict.fromkeys(LAYERS, 2.0)
    net.unet_multiplier = kept  # of the earlier prompt
    assert net.modules[IN04].multiplier() == 1.0


def test_the_tag_becomes_values_so_that_kept_conditioning_is_made_anew(webui):
    draw(webui, "face:1:bw=OUTD:start=2")
    before = webui.params[0].items
    draw(webui, f"face:1:bw={parse('OUTD', 'sd1').weights.to_line()}:start=2")
    assert webui.params[0].items == before
    draw(webui, "face:1:bw=OUTALL:start=2")
    assert webui.params[0].items != before
    draw(webui, *(":".join(params.items) for params in webui.params))  # the WebUI activates them again after hires
    assert webui.params[0].items != before
    assert webui.p.extra_generation_params["Block weights"] == f"face: {parse('OUTALL', 'sd1').weights.to_line()}"


def test_what_is_wrong_is_left_out_and_said(webui):
    found = draw(webui, "face:1:bw=OUTX", "hair:1:bw=OUT03=1,BASE=0")
    assert (found[OUT03], found[TEXT]) == (2.0, 1.0)
    assert [net.name for net in webui.networks.loaded_networks] == ["hair"]
    assert "'OUTX'" in webui.p.extra_generation_params["Block weights problem"]
    assert any("'OUTX'" in comment for comment in webui.p.comments)
    draw(webui, "hair:1", p=webui.p)  # the next image of a batch does not repeat it
    assert not webui.p.extra_generation_params


def test_networks_are_taken_out_and_put_back(webui):
    before = draw(webui, "face:0.5:bw=OUT03=2,BASE=1")
    layers = webui.sd_model.network_layer_mapping
    bits = {name: layer.weight.clone() for name, layer in layers.items()}
    with suppress(ZeroDivisionError), webui.lora.preserve_networks(webui.sd_model, unload=True):
        assert all(float(layer.weight[0, 0]) == 1 for layer in layers.values())
        draw(webui, "hair:1")  # a sample with another network in its prompt
        raise ZeroDivisionError
    assert all(torch.equal(layer.weight, bits[name]) for name, layer in layers.items())
    (net,) = webui.networks.loaded_networks
    assert net.modules[OUT03].multiplier() == 1.0 == before[OUT03] - 1


def test_nothing_of_us_stays_after_unpatching(webui):
    multiplier, activate = webui.network.NetworkModule.multiplier, webui.activation.ExtraNetworkLora.activate
    webui.lora.unpatch()
    assert webui.network.NetworkModule.multiplier is not multiplier
    assert webui.activation.ExtraNetworkLora.activate is not activate
    assert webui.network.NetworkModule.multiplier is fake.NetworkModule.multiplier
    assert not {"te_multiplier", "unet_multiplier"} & set(vars(webui.network.Network))


def test_a_checkpoint_of_another_kind(webui):
    p = fake.Processing()
    params = [fake.ExtraNetworkParams(["face", "1", "bw=OUTD"]), fake.ExtraNetworkParams(["hair", "1"])]
    found = resolve_tags(p, params, tag_context(architecture=None))
    assert found[0] is None
    assert found[1].weights is None
    assert "none of them" in p.extra_generation_params["Block weights problem"]


def test_hires_weights_of_their_own_are_said():
    p = fake.Processing()
    resolve_tags(p, [fake.ExtraNetworkParams(["face", "1", "bw=OUTD"])], tag_context())
    p.is_hr_pass = True
    resolve_tags(p, [fake.ExtraNetworkParams(["face", "1", "bw=INALL"])], tag_context())
    assert set(p.extra_generation_params) == {"Block weights", "Hires block weights"}


def test_the_accordion_and_the_axes_reach_every_lora(webui):
    p = fake.Processing()
    set_page_weights(p, text="BASE=0,OUT03=1")
    assert draw(webui, "face:1", p=p)[OUT03] == 2.0
    add_change(p, "OUT03=0.5")
    found = draw(webui, "face:1", "hair:1:bw=OUT03=1,BASE=0", p=p)
    assert (found[OUT03], found[TEXT]) == (2.0, 1.0)


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices = confirm, cost, choices


@pytest.fixture
def axes():
    plot = fake.module("xyz_grid", AxisOption=AxisOption, axis_options=[])
    made = Axes(tag_context, lambda: ["face-000100", "face-000200", "other-000100"])
    made.add_to(plot)
    made.add_to(plot)  # the page is built again
    return {option.label.removeprefix("[blocktrain] "): option for option in plot.axis_options}


def test_axes(axes):
    assert list(axes) == ["Preset", "Weights", "Block", "Group", "Step of a run"]
    assert all(type(option) is AxisOption and option.type is str for option in axes.values())
    assert max(option.cost for option in axes.values()) == axes["Step of a run"].cost < 1.0  # the checkpoint's
    assert "OUTD" in axes["Preset"].choices()
    assert axes["Block"].choices()[0] == "IN00=0"
    assert "IN02+OUT09=0" in axes["Group"].choices()
    p = fake.Processing()
    axes["Preset"].apply(p, "OUTD", ["OUTD"])
    axes["Block"].apply(p, "OUT03=0", ["OUT03=0"])
    assert (page_weights(p).instead, page_weights(p).changes) == ("OUTD", ("OUT03=0",))
    assert axes["Weights"].format_value(p, axes["Weights"], "MINE:1,0,0") == "MINE"
    assert len(axes["Weights"].format_value(p, axes["Weights"], ",".join(["0.25"] * 26))) <= 28


@pytest.mark.parametrize(
    ("axis", "value", "said"),
    [
        ("Preset", "NOPE", "'NOPE'"),
        ("Weights", "1,2,3", "3 values"),
        ("Block", "IN99=0", "'IN99'"),
        ("Group", "MID", "expected, for example"),
        ("Step of a run", "500", "'500'"),
    ],
)
def test_axes_refuse_before_the_first_picture(axes, axis, value, said):
    with pytest.raises(RuntimeError, match=said):
        axes[axis].confirm(fake.Processing(prompt="a <lora:face:1>"), [value])


@pytest.mark.parametrize("axis", ["Preset", "Block"])
def test_axes_want_a_lora(axes, axis):
    with pytest.raises(RuntimeError, match="no LoRA"):
        axes[axis].confirm(fake.Processing(prompt="a cat"), ["ALL" if axis == "Preset" else "IN=0"])


def test_step_of_a_run(axes):
    p = fake.Processing(prompt="a <lora:face:0.8:bw=OUTD>")
    axes["Step of a run"].confirm(p, ["100", "face-000200"])
    axes["Step of a run"].apply(p, "100", [])
    assert p.prompt == "a <lora:face-000100:0.8:bw=OUTD>"


def test_the_weights_of_a_card_are_used_and_recorded_as_numbers(webui, monkeypatch):
    cards = {"face": "OUT=1,BASE=0.5 | arch=sd1"}
    asked = tag_context(recommended=cards.__getitem__)
    webui.lora.unpatch()
    webui.lora.patch(lambda: asked, lambda names: None)
    found = draw(webui, "face:1:bw=card,IN04=0.25")
    assert (found[TEXT], found[OUT03], found[IN04]) == (1.5, 2.0, 1.25)
    line = parse("OUT=1,BASE=0.5,IN04=0.25", "sd1").weights.to_line()
    assert webui.p.extra_generation_params["Block weights"] == f"face: {line}"
    cards["face"] = "OUT=1,BASE=1 | arch=sdxl"
    assert draw(webui, "face:1:bw=card")[OUT03] == 1.0  # left out
    assert "the card's block weights" in webui.p.extra_generation_params["Block weights problem"]


def test_the_lora_of_the_setting_has_the_accordions_weights_in_the_first_batch_too(webui, monkeypatch):
    """ "Add network to prompt": the WebUI adds it inside its own activation, after the tags were read."""
    monkeypatch.setitem(
        sys.modules, "modules.extra_networks", fake.module("e", ExtraNetworkParams=fake.ExtraNetworkParams)
    )
    webui.options.sd_lora = "hair"
    p = fake.Processing(all_prompts=["a cat", "a dog"])
    set_page_weights(p, text="OUT03=0.5,BASE=0,REST=0")
    found = draw(webui, p=p)
    assert (found[OUT03], found[IN04], found[TEXT]) == (1.5, 1.0, 1.0)
    assert p.all_prompts == ["a cat<lora:hair:1>", "a dog<lora:hair:1>"]
    draw(webui, "hair:0.25", p=p)
    assert p.all_prompts == ["a cat<lora:hair:1>", "a dog<lora:hair:1>"]  # it was in the prompt
