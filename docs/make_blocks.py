"""Write docs/blocks.md from the tables of blocks.py: `python docs/make_blocks.py`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lib_blocktrain.blocks import ARCHITECTURES, Architecture, Block  # noqa: E402

HEAD = """\
# The blocks

Written by `python docs/make_blocks.py` from the tables of `lib_blocktrain/blocks.py`; the tests hold both equal, and
hold the tables to the real U-Nets.

A block is one entry of LDM's `input_blocks`, `middle_block` and `output_blocks`. What lies outside them (time and label
embedding, output layers) is `REST`; the text encoders are `BASE`.

- **latent**: the side of the feature maps in cells at the native size, from what comes in to what goes out.
- **channels**: what comes in (with what the skip connection brings) and what goes out.
- **skip**: the block at the other end of the skip connection.
- **LoRA**, **LoCon**: how many modules each has in this block; a plain LoRA reaches attention only, LoCon the
  convolutions too. A block with none can act through its skip partner only.
- **cost**: share of one call of the U-Net, in FLOP at the native size.

Keys of network files are these names with underscores. SD1 and SD2 files use diffusers' names
(`lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight` is in IN04), SDXL files LDM's
(`lora_unet_input_blocks_4_1_proj_in.lora_down.weight`).
"""
COLUMNS = "| block | LDM | diffusers | parts | latent | channels | skip | LoRA | LoCon | cost % |"
RULE = "|---|---|---|---|---|---|---|--:|--:|--:|"


def table() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(section(architecture) for architecture in ARCHITECTURES.values())])


def section(architecture: Architecture) -> str:
    lora = sum(block.lora_modules for block in architecture.blocks)
    locon = sum(block.locon_modules for block in architecture.blocks)
    size = architecture.native_size
    about = (
        f"{len(architecture.blocks)} blocks, native size {size} px (latent {size // 8}), text context "
        f"{architecture.context_width} wide, {lora} LoRA and {locon} LoCon modules."
    )
    rows = [row(block, size // 8) for block in architecture.blocks]
    rest = ", ".join(f"`{ldm}` = `{diffusers}`" for ldm, diffusers in architecture.rest_layers)
    return "\n".join([f"## {architecture.title}", "", about, "", COLUMNS, RULE, *rows, "", f"REST: {rest}.", ""])


def row(block: Block, side: int) -> str:
    names = "<br>".join(f"`{name}`" for name in block.diffusers)
    parts = ", ".join(f"{part.kind} ×{part.depth}" if part.depth > 1 else part.kind for part in block.parts)
    cells = f"{side // block.resolution_in} → {side // block.resolution_out}"
    latent = cells if block.resolution_in != block.resolution_out else cells.partition(" ")[0]
    channels = f"{block.channels_in} → {block.channels}"
    counts = f"{block.lora_modules or ''} | {block.locon_modules or ''} | {block.forward_share:.2f}"
    return f"| {block.id} | `{block.ldm}` | {names} | {parts} | {latent} | {channels} | {block.skip or ''} | {counts} |"


if __name__ == "__main__":
    (ROOT / "docs" / "blocks.md").write_text(table(), encoding="utf-8")
