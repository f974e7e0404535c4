"""The model is whole after any sequence of jobs, however each of them ends, and nothing of them is left behind."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.request import AnalysisRequest
from lib_blocktrain.analysis.run import analyse
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.hosts.host import Cancelled, OutOfMemory, SampleRequest
from lib_blocktrain.hosts.standalone import StandaloneHost, load_demo
from lib_blocktrain.networks.bake import bake
from lib_blocktrain.networks.files import Network, write_network
from lib_blocktrain.networks.hooks import applied
from lib_blocktrain.networks.merge import merged
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.training import runs
from lib_blocktrain.training.config import RunConfig
from lib_blocktrain.training.control import TrainerControl, TrainingError
from lib_blocktrain.training.trainer import Trainer
from lib_blocktrain.ui.lora_controls import InitialState, LoraControls
from lib_blocktrain.ui.preview_handlers import PreviewHandlers
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.analyses import run_analysis
from lib_blocktrain.workspace.drawing import PreviewRenderer
from lib_blocktrain.workspace.jobs import Jobs
from lib_blocktrain.workspace.lora_index import LoraIndex
from lib_blocktrain.workspace.preset_store import PresetStore
from tests.fakes import Page
from tests.tiny_models import diffusers_unet, ldm_unet, network_for, predict
from tests.training.test_layouts import Encoding
from tests.trust.faults import Bug, fault
from tests.trust.whole import Held, Whole

EXPECTED = (Bug, Cancelled, OutOfMemory, TrainingError, torch.cuda.OutOfMemoryError)
LAYERS = ("attentions_0_transformer_blocks_0_attn1",)


@dataclass
class Bench:
    """A model with its networks, and what a job needs."""

    model: object
    parts: Mapping[str, nn.Module]
    networks: list[Network]
    config: RunConfig
    folder: Path
    rng: random.Random
    host: StandaloneHost | None = None
    spare: object | None = None
    made: int = 0
    jobs: list[str] = field(default_factory=list)

    def weights(self) -> BlockWeights:
        blocks = BlockWeights.uniform("sd1", 1.0).values
        return BlockWeights("sd1", {block: self.rng.choice([0.0, 0.5, 1.0, -1.0]) for block in blocks})

    def placements(self) -> list[Placement]:
        chosen = self.rng.sample(self.networks, self.rng.randint(0, len(self.networks)))
        return [Placement(network, self.weights(), self.rng.choice([0.0, 1.0, 0.7])) for network in chosen]


def preview(bench: Bench) -> None:
    """A picture by the host's sampler, cancelled now and then."""
    steps, cancel = 2, bench.rng.random() < 0.3

    def progress(done: int, of: int) -> None:
        if cancel:
            raise Cancelled

    seed, sampler = bench.rng.randrange(9), bench.rng.choice(bench.host.samplers)
    request = SampleRequest("a fox", seed=seed, steps=steps, sampler=sampler, width=64, height=64)
    with bench.host.queued():
        bench.host.sample(replace(request, placements=bench.placements()), progress)


def hooks(bench: Bench) -> None:
    placements = bench.placements()
    with torch.no_grad(), applied(bench.model.unet, placements) as handle:
        predict(bench.model.unet)
        handle.placements = [replace(placement, weights=bench.weights()) for placement in placements]
        predict(bench.model.unet)


def folding(bench: Bench) -> None:
    """Weights rest for two calls, change, and rest again."""
    placements = bench.placements()
    with torch.no_grad(), applied(bench.model.unet, placements, fold=True) as handle:
        predict(bench.model.unet), predict(bench.model.unet)
        handle.placements = [replace(placement, weights=bench.weights()) for placement in placements]
        predict(bench.model.unet), predict(bench.model.unet)


def merging(bench: Bench) -> None:
    with torch.no_grad(), merged(bench.model.unet, bench.placements()):
        predict(bench.model.unet)


def baking(bench: Bench) -> None:
    bench.made += 1
    network, path = bench.rng.choice(bench.networks), bench.folder / f"baked-{bench.made}.safetensors"
    try:
        bake(network, bench.weights(), path, base=bench.model.unet)
    except ValueError as error:
        if "no module is left" not in str(error):
            raise
    path.unlink(missing_ok=True)


def training(bench: Bench) -> None:
    """A run of a step or two that is stopped, samples, diverges or ends; then it may be resumed."""
    bench.made += 1
    run = runs.create(bench.config, bench.folder / "runs" / f"run-{bench.made}")
    for _ in range(bench.rng.randint(1, 2)):
        control, when = TrainerControl(), bench.rng.choice(["encoded", "loss", "event", "never"])

        def report(row, control=control, when=when):
            if when in row:
                control.stop(save=bench.rng.random() < 0.7)

        def draw(asked):
            return bench.host.sample(SampleRequest(asked.prompt, seed=asked.seed, steps=1, width=64, height=64))

        draws = draw if bench.host and bench.rng.random() < 0.5 else None
        Trainer(bench.model, run, control=control, draw=draws, report=report).run_loop()


def analysis(bench: Bench) -> None:
    """By any method that looks at the U-Net, at a word or the whole picture; interrupted now and then."""
    stop = bench.rng.choice([None, None, 1, 3])

    def progress(done: int, of: int) -> None:
        if stop is not None and done >= stop:
            raise Cancelled

    method, feature = bench.rng.choice(["exact", "fast", "one-only"]), Feature()
    grid = SamplingGrid(
        ("a fox",), seeds=(bench.rng.randrange(9),), steps=2, timesteps=1, guidance=1, width=64, height=64
    )
    if bench.host is None:
        analyse(bench.model, bench.rng.choice(bench.networks), grid, method, progress=progress)
        return
    if bench.rng.random() < 0.3:
        feature = Feature(word="fox")
    request = AnalysisRequest(bench.rng.choice(bench.networks), grid, method, (feature,))
    with bench.host.queued():
        run_analysis(bench.host, request, progress)


def reload(bench: Bench) -> None:
    """A page is closed in the midst of a drawing, and opened again."""
    host = bench.host
    lora_index, jobs = LoraIndex(lambda: host.lora_dirs), Jobs(host)
    controls = LoraControls(host, lora_index, PresetStore(lambda: host.presets_path), InitialState(lora="one"))
    try:
        for _ in range(2):
            page = Page()
            page.take(controls.open(page.values))
            page.take(controls.show_model(page.values))
            page.take(controls.follow_model(page.values))
        drawing = PreviewHandlers(host, controls, PreviewRenderer(host, lora_index), jobs).compare(
            {**page.values, "width": 64, "height": 64}
        )
        for _ in range(bench.rng.randint(1, 9)):
            page.take(next(drawing, {}))
        drawing.close()
    finally:
        jobs.close()


def other_checkpoint(bench: Bench) -> None:
    """The host changes to the other model; both stay what they were."""
    bench.model, bench.spare = bench.spare, bench.model
    bench.host.use(bench.model)


STANDALONE = {
    "preview": preview,
    "analyse": analysis,
    "train": training,
    "bake": baking,
    "reload": reload,
    "other checkpoint": other_checkpoint,
}
LAYOUTS = {"hooks": hooks, "fold": folding, "merge": merging, "analyse": analysis, "bake": baking, "train": training}


@pytest.fixture
def small(config) -> RunConfig:
    samples = replace(config.samples, prompts=("a fox",), every=1)
    return replace(config, steps=2, batch=1, samples=samples, save_every=1)


@pytest.fixture
def standalone(random_model, small, tmp_path) -> Bench:
    first = load_demo(random_model)
    second = replace(first, pipeline=copy.deepcopy(first.pipeline), name="another")
    host = StandaloneHost(output_dir=tmp_path / "out")
    host.use(first)
    networks = [network_for(first.unet, kind, layers=LAYERS) for kind in ("lora", "dora on output", "loha")]
    write_network(host.lora_dirs[0] / "one.safetensors", networks[0])
    parts = {
        f"{model.name} {name}": part
        for model in (first, second)
        for name, part in {"unet": model.unet, "vae": model.pipeline.vae, **model.text_encoders}.items()
    }
    return Bench(first, parts, networks, small, tmp_path, random.Random(0), host, second)


class Tiny(Encoding):
    """A model of a few channels, with all that an analysis says of it."""

    name = "tiny"


def tiny(unet: nn.Module, small: RunConfig, folder: Path) -> Bench:
    networks = [network_for(unet, kind, layers=LAYERS) for kind in ("lora", "lokr whole", "oft")]
    return Bench(Tiny(unet, "sd1"), {"unet": unet}, networks, small, folder, random.Random(1))


def live(bench: Bench, jobs: Mapping[str, Callable[[Bench], None]], rounds: int, tally) -> None:
    """Do jobs at random, with faults at random; after each of them everything is what it was."""
    whole = Whole(bench.parts, schedulers(bench))
    for job in jobs.values():  # once without faults: what is made on first use stays, and is counted before
        with suppress(Cancelled):
            job(bench)
    whole.check()
    before = Held.now()
    for number in range(rounds):
        name = bench.rng.choice(list(jobs))
        with tally.case(f"jobs on a model ({type(bench.model.unet).__name__})") as case:
            with fault(bench.rng, bench.parts) as kind:
                try:
                    jobs[name](bench)
                except EXPECTED:
                    case.fault = True
            bench.jobs.append(f"{name}, {kind}")
            try:
                whole.check()
            except AssertionError as error:
                raise AssertionError(f"round {number}, after {bench.jobs[-3:]}: {error}") from error
    held = Held.now()
    held.check(before)
    tally.measured.append(
        f"{rounds} jobs on a {type(bench.model.unet).__name__}: {held.tensors - before.tensors:+d} tensors,"
        f" {held.bytes - before.bytes:+d} bytes, {held.threads - before.threads:+d} threads,"
        f" {held.files - before.files:+d} file handles"
    )


def schedulers(bench: Bench) -> Callable[[], object]:
    """What tells the schedulers of the bench's pipelines, which previews exchange for a while."""
    found = [model.pipeline for model in (bench.model, bench.spare) if hasattr(model, "pipeline")]
    return lambda: [(id(p.scheduler), dict(p.scheduler.config), set(vars(p.scheduler))) for p in found]


def test_standalone(standalone, tally):
    live(standalone, STANDALONE, tally.scale.rounds, tally)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_layouts(layout, small, tmp_path, tally):
    unet = diffusers_unet()
    unet = ldm_unet(like=unet) if layout == "ldm" else unet
    live(tiny(unet, small, tmp_path), LAYOUTS, tally.scale.rounds, tally)


def test_a_model_that_was_let_go_is_gone(random_model, small, tmp_path, tally):
    """After a preview and a run, nothing of ours keeps the old checkpoint in memory when the host changes it."""
    model = load_demo(random_model)
    host = StandaloneHost(output_dir=tmp_path)
    host.use(model)
    networks = [network_for(model.unet, layers=LAYERS)]
    bench = Bench(model, {}, networks, small, tmp_path, random.Random(2), host)
    with tally.case("change of checkpoint"):
        preview(bench)
        training(bench)
        gone = weakref.ref(model.unet)
        host.use(None)
        del model, bench
        gc.collect()
        assert gone() is None
