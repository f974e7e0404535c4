"""LoRA folders as users have them: thousands of files of all kinds in folders of folders, with what lies beside them.

The headers are real, complete and of real size; the tensors are a hole at the end of the file, so that nothing is
stored for them.
"""

from __future__ import annotations

import functools
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from lib_blocktrain.blocks import ARCHITECTURES, Architecture

Shapes = dict[str, tuple[int, ...]]
SIZES = {"F16": 2, "BF16": 2, "F32": 4}  # bytes
SUBJECTS = """watercolor landscape,pixel art,cyberpunk alley,knitted toys,oil portrait,マント 騎士,art nouveau poster,
linocut,claymation,ink wash mountains,brutalist concrete,vaporwave sunset,ceramic figurine,фарфор,stained glass,
paper cut-out,retro anime 1990s,macro insect,isometric room,children's book""".replace("\n", "").split(",")
WORDS = """style,concept,character,detail enhancer,slider,lighting,v1.0,v2.3-beta,epoch10,final,final (2),
noob-compatible,IllustriousXL,ponyDiffusion,by_someone,[experimental],50% strength,#3,trained at 768,LoCon dim32,
fp16 pruned,no trigger,e=mc2,more&more,don't overuse""".replace("\n", "").split(",")
TAGS = """1girl,solo,outdoors,robot,simple background,looking at viewer,long hair,sky,tree,monochrome,full body,
cowboy shot,from side,smile,night,city lights,armor,sword,book,cat ears,bokeh,depth of field,masterpiece,best quality,
blue eyes,traditional media,traditional clothes,sitting""".replace("\n", "").split(",")


@dataclass(frozen=True)
class Kind:
    """A kind of file: what share of a folder it has, and how its header is made."""

    title: str
    per_thousand: int
    shapes: Callable[[int], Shapes]
    ranks: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    base: str = ""  # ss_base_model_version


# --- the tensors ------------------------------------------------------------------------------------------------------


def _attention(architecture: Architecture) -> Iterator[tuple[str, int, int, bool]]:
    """kohya's name of each layer that a plain LoRA reaches, its inputs and outputs, whether it is a 1x1 convolution."""
    linear = architecture.id != "sd1"
    for block in architecture.blocks:
        for part in block.parts:
            if part.kind != "attn":
                continue
            path = (part.ldm if architecture.id == "sdxl" else part.diffusers).replace(".", "_")
            wide, context = block.channels, architecture.context_width
            yield f"lora_unet_{path}_proj_in", wide, wide, not linear
            yield f"lora_unet_{path}_proj_out", wide, wide, not linear
            for depth in range(part.depth):
                inner = f"lora_unet_{path}_transformer_blocks_{depth}"
                for name in ("attn1", "attn2"):
                    for to, inputs in (("q", wide), ("k", wide if name == "attn1" else context)):
                        yield f"{inner}_{name}_to_{to}", inputs, wide, False
                    yield f"{inner}_{name}_to_v", wide if name == "attn1" else context, wide, False
                    yield f"{inner}_{name}_to_out_0", wide, wide, False
                yield f"{inner}_ff_net_0_proj", wide, 8 * wide, False
                yield f"{inner}_ff_net_2", 4 * wide, wide, False


def _text_encoder(prefix: str, layers: int, wide: int) -> Iterator[tuple[str, int, int, bool]]:
    for layer in range(layers):
        inner = f"{prefix}_text_model_encoder_layers_{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{inner}_self_attn_{name}", wide, wide, False
        yield f"{inner}_mlp_fc1", wide, 4 * wide, False
        yield f"{inner}_mlp_fc2", 4 * wide, wide, False


def _layers(architecture_id: str, text: bool) -> Iterator[tuple[str, int, int, bool]]:
    yield from _attention(ARCHITECTURES[architecture_id])
    if text and architecture_id == "sdxl":
        yield from _text_encoder("lora_te1", 12, 768)
        yield from _text_encoder("lora_te2", 32, 1280)
    elif text:
        yield from _text_encoder("lora_te", 12, 768)


def _lora(architecture_id: str, text: bool = False, dora: bool = False, convolutions: bool = False) -> Callable:
    def shapes(rank: int) -> Shapes:
        found: Shapes = {}
        for name, inputs, outputs, pointwise in _layers(architecture_id, text):
            found[f"{name}.alpha"] = ()
            found[f"{name}.lora_down.weight"] = (rank, inputs, 1, 1) if pointwise else (rank, inputs)
            found[f"{name}.lora_up.weight"] = (outputs, rank, 1, 1) if pointwise else (outputs, rank)
            if dora:
                found[f"{name}.dora_scale"] = (outputs, 1)
        for block in ARCHITECTURES[architecture_id].blocks if convolutions else ():
            for part in block.parts:
                if part.kind == "res":
                    name = f"lora_unet_{part.diffusers.replace('.', '_')}_conv2"
                    found[f"{name}.alpha"] = ()
                    found[f"{name}.lora_down.weight"] = (rank, block.channels, 3, 3)
                    found[f"{name}.lora_up.weight"] = (block.channels, rank, 1, 1)
        return found

    return shapes


def _peft(rank: int) -> Shapes:
    """SDXL in diffusers' own spelling, without alphas."""
    found: Shapes = {}
    for name, shape in _lora("sdxl")(rank).items():
        if not name.endswith(".alpha"):
            module, _, tensor = name.removeprefix("lora_unet_").partition(".")
            new = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}[tensor]
            found[f"diffusion_model.{module}.{new}"] = shape
    return found


def _loha(rank: int) -> Shapes:
    found: Shapes = {}
    for name, inputs, outputs, _ in _layers("sd1", text=False):
        found[f"{name}.alpha"] = ()
        for part in ("w1", "w2"):
            found[f"{name}.hada_{part}_a"] = (outputs, rank)
            found[f"{name}.hada_{part}_b"] = (rank, inputs)
    return found


def _lokr(rank: int) -> Shapes:
    found: Shapes = {}
    for name, inputs, outputs, _ in _layers("sdxl", text=False):
        found |= {f"{name}.alpha": (), f"{name}.lokr_w1": (8, 8)}
        found[f"{name}.lokr_w2_a"] = (outputs // 8, rank)
        found[f"{name}.lokr_w2_b"] = (rank, inputs // 8)
    return found


def _ia3(rank: int) -> Shapes:
    found: Shapes = {}
    for name, _, outputs, _ in _layers("sd1", text=False):
        if name.endswith(("to_k", "to_v", "ff_net_2")):
            found |= {f"{name}.weight": (outputs,), f"{name}.on_input": ()}
    return found


def _flux(rank: int) -> Shapes:
    """As kohya's sd-scripts writes it, with the CLIP text encoder, whose keys look like SDXL's."""
    found: Shapes = {}
    names = [
        f"double_blocks_{n}_{part}_attn_{layer}"
        for n in range(19)
        for part in ("img", "txt")
        for layer in ("qkv", "proj")
    ]
    names += [f"single_blocks_{n}_linear{layer}" for n in range(38) for layer in (1, 2)]
    names = [f"lora_unet_{name}" for name in names] + [name for name, *_ in _text_encoder("lora_te1", 12, 768)]
    for name in names:
        found[f"{name}.alpha"] = ()
        found[f"{name}.lora_down.weight"] = (rank, 3072)
        found[f"{name}.lora_up.weight"] = (3072, rank)
    return found


def _sd3(rank: int) -> Shapes:
    names = [f"transformer.transformer_blocks.{n}.attn.to_{to}" for n in range(24) for to in ("q", "k", "v", "out.0")]
    return {f"{name}.lora_{side}.weight": (rank, 1536) for name in names for side in "AB"}


KINDS = (
    Kind("SD1 LoRA", 200, _lora("sd1"), base="sd_v1"),
    Kind("SD1 LoRA with text encoder", 150, _lora("sd1", text=True), base="sd_v1"),
    Kind("SD1 LoCon", 50, _lora("sd1", convolutions=True), (8, 16, 32), "sd_v1"),
    Kind("SD1 LoHa", 30, _loha, (4, 8), "sd_v1"),
    Kind("SD1 IA3", 10, _ia3, (1,), "sd_v1"),
    Kind("SDXL LoRA", 120, _lora("sdxl"), (8, 16, 32), "sdxl_base_v1-0"),
    Kind("SDXL LoRA with text encoders", 40, _lora("sdxl", text=True), (8, 16, 32), "sdxl_base_v1-0"),
    Kind("SDXL in PEFT's names", 30, _peft, (16, 32)),
    Kind("SDXL DoRA", 20, _lora("sdxl", dora=True), (16,), "sdxl_base_v1-0"),
    Kind("SDXL LoKr", 30, _lokr, (4, 8), "sdxl_base_v1-0"),
    Kind("Flux LoRA", 200, _flux, (4, 16, 32), "flux1"),
    Kind("SD3 LoRA", 80, _sd3, (16, 64)),
)  # fmt: skip
BROKEN = ("cut", "html", "empty", "pickle", "no network", "two architectures", "damaged entry", "long header")


@functools.cache
def _tensors(title: str, rank: int, dtype: str) -> tuple[str, int]:
    """The entries of a header after its metadata, as JSON without the outer braces, and the bytes of the data."""
    kind = next(kind for kind in KINDS if kind.title == title)
    entries, end = {}, 0
    for name, shape in kind.shapes(rank).items():
        size = SIZES[dtype]
        for side in shape:
            size *= side
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return json.dumps(entries, separators=(",", ":"))[1:-1], end


def _write(path: Path, metadata: dict[str, str], tensors: str, size: int) -> None:
    start = json.dumps({"__metadata__": metadata}, separators=(",", ":"), ensure_ascii=False)[:-1]
    header = f"{start},{tensors}}}".encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


# --- one file and what lies beside it ---------------------------------------------------------------------------------


def _metadata(dice: random.Random, name: str, kind: Kind, rank: int) -> dict[str, str]:
    if kind.title == "SDXL in PEFT's names" or dice.random() < 0.1:
        return {}  # stripped, or never there
    tags = {tag: dice.randrange(1, 90) for tag in dice.sample(TAGS, dice.randrange(4, len(TAGS)))}
    tags |= {f"{dice.choice(TAGS)} {n}": 1 for n in range(dice.choice((0, 0, 10, 300)))}
    found = {
        "ss_output_name": name[:40],
        "ss_sd_model_name": dice.choice(("v1-5-pruned.safetensors", "model.safetensors", "animefull-latest.ckpt")),
        "ss_base_model_version": kind.base,
        "ss_network_module": "networks.lora" if "LoRA" in kind.title else "lycoris.kohya",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank / 2),
        "ss_tag_frequency": json.dumps({"10_x": tags}),
        "ss_bucket_info": json.dumps(
            {"buckets": {str(n): {"resolution": [512, 64 * n], "count": n} for n in range(4, 24)}}
        ),
        "ss_training_started_at": str(1.6e9 + dice.randrange(10**8)),
    }
    if dice.random() < 0.15:
        found["ss_network_args"] = json.dumps({"down_lr_weight": "0,1,1,1,1,1,1,1,1,0,0,0", "up_lr_weight": "sine"})
    if dice.random() < 0.2:
        found["modelspec.trigger_phrase"] = f"{name.split()[0]} {dice.choice(TAGS)}"
    return found


def _sidecar(dice: random.Random, name: str, kind: Kind) -> dict[str, object]:
    version = "SD1" if "SD1" in kind.title else "SDXL" if "SDXL" in kind.title else "Other"
    return {
        "description": f"{name}: {' '.join(dice.choices(TAGS, k=12))}",
        "sd version": version,
        "activation text": ", ".join(dice.sample(TAGS, 3)),
        "preferred weight": dice.choice((0, 0.6, 0.8, 1.0, 1.2)),
        "negative text": dice.choice(("", "lowres, bad hands")),
        "notes": dice.choice(
            ("", "Too strong above 0.8.", "From the forum;\ntwo lines, <b>no markup</b> & an ampersand.")
        ),
        "editor's own key": 1,
    }


def _civitai(dice: random.Random, name: str) -> dict[str, object]:
    words = [", ".join(dice.sample(TAGS, 2))]
    return {"id": dice.randrange(10**6), "name": "v1.0", "trainedWords": words, "model": {"name": name, "type": "LORA"}}


def _name(dice: random.Random, length: int) -> str:
    name = dice.choice(SUBJECTS)
    while len(name) < length:
        name += dice.choice((" ", "_", "-", " - ")) + dice.choice(WORDS)
    return name[:length].rstrip(" .")


@functools.cache
def _pictures() -> tuple[bytes, ...]:
    """Some previews, upright as most are."""
    found = []
    for number in range(24):
        dice = random.Random(number)
        image = Image.new("RGB", (256, 384), tuple(dice.randrange(40, 200) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        for _ in range(9):
            x, y, size = dice.randrange(200), dice.randrange(320), dice.randrange(20, 140)
            colour = tuple(dice.randrange(256) for _ in range(3))
            draw.ellipse((x, y, x + size, y + size), fill=colour)
        data = io.BytesIO()
        image.save(data, ("PNG", "JPEG", "WEBP")[number % 3] if number < 6 else "PNG")
        found.append(data.getvalue())
    return tuple(found)


def _write_broken(dice: random.Random, path: Path, how: str) -> None:
    tensors, size = _tensors("SD1 LoRA", 4, "F16")
    if how == "cut":
        _write(path, {}, tensors, size)
        with open(path, "rb+") as file:
            file.truncate(path.stat().st_size - dice.randrange(1, size))
    elif how == "no network":
        _write(path, {}, '"embedding":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}', 16)
    elif how == "two architectures":
        other, _ = _tensors("SDXL LoRA", 8, "F16")
        _write(path, {}, f"{tensors},{other}", size * 100)
    elif how == "damaged entry":
        _write(path, {}, tensors.replace('"shape":[', '"shape":["x",', 1), size)
    else:
        start = {"html": b"<!DOCTYPE html><title>Log in to download", "empty": b"", "pickle": b"\x80\x02}q\x00"}
        path.write_bytes(start.get(how) or (b"" if how == "empty" else (10**9).to_bytes(8, "little") + b"{}"))


def write_loras(folder: Path, count: int = 2000, seed: int = 1) -> None:
    """Fill a folder; some 4 % of the files are broken, two thirds have a picture, half a description beside them."""
    dice = random.Random(seed)
    folders = [folder]
    for _ in range(max(1, count // 50)):
        parent = dice.choice(folders) if len(folders) > 8 else folder
        if len(parent.relative_to(folder).parts) < 3:
            folders.append(parent / _name(dice, dice.randrange(6, 24)))
    for made in folders:
        made.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"{_name(dice, dice.choice((12, 24, 40, 40, 60, 60, 80, 110)))} {number:04}"
        path = dice.choice(folders) / f"{name}.safetensors"
        kind = dice.choices(KINDS, [kind.per_thousand for kind in KINDS])[0]
        if number % 25 == 24:
            _write_broken(dice, path, BROKEN[number // 25 % len(BROKEN)])
            continue
        rank, dtype = dice.choice(kind.ranks), dice.choices(tuple(SIZES), (6, 3, 1))[0]
        _write(path, _metadata(dice, name, kind, rank), *_tensors(kind.title, rank, dtype))
        if dice.random() < 0.66:
            suffix = dice.choices((".png", ".preview.png", ".jpg", ".webp"), (5, 4, 1, 1))[0]
            path.with_suffix(suffix).write_bytes(dice.choice(_pictures()))
        if dice.random() < 0.5:
            path.with_suffix(".json").write_text(json.dumps(_sidecar(dice, name, kind), ensure_ascii=False), "utf-8")
        if dice.random() < 0.15:
            path.with_suffix(".civitai.info").write_text(json.dumps(_civitai(dice, name), ensure_ascii=False), "utf-8")
