"""A user's room: the LoRAs, runs and pictures of somebody who has used the WebUI for years, made in seconds.

Everything is small but for the number of files; headers, names, sidecars, metrics and captions are as real ones.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

from PIL import Image
from room_loras import TAGS, write_loras

RUNS, LONG_RUN = 30, 6000  # steps of the long one
SIZES = ((512, 512), (768, 512), (512, 768), (1920, 1080), (333, 1024), (64, 64), (1024, 1024), (200, 150))
CAPTIONS = (
    "{}, {}, {}",
    "A photograph of a {} beside a {}, taken in the evening; there is also a {} in the background.",
    "\ufeff{}, {}, {}",  # with a byte order mark
    "{}\u2028{}, {}",  # with a line separator
    "",
)


def make_room(folder: Path, loras: int = 2000, runs: int = RUNS, pictures: int = 200) -> Path:
    """Fill a folder with ``loras``, ``out/runs`` and ``dataset``; return it."""
    write_loras(folder / "loras", loras)
    write_dataset(folder / "dataset" / "10_robot", pictures)
    write_runs(folder / "out" / "runs", folder / "dataset", runs)
    return folder


def write_dataset(folder: Path, count: int = 200, seed: int = 2) -> None:
    """Pictures of mixed sizes and kinds; a tenth has no caption."""
    dice = random.Random(seed)
    folder.mkdir(parents=True)
    made: dict[tuple[tuple[int, int], str], bytes] = {}
    for number in range(count):
        size, kind = dice.choice(SIZES), dice.choice(("png", "jpg", "webp"))
        path = folder / f"{dice.choice(TAGS)} ({number}).{kind}"
        if (size, kind) not in made:
            Image.linear_gradient("L").resize(size).convert("RGB").save(path)
            made[size, kind] = path.read_bytes()
        path.write_bytes(made[size, kind])
        if number % 10:
            caption = dice.choice(CAPTIONS).format(*dice.sample(TAGS, 3))
            path.with_suffix(".txt").write_text(caption, "utf-8")


def write_runs(folder: Path, dataset: Path, count: int = RUNS, seed: int = 3) -> None:
    """Runs that have ended in every way, one of them long, some with names of 100 characters."""
    dice = random.Random(seed)
    picture = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    for number in range(count):
        steps = LONG_RUN if number == 7 else dice.choice((20, 60, 200))
        name = f"run-{number:02}" + ("-" + dice.choice(TAGS).replace(" ", "-")) * dice.choice((1, 1, 1, 6))
        run = folder / f"{name[:100]}-20260{dice.randrange(1, 9)}{dice.randrange(10, 28)}-1200{number:02}"
        (run / "samples").mkdir(parents=True)
        config = {
            "name": name[:100],
            "dataset": {"folders": [{"path": str(dataset)}]},
            "network": {"rank": dice.choice((4, 16)), "weights": dice.choice(("ALL", "OUT06-OUT11=1", "OUT=1,IN=0.3"))},
            "optimizer": {"name": "AdamW", "lr": 0.001},
            "steps": steps,
            "samples": {"prompts": ["a robot", "a robot on green"], "every": steps // 4, "seed": 1},
        }
        (run / "run.json").write_text(json.dumps(config), "utf-8")
        ending = dice.choice(("finished", "finished", "stopped", "failed", "diverged", None))
        done = steps if ending == "finished" else steps * 2 // 3
        rows: list[dict[str, object]] = [{"event": "started", "step": 0}]
        for step in range(1, done + 1):
            rows.append({"step": step, "loss": 0.2 / math.sqrt(step) + 0.02 * dice.random(), "seconds": 0.4 * step})
        rows += [{"event": ending, "step": done}] if ending else []
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        for step in range(0, done + 1, steps // 4):
            for prompt in range(2):
                picture.save(run / "samples" / f"{step:06}-{prompt:02}.png")
