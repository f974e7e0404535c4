"""Which checkpoint Forge's host returns: the one chosen in the page, unless the queue is held."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from lib_blocktrain.hosts.host import NoModel, OutOfMemory, SampleRequest
from tests import lacking
from tests.hosts import forge_backend
from tests.hosts.fake_webui import module


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


def test_a_checkpoint_that_cannot_be_read(forge):
    forge.data.forge_loading_parameters = {"checkpoint": "broken"}
    with pytest.raises(NoModel, match="cannot load the checkpoint: Failed to recognize"):
        forge.host.model()
    assert forge.lock.acquire(blocking=False)


def test_forges_that_hold_models_in_another_way(forge, monkeypatch):
    """reForge has block weights in prompts and no model for the tab; with an older patcher there are none at all."""
    from lib_blocktrain.hosts.reforge import ReForge

    integration = ReForge()
    monkeypatch.setattr(integration, "has_block_weight_script", lambda: False)
    with pytest.raises(NoModel, match=r"this WebUI is reForge.*training in this tab need"):
        integration.host().model()
    forge.shared.sd_model = forge_backend.sd_model()
    forge.shared.sd_model.forge_objects_original.unet.patches_uuid = 1
    assert integration.tag_context().architecture == "sd1"
    del forge.shared.sd_model.forge_objects_original.unet.patches_uuid
    assert integration.tag_context().architecture is None
    assert "Forge Classic" in integration.tag_context().unsupported
    assert integration.lora.__name__ == "lib_blocktrain.hosts.neo.lora"


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
    assert "is a SimpleNamespace: expected a checkpoint of SD1" in integration.tag_context().unsupported
