"""How the parts that the demo model's files leave out are restored."""

from lib_blocktrain.hosts.demo_model import MODEL, clip_vocabulary


def test_vocabulary_is_clips_own():
    """Ids from openai/clip-vit-large-patch14: "a photo of a cat", start and end."""
    ids = clip_vocabulary(MODEL / "tokenizer" / "merges.txt")
    assert len(ids) == 49408
    assert [ids[f"{word}</w>"] for word in ("a", "photo", "of", "cat")] == [320, 1125, 539, 2368]
    assert (ids["<|startoftext|>"], ids["<|endoftext|>"]) == (49406, 49407)
