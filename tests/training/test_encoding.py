"""How pictures and captions are encoded: another VAE, clip skip, captions of a fixed length, what a checkpoint says."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("diffusers")

from lib_blocktrain.hosts.host import NoModel
from lib_blocktrain.hosts.ldm_export import ldm_state
from lib_blocktrain.hosts.standalone import _tokenizer
from lib_blocktrain.hosts.token_rows import joined_rows, token_rows
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.training.config import LossConfig, RunConfig
from lib_blocktrain.training.config_json import ConfigError, read
from lib_blocktrain.training.step import Objective

WORDS = ("a", "robot,", "1girl", "stands", "!", "on", "the", "very", "green", "(grass:1.2)", "of", "unbelievable")
WORDS = (*WORDS, "antidisestablishmentarianism")
LONG = "a photo of a red robot, " * 30


def test_rows_of_tokens_are_sd_scripts():
    """The digest of what its `_get_input_ids` answered for these texts, tokenizers and lengths."""
    rng = random.Random(2)
    texts = ["", "a robot", *(" ".join(rng.choices(WORDS, k=count)) for count in (60, 140, 30))]
    texts[-1] += " !"
    found = []
    for pad in ("<|endoftext|>", "!"):
        tokenizer = _tokenizer(pad)
        ids = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        for length in (75, 150, 225):
            found += [token_rows(tokenizer(text, verbose=False).input_ids[1:-1], length, *ids) for text in texts]
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:16] == "f1555eec2f3599c8"


def test_rows_are_joined_with_one_beginning_and_one_end():
    states = torch.arange(3 * 77).view(3, 77, 1)
    joined = joined_rows(states).flatten().tolist()
    assert joined == [0, *range(1, 76), *range(78, 153), *range(155, 230), 230]


def test_captions_of_a_fixed_length(model):
    for length in (75, 150, 225):
        contexts = [model.encode_prompt(text, length)["context"] for text in ("a robot", LONG)]
        assert all(context.shape[1] == length + 2 for context in contexts)
    assert model.encode_prompt(LONG)["context"].shape[1] == 77 * 3  # as many chunks as there are
    short = model.encode_prompt("a robot")["context"]
    torch.testing.assert_close(model.encode_prompt("a robot", 75)["context"], short)


def test_clip_skip(model):
    encoder = model.pipeline.text_encoder
    ids = torch.tensor(model.pipeline.tokenizer(["a robot"], padding="max_length").input_ids)
    states = encoder(ids, output_hidden_states=True).hidden_states[-2]
    expected = encoder.text_model.final_layer_norm(states)
    with model.encoding(None, 2):
        torch.testing.assert_close(model.encode_prompt("a robot")["context"], expected)
        torch.testing.assert_close(model.encode_prompt("a robot", 75)["context"], expected)
    assert model.clip_skip == 1
    layers = encoder.config.num_hidden_layers
    with pytest.raises(ValueError, match=f"clip_skip = 12: expected 1 .* to {layers}"), model.encoding(None, 12):
        pass


@pytest.fixture
def vae_file(model, tmp_path):
    """The model's autoencoder with other weights."""
    path = tmp_path / "other.safetensors"
    tensors = {name: value.clone().contiguous() for name, value in model.vae.state_dict().items()}
    tensors["encoder.conv_in.weight"] *= 1.5
    save_file(tensors, path)
    return path


def test_an_external_vae(model, random_model, vae_file, tmp_path):
    image = Image.new("RGB", (64, 64), (200, 30, 90))
    own, before = model.encode_image(image), model.vae
    with model.encoding(str(vae_file), None):
        assert not torch.allclose(model.encode_image(image), own)
    assert model.vae is before
    assert torch.equal(model.encode_image(image), own)
    original = {name: value for name, value in ldm_state(random_model).items() if name.startswith("first_stage_model.")}
    save_file(original, tmp_path / "original.safetensors")
    with model.encoding(str(tmp_path / "original.safetensors"), None):
        torch.testing.assert_close(model.encode_image(image), own)
    save_file({"x": torch.zeros(1)}, tmp_path / "none.safetensors")
    tensors = {**model.vae.state_dict(), "encoder.conv_in.weight": torch.zeros(3)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "shape.safetensors")
    (tmp_path / "text.safetensors").write_text("text", "utf-8")
    for name, said in (
        ("none.safetensors", "expected an autoencoder"),
        ("shape.safetensors", r"encoder.conv_in.weight is \(3,\): expected"),
        ("text.safetensors", "expected a safetensors file"),
        ("vae.pt", "expected a .safetensors file"),
    ):
        with pytest.raises(ValueError, match=said), model.encoding(str(tmp_path / name), None):
            pass


def test_a_run_with_them(train, config, vae_file, model):
    """They reach the cache, whose entries are others, the file's metadata, and end with the run."""
    plain = train(config, "plain")
    config = replace(config, vae=str(vae_file), clip_skip=2, max_tokens=150)
    trainer = train(config, "other")
    batches = [trainer.data.batch(0, trainer.processes) for trainer in (plain, trainer)]
    assert [batch.conditioning["context"].shape[1] for batch in batches] == [77, 152]
    assert not torch.allclose(batches[0].latents, batches[1].latents)
    metadata = read_network(trainer.outcome.result).metadata
    names = ("ss_vae_name", "ss_clip_skip", "ss_max_token_length")
    assert [metadata[name] for name in names] == ["other.safetensors", "2", "150"]
    assert str(vae_file.parent) not in metadata["ss_blocktrain"]
    assert model.clip_skip == 1
    text = replace(config.network, text_encoder=True, weights="BASE=1,OUT11=1")
    trained = train(replace(config, network=text), "text")
    assert trained.data.batch(0, trained.processes).conditioning == {}


def test_zero_terminal_snr_is_the_models(model):
    alphas = model.alphas_cumprod
    marked = Objective(LossConfig(), alphas, "v", zero_terminal_snr=True)
    assert marked.alphas_cumprod[-1] == 0
    assert Objective(LossConfig(zero_terminal_snr=False), alphas, "v", zero_terminal_snr=True).alphas_cumprod[-1] > 0
    assert Objective(LossConfig(), alphas, "v").alphas_cumprod[-1] > 0
    with pytest.raises(ValueError, match="a checkpoint of zero terminal SNR with epsilon prediction"):
        Objective(LossConfig(), alphas, "epsilon", zero_terminal_snr=True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"clip_skip": 0}, "clip_skip = 0: expected 1"),
        ({"clip_skip": 13}, "clip_skip = 13: expected 1"),
        ({"max_token_length": 100}, "max_token_length = 100: expected one of 75, 150, 225"),
        ({"vae": 3}, "vae = 3: expected text"),
        ({"loss": {"zero_terminal_snr": "yes"}}, "loss.zero_terminal_snr = 'yes': expected true or false"),
    ],
)
def test_what_cannot_be(data, said):
    with pytest.raises(ConfigError, match=said):
        read(RunConfig, {"name": "x", "dataset": {"folders": [{"path": "."}]}, **data})


def test_a_missing_vae_is_named(train, config, tmp_path):
    with pytest.raises((OSError, NoModel), match=r"gone\.safetensors"):
        train(replace(config, vae=str(tmp_path / "gone.safetensors")))
