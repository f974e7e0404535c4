"""Write docs/blocks.md from the tables of blocks.py: `python docs/make_blocks.py`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib_blocktrain.blocks import ARCHITECTURES, Architecture, Block, spans  # noqa: E402
from lib_blocktrain.ui.u_map_facts import BELIEFS  # noqa: E402
from lib_blocktrain.weights.presets import GRADES  # noqa: E402

HEAD = """\
# The blocks

What are the 25 blocks, what is in each, and what do they do? This page is written by `python docs/make_blocks.py`, from
the tables of `lib_blocktrain/blocks.py` and `lib_blocktrain/ui/u_map_facts.py`. The tests compare the page with the
tables, and the tables with the real U-Nets.

## The U-Net, in a page

Stable Diffusion begins with noise, and removes some of it in each step. The U-Net tells it how much, and where: it gets
the noisy picture, the step and the prompt, and predicts the noise. It works on *latents*, in which a cell represents 8
by 8 pixels. On the way down the grid gets coarser three times (SDXL: twice) and has more channels, so that each cell
sees more of the picture. On the way up the grid gets fine again. These are the 25 blocks of SD1 at 512 pixels, each row
one grid:

```text
      noise                                                   the noise in it
        ↓                                                            ↑
  64×64 IN00  IN01  IN02  ─────────────────────────▸ OUT09  OUT10  OUT11
  32×32    IN03  IN04  IN05  ───────────────▸ OUT06  OUT07  OUT08
  16×16       IN06  IN07  IN08  ─────▸ OUT03  OUT04  OUT05
    8×8          IN09  IN10  IN11 ▸ OUT00  OUT01  OUT02
    8×8                         M00
```

The arrows are *skip connections*. The output of IN02 goes to OUT09 unchanged, beside what comes up from below; that of
IN01 goes to OUT10, that of IN00 to OUT11, and so on in each row, from the inside outwards. So fine detail need not pass
through the bottom, and a block of the IN side acts on the picture in two ways: through all blocks that follow, and
directly on its partner.

A block consists of these parts:

- **res**: two 3x3 convolutions, which look at a cell and its neighbours. The number of the step is added between them.
- **attn**: attention. In `attn1` (self-attention) every cell looks at every other, in `attn2` (cross-attention) at the
  words of the prompt. `ff` works on each cell alone; `proj_in` and `proj_out` lead in and out. In SDXL one block has up
  to ten such layers (×10).
- **down**, **up**: a convolution that halves or doubles the side of the grid.

A LoRA adds a small pair of matrices to a layer. A plain LoRA has them in attention only: 12 pairs in each block of SD1
that has attention (`proj_in`, `proj_out`, four each in `attn1` and `attn2`, two in `ff`). LoCon, also called C3Lier or
LyCORIS, adds them to convolutions too. The *block weight* multiplies what all pairs of one block add.

A block can place a feature that is smaller than its cells, but cannot draw it. So the blocks that matter for a feature
depend on its share of the canvas, and weights found for a portrait need not hold for a figure in a landscape. The
analysis says that share, and presets can carry it (`canvas=`). One also expects coarse blocks to decide where things
are and of what kind, and fine blocks how they look. It need not be so: in the [worked example](worked-example.md) the
fine blocks make the subject. It differs by model and by LoRA, so [look for yourself](analysis.md).

## The tables

A block is one entry of LDM's `input_blocks`, `middle_block` or `output_blocks`. Layers outside them (time and label
embedding, output layers) are `REST`; the text encoders are `BASE`.

- **latent**: the side of the feature maps in cells, at the native size, from input to output.
- **channels**: of the input (with those of the skip connection) and of the output.
- **skip**: the block at the other end of the skip connection.
- **LoRA**, **LoCon**: how many modules each has in this block. A plain LoRA reaches attention only, LoCon the
  convolutions too. Where there are none, a weight has no effect.
- **cost**: the block's share of one call of the U-Net, in FLOP at the native size.

Keys of network files are these names with underscores instead of dots. SD1 and SD2 files use diffusers' names
(`lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight` is in IN04), SDXL files LDM's
(`lora_unet_input_blocks_4_1_proj_in.lora_down.weight`). A module has `lora_down.weight` of shape [rank, in], or [rank,
in, height, width] for a convolution, `lora_up.weight` of [out, rank], or [out, rank, 1, 1] for a convolution, and
`alpha`, a number. It adds up · down · alpha / rank to the layer's weight.

What is *said* of the blocks is listed under each table with its grade: {grades}.
P+ and InstantStyle looked at prompts, not at LoRAs, and each paper looked at its own model. Take it as a place to
begin, not as what will happen. On SDXL three papers agree that OUT01 is style and colour, and two that layout is in
IN08. They contradict each other on OUT00. B-LoRA, which trains LoRAs there, calls it content and layout. The study by
sparse autoencoders, which looks at what features in the blocks of SDXL Turbo do, finds local detail there, and
composition in IN08.
"""
BELIEF_COLUMNS = "| blocks | said to carry | grade | source |\n|---|---|---|---|"
COLUMNS = "| block | LDM | diffusers | parts | latent | channels | skip | LoRA | LoCon | cost % |"
RULE = "|---|---|---|---|---|---|---|--:|--:|--:|"


def table() -> str:
    """Return the whole page."""
    grades = ", ".join(f"{grade} is {meaning}" for grade, meaning in GRADES.items() if grade != "-")
    return "\n".join([HEAD.format(grades=grades), *(section(architecture) for architecture in ARCHITECTURES.values())])


def section(architecture: Architecture) -> str:
    """Return one architecture's table, with what is believed of its blocks."""
    lora = sum(block.lora_modules for block in architecture.blocks)
    locon = sum(block.locon_modules for block in architecture.blocks)
    size = architecture.native_size
    about = (
        f"{len(architecture.blocks)} blocks, native size {size} px (latent {size // 8}), text context "
        f"{architecture.context_width} wide, {lora} LoRA and {locon} LoCon modules."
    )
    rows = [row(block, size // 8) for block in architecture.blocks]
    rest = ", ".join(f"`{ldm}` = `{diffusers}`" for ldm, diffusers in architecture.rest_layers)
    lines = [f"## {architecture.title}", "", about, "", COLUMNS, RULE, *rows]
    return "\n".join([*lines, "", f"REST: {rest}.", "", believed(architecture), ""])


def believed(architecture: Architecture) -> str:
    """Return what is believed of this architecture's blocks, and of which nothing is."""
    found = sorted((b for b in BELIEFS if architecture.id in b.architectures), key=lambda belief: belief.grade)
    rows = [f"| {spans(b.blocks, architecture.block_ids)} | {b.carries} | {b.grade} | {b.source} |" for b in found]
    covered = {block_id for belief in found for block_id in belief.blocks}
    others = [block_id for block_id in architecture.block_ids if block_id not in covered]
    return "\n".join(
        [BELIEF_COLUMNS, *rows, "", f"Nothing that can be cited is said of {spans(others, architecture.block_ids)}."]
    )


def row(block: Block, side: int) -> str:
    """Return a block's row; `side` is the latent's at the native size, in cells."""
    names = "<br>".join(f"`{name}`" for name in block.diffusers)
    parts = ", ".join(f"{part.kind} ×{part.depth}" if part.depth > 1 else part.kind for part in block.parts)
    cells = f"{side // block.resolution_in} → {side // block.resolution_out}"
    latent = cells if block.resolution_in != block.resolution_out else cells.partition(" ")[0]
    channels = f"{block.channels_in} → {block.channels}"
    counts = f"{block.lora_modules or ''} | {block.locon_modules or ''} | {block.forward_share:.2f}"
    return f"| {block.id} | `{block.ldm}` | {names} | {parts} | {latent} | {channels} | {block.skip or ''} | {counts} |"


if __name__ == "__main__":
    (ROOT / "docs" / "blocks.md").write_text(table(), encoding="utf-8")
