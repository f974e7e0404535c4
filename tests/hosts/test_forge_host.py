"""Which checkpoint Forge's host returns: the one chosen in the page, unless the queue is held."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lib_blocktrain.analysis.regions import Feature
from lib_blocktrain.analysis.request import AnalysisRequest
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.solve_result import SolveRequest
from lib_blocktrain.hosts.host import Cancelled, NoModel, OutOfMemory, SampleRequest
from lib_blocktrain.networks.files import Network
from lib_blocktrain.networks.placement import Placement
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace.analyses import run_analysis, run_collide, run_solve
from lib_blocktrain.workspace.set_jobs import find_mask
from tests import lacking
from tests.hosts import forge_backend
from tests.hosts.fake_webui import module
from tests.tiny_models import network_for


class Lock:
    """As `modules.fifo_lock.FIFOLock`: not re-entrant."""

    def __init__(self):
        self._lock = threading.Lock()

    def acquire(self, blocking=True):
        return self._lock.acquire(blocking)

    def release(self):
        self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_):
        self.release()


@pytest.fixture
def forge(monkeypatch):
    """A process in which "first" is chosen and no checkpoint is loaded yet."""
    with forge_backend.process(monkeypatch) as found:
        data = SimpleNamespace(
            sd_model=SimpleNamespace(), forge_hash="", forge_loading_parameters={"checkpoint": "first"}
        )
        found.data, found.reads = data, []

        def forge_model_reload():
            parameters = str(data.forge_loading_parameters)
            if data.forge_hash == parameters:
                return data.sd_model, False
            if "broken" in parameters:
                raise ValueError("Failed to recognize model type!")
            found.reads.append(data.forge_loading_parameters["checkpoint"])
            data.sd_model, data.forge_hash = forge_backend.sd_model(), parameters
            return data.sd_model, True

        state = SimpleNamespace(begin=lambda job: None, end=lambda: None, interrupted=False, skipped=False)
        contents = {
            "call_queue": {"queue_lock": Lock()},
            "sd_models": {"model_data": data, "forge_model_reload": forge_model_reload},
            "sd_samplers": {},
            "ui_extra_networks": {},
            "paths": {"data_path": "."},
            "processing": {"StableDiffusionProcessingTxt2Img": None, "process_images": None},
        }
        for name, attributes in contents.items():
            content = module(f"modules.{name}", **attributes)
            monkeypatch.setitem(sys.modules, content.__name__, content)
            setattr(sys.modules["modules"], name, content)
        found.shared.state = state
        from lib_blocktrain.hosts.forge.host import ForgeHost

        found.host, found.lock = ForgeHost(), contents["call_queue"]["queue_lock"]
        yield found


def test_reads_what_is_chosen_once(forge):
    first = forge.host.model()
    with forge.host.queued():
        assert forge.host.model() is first
    assert forge.reads == ["first"]
    forge.data.forge_loading_parameters = {"checkpoint": "second"}
    assert forge.host.model() is not first
    assert forge.reads == ["first", "second"]


def test_the_checkpoint_that_draws_stays(forge):
    """A refiner's, and hires fix's own, is another than the chosen one, which `load` put back in mid-picture."""
    from lib_blocktrain.hosts.forge import INTEGRATION
    from lib_blocktrain.hosts.neo import INTEGRATION as NEO

    forge.host.model()
    forge.data.forge_loading_parameters = {"checkpoint": "refiner"}
    forge.host.model()
    drawing = forge.data.sd_model
    forge.data.forge_loading_parameters = {"checkpoint": "first"}
    INTEGRATION.has_block_weight_script = NEO.has_block_weight_script = lambda: False
    try:
        for integration in (INTEGRATION, NEO):
            assert integration.drawing_context().architecture == "sd1"
            assert forge.data.sd_model is drawing
        assert INTEGRATION.tag_context().architecture == "sd1"  # before a picture: the chosen one
        assert forge.data.sd_model is not drawing
    finally:
        del INTEGRATION.has_block_weight_script, NEO.has_block_weight_script
    assert forge.reads == ["first", "refiner", "first"]


def test_a_checkpoint_that_forge_frees_is_not_kept(forge):
    """With the model kept on the host, two of them were in memory while Forge read the second."""
    gone = weakref.ref(forge.host.model())
    forge.data.sd_model, forge.data.forge_hash = None, ""
    gc.collect()
    assert gone() is None


def test_a_replaced_lora_is_read_again(forge, monkeypatch):
    """Forge knows a LoRA by its name and strength, and its file by its path."""
    cleared = []
    networks = module("networks", list_available_networks=list, load_lora_state_dict=lambda path: None)
    networks.load_lora_state_dict.cache_clear = lambda: cleared.append(True)
    monkeypatch.setitem(sys.modules, "networks", networks)
    forge.host.model()
    forge.data.sd_model.current_lora_hash = "[('robot', 1.0)]"
    forge.host.refresh_loras()
    assert (forge.data.sd_model.current_lora_hash, cleared) == ("", [True])


def test_two_requests_of_a_page_that_opens_get_the_same_model(forge, monkeypatch):
    """The second came while the first read the checkpoint, got none, and the page stayed at “No model”."""
    reading, may_end, found = threading.Event(), threading.Event(), []
    read = sys.modules["modules.sd_models"].forge_model_reload

    def slowly():
        reading.set()
        assert may_end.wait(20)
        return read()

    monkeypatch.setattr(sys.modules["modules.sd_models"], "forge_model_reload", slowly)
    threads = [threading.Thread(target=lambda: found.append(forge.host.model())) for _ in range(2)]
    threads[0].start()
    assert reading.wait(20)
    threads[1].start()
    threads[1].join(0.2)  # it waits; before, it ended here without a model
    may_end.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert found[0] is found[1]


def test_others_at_work_are_not_waited_for(forge):
    with forge.lock, pytest.raises(NoModel, match="no checkpoint is loaded"):
        forge.host.model()
    first = forge.host.model()
    forge.data.forge_loading_parameters = {"checkpoint": "second"}
    with forge.lock:
        assert forge.host.model() is first
    assert forge.reads == ["first"]


def test_a_picture_of_a_run_changes_no_checkpoint(forge):
    """Another one was chosen meanwhile: Forge would load it for the sample, in the middle of training."""
    with forge.host.queued():
        model = forge.host.model()
        with model.trainable():
            forge.data.forge_loading_parameters = {"checkpoint": "second"}
            with model.sampling():
                assert sys.modules["modules.sd_models"].forge_model_reload() == (model.sd_model, False)
                assert all(parameter.is_inference() for parameter in model.unet.parameters())
            assert not any(parameter.is_inference() for parameter in model.unet.parameters())
        assert forge.data.forge_hash == str({"checkpoint": "first"})
        assert forge.host.model() is not model


@pytest.mark.parametrize(("architecture", "side"), [("sd1", 512), ("sdxl", 1024)])
def test_a_picture_without_a_size_has_the_models_own(forge, monkeypatch, architecture, side):
    from lib_blocktrain.hosts.webui import host as webui

    drawn = []
    monkeypatch.setattr(webui, "StableDiffusionProcessingTxt2Img", lambda **p: SimpleNamespace(**p, close=list))
    monkeypatch.setattr(webui, "process_images", lambda p: drawn.append(p) or SimpleNamespace(images=[p]))
    forge.shared.state.stopping_generation = False
    model = forge.host.model()
    model.architecture, model.sd_model.sd_checkpoint_info.title = architecture, "first"
    with forge.host.queued():
        forge.host.sample(SampleRequest("a fox", width=640))
    assert [(p.width, p.height) for p in drawn] == [(640, side)]


@pytest.mark.parametrize("lack", lacking.ERRORS)
def test_a_lack_of_memory_is_said_as_one(forge, monkeypatch, lack):
    from lib_blocktrain.hosts.webui import host as webui

    monkeypatch.setattr(webui, "StableDiffusionProcessingTxt2Img", lambda **p: SimpleNamespace(**p, close=list))
    monkeypatch.setattr(webui, "process_images", lambda p: lack())
    forge.host.model().sd_model.sd_checkpoint_info.title = "first"
    with forge.host.queued(), pytest.raises(OutOfMemory, match=r"too little memory.*64x512"):
        forge.host.sample(SampleRequest("a fox", width=64))


def test_another_error_of_the_sampler_is_not_called_a_lack_of_memory(forge, monkeypatch):
    from lib_blocktrain.hosts.webui import host as webui

    def fails(p):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(webui, "StableDiffusionProcessingTxt2Img", lambda **p: SimpleNamespace(**p, close=list))
    monkeypatch.setattr(webui, "process_images", fails)
    forge.host.model().sd_model.sd_checkpoint_info.title = "first"
    with forge.host.queued(), pytest.raises(RuntimeError, match="mat1"):
        forge.host.sample(SampleRequest("a fox"))


@pytest.mark.parametrize("pressed", ["interrupted", "skipped", "stopping_generation"])
def test_what_was_drawn_so_far_is_no_picture(forge, monkeypatch, pressed):
    """And a picture leaves params.txt as it was, from which the WebUI brings back the user's last settings."""
    from lib_blocktrain.hosts.webui import host as webui

    seen = []

    def process_images(p):
        seen.append(forge.shared.cmd_opts.no_prompt_history)
        setattr(forge.shared.state, pressed, len(seen) == 1)
        return SimpleNamespace(images=["picture"])

    monkeypatch.setattr(webui, "StableDiffusionProcessingTxt2Img", lambda **p: SimpleNamespace(**p, close=list))
    monkeypatch.setattr(webui, "process_images", process_images)
    forge.shared.cmd_opts.no_prompt_history = False
    forge.host.model().sd_model.sd_checkpoint_info.title = "first"
    with forge.host.queued(), pytest.raises(Cancelled, match="Interrupt or Skip was pressed"):
        forge.host.sample(SampleRequest("a fox"))
    with forge.host.queued():
        assert forge.host.sample(SampleRequest("a fox")) == "picture"
    assert (seen, forge.shared.cmd_opts.no_prompt_history) == ([True, True], False)


def test_a_checkpoint_that_cannot_be_read(forge):
    forge.data.forge_loading_parameters = {"checkpoint": "broken"}
    with pytest.raises(NoModel, match="cannot load the checkpoint: Failed to recognize"):
        forge.host.model()
    assert forge.lock.acquire(blocking=False)


@pytest.fixture(params=["reForge", "Forge Classic"])
def patched(forge, monkeypatch, request):
    """The integration in a process with `ldm_patched`, whose patcher tells which of the two it is."""
    from lib_blocktrain.hosts.reforge import ReForge

    patcher = type("ModelPatcher", (), {"partially_load": None} if request.param == "reForge" else {})
    name = "ldm_patched.modules.model_patcher"
    for parent in ("ldm_patched", "ldm_patched.modules"):
        monkeypatch.setitem(sys.modules, parent, module(parent))
    monkeypatch.setitem(sys.modules, name, module(name, ModelPatcher=patcher))
    integration = ReForge()
    monkeypatch.setattr(integration, "has_block_weight_script", lambda: False)
    forge.shared.sd_model = forge_backend.sd_model()
    return SimpleNamespace(integration=integration, name=request.param, sd_model=forge.shared.sd_model, forge=forge)


def test_forks_that_can_be_drawn_with_only(patched):
    """Tags have their architecture; what needs the weights themselves says which WebUI refuses it, and what to do."""
    integration, host = patched.integration, patched.integration.make_host()
    model = host.model()
    assert (host.name, model.architecture, model.native_size) == (patched.name, "sd1", 512)
    assert integration.tag_context().architecture == "sd1"
    assert integration.lora.__name__ == "lib_blocktrain.hosts.neo.lora"
    asked = (torch.zeros(1, 4, 8, 8), torch.tensor([1]), {})
    for refused in (
        lambda: model.trainable(),
        lambda: model.predict(*asked),
        lambda: model.enter_blocks(*asked),
        lambda: model.encode_prompt("a fox"),
        lambda: model.text_encoders,
        lambda: model.vae,
        lambda: model.alphas_cumprod,
    ):
        with pytest.raises(NoModel) as said:
            refused()
        assert str(said.value) == host.no_training
        assert str(said.value).startswith(f"{patched.name} cannot train here")
    patched.sd_model.is_sd1, patched.sd_model.is_sd3 = False, True
    assert "is a checkpoint of Stable Diffusion 3" in integration.tag_context().unsupported


REGIONS = {"whole": Feature(), "box": Feature(box=(0, 0, 0.5, 1)), "mask": Feature(mask=Image.new("L", (8, 8), 255))}


@pytest.mark.parametrize("kind", REGIONS)
def test_rendered_is_analysed_by_their_pictures_alone(patched, monkeypatch, kind):
    """The model is asked for nothing that it refuses; a box halves what counts."""
    host, asked = patched.integration.make_host(), []

    def sample(request, progress=None):
        asked.append(request)
        lost = sum(1 - value for value in request.placements[0].weights.values.values())
        return Image.new("RGB", (64, 64), (int(100 * lost), 0, 0))

    monkeypatch.setattr(host, "sample", sample)
    monkeypatch.setattr(type(host), "samplers", ("Euler",))
    grid = SamplingGrid(("a fox",), seeds=(4,), width=64, height=64)
    (analysis,) = run_analysis(host, AnalysisRequest(_network(patched), grid, "rendered", (REGIONS[kind],))).analyses
    assert len(asked) == len(analysis.blocks) + 1
    assert analysis.area_share == {"whole": None, "box": 0.5, "mask": 1.0}[kind]
    assert all(value > 0 for row in analysis.values for value in row)


def test_what_their_models_cannot_be_asked_for_says_what_can(patched):
    """For a word, a search, effects and a mask from a word: what to use in this WebUI, and which others to use."""
    host, network = patched.integration.make_host(), _network(patched)
    grid, word = SamplingGrid(("a fox",), seeds=(4,), width=64, height=64), Feature(word="fox")
    rendered = AnalysisRequest(network, grid, "rendered", (word,))
    for refused, instead in (
        (lambda: run_analysis(host, rendered), "give a box, a mask or the whole picture instead"),
        (lambda: run_solve(host, SolveRequest(network, grid, word)), "the analysis method rendered instead"),
        (lambda: run_collide(host, network, network, grid), "compare their files alone instead"),
        (lambda: find_mask(host, None, "set", "1.png", "fox"), "paint the mask instead"),
    ):
        with pytest.raises(NoModel, match=instead) as said:
            refused()
        assert str(said.value).endswith(host.no_training)


def _network(patched) -> Network:
    return network_for(patched.sd_model.forge_objects_original.unet.model.diffusion_model, layers=("attn2_to_q",))


def test_their_previews_are_drawn_by_tags(patched, monkeypatch, tmp_path):
    """A LoRA that the WebUI has listed under any name, and one that it has not; no name stays behind."""
    from lib_blocktrain.hosts.webui import host as webui

    listed, other = tmp_path / "a, b.safetensors", tmp_path / "other.safetensors"
    for path in (listed, other):
        path.touch()
    networks = module("networks", available_networks={"x": SimpleNamespace(filename=str(listed))})
    networks.available_network_aliases = aliases = {}
    network = module("network", NetworkOnDisk=lambda name, file: SimpleNamespace(name=name, filename=file))
    monkeypatch.setitem(sys.modules, "networks", networks)
    monkeypatch.setitem(sys.modules, "network", network)
    drawn, said = [], []

    def process_images(p):
        drawn.append((p.prompt, {name: entry.filename for name, entry in aliases.items()}))
        return SimpleNamespace(images=["picture"])

    monkeypatch.setattr(webui, "StableDiffusionProcessingTxt2Img", lambda **p: SimpleNamespace(**p, close=list))
    monkeypatch.setattr(webui, "process_images", process_images)
    patched.forge.shared.state.stopping_generation = False
    patched.sd_model.sd_checkpoint_info.title = "tiny"
    weights = BlockWeights.uniform("sd1", 0.5)
    placements = [Placement(Network(path.stem, "sd1", {}, path=path), weights, 0.7) for path in (listed, other)]
    host = patched.integration.make_host()
    with host.queued():
        request = SampleRequest("a fox <lora:other:1>", placements=placements, say=said.append)
        assert host.sample(request) == "picture"
        assert host.sample(SampleRequest("a fox")) == "picture"
        compared = SampleRequest("a fox<lora:other:1> <lora:x:1>", ignored=frozenset({"other"}), say=said.append)
        assert host.sample(compared) == "picture"
    names = [f"blocktrain-preview-{number}" for number in range(2)]
    tags = " ".join(f"<lora:{name}:0.7:bw={weights.to_line()}>" for name in names)
    assert drawn[0] == (f"a fox {tags}", dict(zip(names, map(str, (listed, other)))))
    assert drawn[1] == ("a fox", {})
    assert drawn[2] == ("a fox <lora:x:1>", {})
    assert said == ["Tags of other in the prompt are ignored: this preview has its own weights"]
    assert not aliases


def test_neo(forge, monkeypatch):
    """Its name, and the architecture for tags: weights that cannot be hooked may be merged, Nunchaku's may not."""
    from lib_blocktrain.hosts.neo import Neo

    integration = Neo()
    monkeypatch.setattr(integration, "has_block_weight_script", lambda: False)
    with forge.host.queued():
        forge.host.model()
    assert integration.make_host().name == "Forge Neo"
    unet = forge.data.sd_model.forge_objects_original.unet.model.diffusion_model
    unet.middle_block[1].transformer_blocks[0].attn1.to_q = torch.nn.Identity()
    assert integration.tag_context().architecture == "sd1"
    unet.loras = []
    assert integration.tag_context().architecture is None
    assert "Nunchaku" in integration.tag_context().unsupported
    forge.data.sd_model.is_sd1 = False
    assert (
        "is a checkpoint of SimpleNamespace, which has no block weights here" in integration.tag_context().unsupported
    )
