"""The standalone host: pictures of the demo's format, and real single-file checkpoints without a network."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
import diffusers
import transformers

from lib_blocktrain.blocks import ARCHITECTURES, diffusers_to_ldm
from lib_blocktrain.hosts import live_picture, standalone
from lib_blocktrain.hosts.host import Host, SampleRequest
from lib_blocktrain.hosts.ldm_export import vae_to_ldm
from lib_blocktrain.model.protocol import Model
from lib_blocktrain.networks.bake import bake
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.networks.hooks import Placement, applied
from lib_blocktrain.networks.keys import key_of
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.weights.preset_strings import parse

REQUEST = SampleRequest(prompt="a photo of a large robot, blue background", seed=1, steps=3, width=64, height=64)


@pytest.fixture(scope="module")
def host(random_model):
    host = standalone.StandaloneHost()
    host.use(standalone.load_demo(random_model))
    return host


@pytest.fixture(scope="module")
def network(host, tmp_path_factory):
    """A LoRA on every attention layer of the U-Net and on the text encoder's feed-forward layers."""
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    model = host.model()
    for component, module in {"unet": model.unet, **model.text_encoders}.items():
        for path, layer in module.named_modules():
            wanted = ".attn" in path if component == "unet" else ".mlp.fc" in path
            if wanted and isinstance(layer, torch.nn.Linear):
                key = key_of(path, "sd1", component)
                tensors[f"{key}.lora_down.weight"] = torch.randn(4, layer.in_features, generator=generator) * 0.3
                tensors[f"{key}.lora_up.weight"] = torch.randn(layer.out_features, 4, generator=generator) * 0.3
                tensors[f"{key}.alpha"] = torch.tensor(4.0)
    path = tmp_path_factory.mktemp("lora") / "random.safetensors"
    save_file(tensors, path, {"ss_output_name": "random"})
    return read_network(path)


def pixels(picture) -> np.ndarray:
    return np.asarray(picture, dtype=np.int16)


def test_protocols(host):
    assert isinstance(host, Host)
    assert isinstance(host.model(), Model)


def test_a_seed_is_a_picture(host):
    first, again, other = (pixels(host.sample(replace(REQUEST, seed=seed))) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_native_size(host):
    assert host.sample(replace(REQUEST, width=None, height=None, steps=1)).size == (128, 128)


def test_weights_0_is_no_lora_and_1_is_merged(host, network):
    """The image is bit for bit the one without a LoRA, or with its deltas merged."""
    plain = pixels(host.sample(REQUEST))
    off = Placement(network, BlockWeights.uniform("sd1", 0.0))
    assert np.array_equal(plain, pixels(host.sample(replace(REQUEST, placements=[off]))))
    on = Placement(network, BlockWeights.uniform("sd1", 1.0))
    hooked = pixels(host.sample(replace(REQUEST, placements=[on])))
    model = host.model()
    with merged({"unet": model.unet, **model.text_encoders}, [on]):
        inside = pixels(host.sample(REQUEST))
    assert np.abs(hooked - plain).mean() > 1
    assert np.abs(hooked - inside).max() <= 1  # rounding to 8 bits
    assert np.array_equal(plain, pixels(host.sample(REQUEST)))


def test_every_block_counts(host, network):
    """Each block of the LoRA changes the image by itself, and so does the text encoder."""
    plain = pixels(host.sample(replace(REQUEST, steps=2)))
    off = BlockWeights.uniform("sd1", 0.0)
    for block, count in network.blocks.items():
        if count:
            weights = off.replace({block: 2.0})
            changed = pixels(host.sample(replace(REQUEST, steps=2, placements=[Placement(network, weights)])))
            assert not np.array_equal(plain, changed), block


def test_elements_and_curves_are_the_baked_file_of_each_step(host, network, tmp_path):
    """Within 1/255, the files applied in turn by hooks of their own; the text encoder is that of the first step."""
    request = replace(REQUEST, steps=4)
    written = "BASE=0.5,*=1,OUT=0.2@0,1@1,IN.attn2=1@0-0.5,M00.ff=0"  # * sets BASE, too
    by_step = [f"ALL,OUT={0.2 + 0.8 * step / 3},IN.attn2={int(step < 1.5)},M00.ff=0" for step in range(4)]
    files = [
        read_network(bake(network, parse(text, "sd1", layers=True).layers, tmp_path / f"{step}.safetensors"))
        for step, text in enumerate(by_step)
    ]
    ours = pixels(host.sample(replace(request, placements=[Placement(network, parsed_layers(written))])))
    model = host.model()
    with ExitStack() as used:
        used.enter_context(applied({"unet": model.unet, **model.text_encoders}, files[0]))

        def next_file(done: int, steps: int) -> None:
            used.close()
            if done < steps:
                used.enter_context(applied(model.unet, files[done]))

        theirs = pixels(host.sample(request, next_file))
    first = pixels(host.sample(replace(request, placements=[Placement(files[0], parsed_layers("ALL"))])))
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - first).max() > 8  # the later steps had other weights


def parsed_layers(text: str):
    return parse(text, "sd1", layers=True).acting


def test_progress(host):
    seen = []
    host.sample(REQUEST, lambda done, steps: seen.append((done, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_live_pictures_change_nothing(host, monkeypatch):
    monkeypatch.setattr(live_picture, "INTERVAL", 0)
    monkeypatch.setattr(live_picture, "SHARE", 1)
    plain, shown = pixels(host.sample(REQUEST)), []
    assert np.array_equal(plain, pixels(host.sample(replace(REQUEST, live=shown.append))))
    assert [image.size for image in shown] == [(64, 64)] * 2
    assert not host.model().unet._forward_hooks

    def fails(*_, **__):
        raise RuntimeError("no room")

    monkeypatch.setattr(host.model().vae, "decode", fails)
    seen = []
    with pytest.raises(RuntimeError, match="no room"):  # the sampler's own decoding, and no earlier one
        host.sample(replace(REQUEST, live=shown.append), lambda done, steps: seen.append(done))
    assert seen == [1, 2, 3]


def test_live_pictures_take_a_share_of_the_time(monkeypatch):
    now, made = [0.0], []
    monkeypatch.setattr(live_picture.time, "monotonic", lambda: now[0])

    def make(seconds):
        made.append(now[0])
        now[0] += seconds

    live = live_picture.LivePictures(made.append)
    for cost in (0.01, 1.0):
        for _ in range(400):
            now[0] += 0.05
            live.offer(lambda cost=cost: make(cost))
    gaps = np.diff(made)
    assert gaps.min() >= 0.5
    assert gaps.max() == pytest.approx(10, abs=0.1)  # a second each: a tenth of the time


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
@pytest.mark.parametrize("cfg", [1.0, 6.0])
def test_the_denoised_latents_of_the_last_step_are_the_picture(host, sampler, cfg):
    """These samplers end on what the U-Net predicts, without noise."""
    model = host.model()
    denoised = live_picture.Denoised(model.alphas_cumprod, model.prediction, cfg)
    with denoised.watching(model.unet):
        picture = host.sample(replace(REQUEST, sampler=sampler, cfg=cfg))
    live = model.decode(denoised.latents())[0]
    assert np.abs(pixels(live) - pixels(picture)).mean() < 2


@pytest.mark.parametrize("sampler", sorted(standalone.SAMPLERS))
def test_samplers_leave_the_scheduler(host, sampler):
    before = host.model().pipeline.scheduler
    picture = host.sample(replace(REQUEST, sampler=sampler))
    assert np.ptp(pixels(picture)) > 0
    assert host.model().pipeline.scheduler is before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "Eular"}, "Eular.*DDIM"),
        ({"width": 100}, "width 100.*multiple of 8"),
        ({"height": 8}, "height 8"),
        ({"steps": 0}, "steps 0"),
    ],
)
def test_refused(host, change, words):
    with pytest.raises(ValueError, match=words):
        host.sample(replace(REQUEST, **change))


def test_long_prompt_is_said(host, caplog):
    host.sample(replace(REQUEST, prompt="fox " * 80, steps=1))
    assert "80 tokens" in caplog.text


def test_what_a_webui_would_read_is_said_to_be_drawn_as_words(host):
    said = []
    prompt = "a (red:1.5) fox BREAK <lora:robot:1:bw=OUTD>"
    host.sample(replace(REQUEST, prompt=prompt, negative="(blue:2)" + " fox" * 80, steps=1, say=said.append))
    assert len(said) == 5
    assert any("the negative prompt has 85 tokens" in sentence for sentence in said)
    for words in ("'<lora:robot:1:bw=OUTD>' is read as words", "'(red:1.5)'", "'BREAK'", "'(blue:2)'"):
        assert any(words in sentence for sentence in said)


def test_predict_and_encode_are_the_pipelines(host):
    """One step by the model's methods against the pipeline's parts, and an image through the autoencoder."""
    model = host.model()
    conditioning = model.encode_prompt("a fox")
    assert conditioning["context"].shape == (1, 77, 128)
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        predicted = model.predict(latents, torch.tensor([500]), conditioning)
    assert predicted.shape == latents.shape
    assert model.alphas_cumprod.shape == (1000,)
    picture = host.sample(REQUEST)
    latents = model.encode_image(picture)
    assert latents.shape == (1, 4, 8, 8)
    assert model.decode(latents)[0].size == picture.size


# --- single-file checkpoints: the real layouts and names, narrow widths, random weights -----------------------------


def narrow(architecture: str, folder: Path) -> Path:
    """Return the shipped configurations with small widths, in place of gigabytes."""
    shutil.copytree(standalone.CONFIGS / architecture, folder / architecture)
    unet_changes: dict = {"sd1": {"attention_head_dim": 4}, "sd2": {"attention_head_dim": [2, 4, 4, 4]}}.get(
        architecture, {"attention_head_dim": [2, 4, 4], "transformer_layers_per_block": [1, 2, 10]}
    )
    widths = [32, 64, 64] if architecture == "sdxl" else [32, 64, 64, 64]
    changes = {
        "unet/config.json": {**unet_changes, "block_out_channels": widths},
        "vae/config.json": {"block_out_channels": [32, 32, 32, 32]},
        "text_encoder/config.json": {"num_hidden_layers": 2, "intermediate_size": 64},
        "text_encoder_2/config.json": {"num_hidden_layers": 2, "intermediate_size": 64},
    }
    for name, change in changes.items():
        path = folder / architecture / name
        if path.exists():
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return folder


def hf_to_openclip(state: dict, projection: str | None) -> dict:
    """Convert transformers' CLIP tensors to OpenCLIP's names and layout (q, k and v in one ``in_proj``)."""
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm": "ln_final",
    }
    out, fused = {}, {}
    for name, tensor in state.items():
        if name == "text_projection.weight":
            out[projection] = tensor.T.contiguous()
            continue
        name = name.removeprefix("text_model.")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        name = name.replace("encoder.layers.", "transformer.resblocks.").replace("self_attn.out_proj", "attn.out_proj")
        name = name.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
        name = name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        if ".self_attn." in name:
            layer, rest = name.split(".self_attn.")
            part, kind = rest.split("_proj.")
            fused.setdefault((layer, kind), {})[part] = tensor
        else:
            out[name] = tensor
    for (layer, kind), parts in fused.items():
        out[f"{layer}.attn.in_proj_{kind}"] = torch.cat([parts[p] for p in "qkv"])
    return out


def single_file(pipeline, architecture: str, path: Path) -> Path:
    """Return the pipeline's weights under the names of an original checkpoint."""
    state = {
        "model.diffusion_model." + diffusers_to_ldm(k, architecture): v for k, v in pipeline.unet.state_dict().items()
    }
    for name, tensor in pipeline.vae.state_dict().items():
        name = vae_to_ldm(name)
        pointwise = ".mid.attn_1." in name and name.endswith(".weight") and tensor.ndim == 2
        state["first_stage_model." + name] = tensor[:, :, None, None] if pointwise else tensor
    text = pipeline.text_encoder.state_dict()
    if architecture == "sd1":
        state |= {f"cond_stage_model.transformer.{k}": v for k, v in text.items()}
    elif architecture == "sd2":
        state |= {f"cond_stage_model.model.{k}": v for k, v in hf_to_openclip(text, None).items()}
    else:
        state |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in text.items()}
        second = hf_to_openclip(pipeline.text_encoder_2.state_dict(), "text_projection")
        state |= {f"conditioner.embedders.1.model.{k}": v for k, v in second.items()}
    save_file({k: v.half().contiguous() for k, v in state.items() if "position_ids" not in k}, path)
    return path


def random_pipeline(architecture: str, configs: Path):
    """Return a pipeline of the narrow configurations with random weights that are exact in half precision."""

    def part(cls, name):
        config = json.loads((configs / architecture / name / "config.json").read_text())
        if name.startswith("text"):
            return cls(transformers.CLIPTextConfig(**config))
        return cls.from_config(config)

    torch.manual_seed(0)
    parts = {
        "unet": part(diffusers.UNet2DConditionModel, "unet"),
        "vae": part(diffusers.AutoencoderKL, "vae"),
        "text_encoder": part(transformers.CLIPTextModel, "text_encoder"),
        "scheduler": diffusers.DDIMScheduler.from_pretrained(configs / architecture / "scheduler"),
        "tokenizer": standalone._tokenizer("!" if architecture == "sd2" else "<|endoftext|>"),
    }
    if architecture == "sdxl":
        parts["text_encoder_2"] = part(transformers.CLIPTextModelWithProjection, "text_encoder_2")
        parts["tokenizer_2"] = standalone._tokenizer("!")
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=False)
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    with torch.no_grad():
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                for parameter in module.parameters():
                    parameter.copy_((parameter + torch.randn_like(parameter) * 0.01).half().float())
    return pipeline


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_single_file(architecture, tmp_path, monkeypatch):
    """A checkpoint in one file gives the same image, without a request to any hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configs = narrow(architecture, tmp_path / "configs")
    monkeypatch.setattr(standalone, "CONFIGS", configs)
    pipeline = random_pipeline(architecture, configs)
    path = single_file(pipeline, architecture, tmp_path / "model.safetensors")
    loaded = standalone.load_checkpoint(path)
    assert loaded.architecture == architecture
    assert tuple(loaded.text_encoders) == (("te1", "te2") if architecture == "sdxl" else ("te",))
    request = replace(REQUEST, steps=2)
    host = standalone.StandaloneHost()
    host.use(loaded)
    drawn = host.sample(request)
    host.use(standalone.StandaloneModel(standalone._finish(pipeline), architecture, "original"))
    assert np.abs(pixels(drawn) - pixels(host.sample(request))).max() <= 1
    conditioning = loaded.encode_prompt("a fox")
    with torch.no_grad():
        predicted = loaded.predict(torch.randn(1, 4, 8, 8), torch.tensor([10]), conditioning)
    assert predicted.shape == (1, 4, 8, 8)
    fixed = loaded.encode_prompt("a fox", 75)  # sd-scripts' rows: of a short text the same
    assert all(torch.allclose(fixed[name], conditioning[name], atol=1e-5) for name in conditioning)
    assert loaded.encode_prompt("a fox", 150)["context"].shape[1] == 152
    if architecture == "sd2":
        assert any("prediction" in notice for notice in loaded.notices)


def test_a_file_marked_as_zero_terminal_snr(tmp_path, monkeypatch):
    """By Forge's two tensors: the model is trained and drawn so, its last timestep included."""
    monkeypatch.setattr(standalone, "CONFIGS", configs := narrow("sd1", tmp_path / "configs"))
    path = single_file(random_pipeline("sd1", configs), "sd1", tmp_path / "model.safetensors")
    save_file({**load_file(path), "v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, tmp_path / "marked.safetensors")
    model = standalone.load_checkpoint(tmp_path / "marked.safetensors")
    assert (model.prediction, model.zero_terminal_snr) == ("v", True)
    assert not standalone.load_checkpoint(path).zero_terminal_snr
    for scheduler, options in standalone.SAMPLERS.values():
        made = scheduler.from_config(model.pipeline.scheduler.config, **options, **model.schedule_options)
        made.set_timesteps(4)
        assert (made.timesteps[0], made.config.prediction_type) == (999, "v_prediction")
    host = standalone.StandaloneHost()
    host.use(model)
    assert np.isfinite(pixels(host.sample(replace(REQUEST, steps=2)))).all()


@pytest.mark.parametrize("architecture", ["sd1", "sdxl"])
def test_inpainting_file(architecture, tmp_path, monkeypatch, caplog):
    """A model with nine input channels is loaded with a notice, and draws with everything masked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configs = narrow(architecture, tmp_path / "configs")
    monkeypatch.setattr(standalone, "CONFIGS", configs)
    unet = configs / architecture / "unet" / "config.json"
    plain = unet.read_text()
    unet.write_text(json.dumps({**json.loads(plain), "in_channels": 9}))
    path = single_file(random_pipeline(architecture, configs), architecture, tmp_path / "model.safetensors")
    unet.write_text(plain)
    host = standalone.StandaloneHost(path)
    assert host.model().unet.config.in_channels == 9
    assert "inpainting" in caplog.text
    assert host.sample(replace(REQUEST, steps=1)).size == (64, 64)


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_shipped_configurations_have_the_tables_blocks(architecture):
    """Every layer of the shipped configuration, on the meta device, is in the block table."""
    config = json.loads((standalone.CONFIGS / architecture / "unet" / "config.json").read_text())
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(config)
    table = ARCHITECTURES[architecture]
    assert unet.config.cross_attention_dim == table.context_width
    for name, _ in unet.named_parameters():
        diffusers_to_ldm(name, architecture)


def test_a_long_caption_comes_in_several_contexts(host):
    """Each chunk is encoded as it would be alone; brackets are literal, and a short text is one chunk."""
    model = host.model()
    words = ["(robot:1.3),", "[blue]"] * 30
    pieces = standalone._chunks(model.pipeline.tokenizer, " ".join(words))
    assert len(pieces) > 2
    assert " ".join(pieces) == " ".join(words)
    tokens = [len(model.pipeline.tokenizer(piece).input_ids) - 2 for piece in pieces]
    assert max(tokens) <= 75
    assert min(tokens[:-1]) > 60
    whole = model.encode_prompt(" ".join(words))["context"]
    assert whole.shape[1] == 77 * len(pieces)
    assert torch.equal(whole[:, 77:154], model.encode_prompt(pieces[1])["context"])
    assert model.encode_prompt("")["context"].shape[1] == 77


def test_a_vae_that_overflows_in_half_precision(host):
    """It runs in fp32: latents are finite, and afterwards the weights have the same bits."""
    model = host.model()
    vae = model.pipeline.vae
    picture = Image.new("RGB", (64, 64), "red")
    expected = model.encode_image(picture)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    encode = type(vae).encode

    def overflowing(self, pixels, **options):
        encoded = encode(self, pixels.to(self.dtype), **options)
        if self.dtype == torch.bfloat16:
            encoded.latent_dist.mean = encoded.latent_dist.mean * float("nan")
        return encoded

    try:
        vae.to(torch.bfloat16)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(vae), "encode", overflowing)
            found = model.encode_image(picture)
        assert vae.dtype == torch.bfloat16
    finally:
        vae.to(torch.float32)
        vae.load_state_dict(before)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)
