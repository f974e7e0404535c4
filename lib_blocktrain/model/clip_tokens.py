"""How many tokens a caption has: CLIP's tokenizer in Python, from the merges that this package has.

All Stable Diffusion checkpoints share it, so that no model is needed (openai/CLIP, ``simple_tokenizer.py``).
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from lib_blocktrain.files import DATA

CHUNK = 75  # tokens that a text encoder reads at once, without begin and end
MERGES = DATA / "demo" / "model" / "tokenizer" / "merges.txt"
# As CLIP's, whose \p{L} and \p{N} need another package: letters, single digits, runs of anything else.
_PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


@dataclass(frozen=True)
class Tokens:
    """The number of tokens, and where each chunk of at most `CHUNK` begins, in characters of the text."""

    count: int
    chunks: tuple[int, ...]


class TokenCounter:
    """Counts tokens; the merges are read at the first text."""

    def __init__(self, merges: Path = MERGES):
        self._merges = merges
        self._of_word = functools.lru_cache(maxsize=50_000)(self._pieces)

    def count(self, text: str) -> Tokens | None:
        """The tokens of a text, None where the merges are missing. A piece (a word) is never split over two chunks."""
        count, within, chunks = 0, 0, [0]
        try:
            for found in _PIECE.finditer(text):
                length = self._of_word(found[0].lower())
                if within and within + length > CHUNK:
                    chunks.append(found.start())
                    within = 0
                within += length
                count += length
        except FileNotFoundError:
            return None
        return Tokens(count, tuple(chunks))

    @functools.cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        lines = self._merges.read_text("utf-8").splitlines()[1:]
        pairs = [tuple(line.split()) for line in lines if line]
        return {(pair[0], pair[1]): rank for rank, pair in enumerate(pairs)}

    @functools.cached_property
    def _characters(self) -> dict[int, str]:
        """A printable character for each byte, as GPT-2 has them."""
        printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
        others = [byte for byte in range(256) if byte not in printable]
        return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}

    def _pieces(self, word: str) -> int:
        """The number of tokens of a word: pairs are merged, the most frequent first."""
        parts = [self._characters[byte] for byte in word.encode("utf-8", "replace")]
        parts[-1] += "</w>"
        none = len(self._ranks)
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, none) for pair in itertools.pairwise(parts)]
            best = min(ranks)
            if best == none:
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return len(parts)
