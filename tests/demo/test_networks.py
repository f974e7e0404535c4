"""The demo's plain-torch networks against diffusers and transformers: same state dict, same numbers."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def loaded(random_model):
    from lib_blocktrain.hosts.standalone import load_demo

    return load_demo(random_model).pipeline


@torch.no_grad()
def test_unet(loaded, random_networks):
    latents, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 128)
    timesteps = torch.tensor([3, 987])
    ours = random_networks["unet"](latents, timesteps, context)
    theirs = loaded.unet(latents, timesteps, context, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_vae(loaded, random_networks):
    pictures = torch.rand(1, 3, 64, 64) * 2 - 1
    mean, _ = random_networks["vae"].encode(pictures)
    torch.testing.assert_close(mean, loaded.vae.encode(pictures).latent_dist.mean, atol=2e-5, rtol=1e-4)
    decoded = loaded.vae.decode(mean, return_dict=False)[0]
    torch.testing.assert_close(random_networks["vae"].decode(mean), decoded, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_text_encoder_with_its_compact_token_table(loaded, random_networks, random_model):
    from demo.tokens import Vocabulary

    vocabulary = Vocabulary(random_model / "tokenizer")
    captions = ["a photo of a large robot in the center, blue background", ""]
    ours = random_networks["text"](vocabulary.encode_rows(captions))
    theirs = loaded.text_encoder(vocabulary.encode(captions)).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_tokens_of_every_caption_word(loaded, random_model):
    import random

    from demo.composites import ACCESSORIES, HELD_OUT, HELD_OUT_STYLES, STYLES, SUBJECTS, draw_scene
    from demo.tokens import Vocabulary

    vocabulary, rng = Vocabulary(random_model / "tokenizer"), random.Random(0)
    subjects = [*SUBJECTS, *HELD_OUT, *ACCESSORIES]
    captions = [draw_scene(rng, [s], STYLES + HELD_OUT_STYLES).caption for s in subjects for _ in range(5)]
    theirs = loaded.tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(vocabulary.encode(captions), theirs)
