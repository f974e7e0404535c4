"""What the API makes of a request for an analysis."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from lib_blocktrain.analysis import collision
from lib_blocktrain.analysis.regions import WHOLE_IMAGE
from lib_blocktrain.analysis.sampling_grid import SamplingGrid
from lib_blocktrain.analysis.solve_result import Solution, Solved
from lib_blocktrain.hosts.host import Cancelled
from lib_blocktrain.networks.files import read_network
from lib_blocktrain.weights.block_weights import BlockWeights
from lib_blocktrain.workspace import analyses


@pytest.fixture
def requests(monkeypatch) -> list:
    """The requests that reach the host, which runs none of them."""
    reached = []

    def run(host, request, progress):
        reached.append(request)
        raise Cancelled("not in this test")

    monkeypatch.setattr(analyses, "run_analysis", run)
    return reached


def in_base64(image: Image.Image, form: str = "PNG") -> str:
    content = io.BytesIO()
    image.save(content, format=form)
    return base64.b64encode(content.getvalue()).decode()


def test_everything_sent_is_in_the_request(client, requests):
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    body = {"lora": "robot", "method": "fast", "prompts": ["a robot"], "negative": "bad", "seeds": [4, 5], "cfg": 1}
    body |= {"width": 64, "height": 72, "weights": "OUT=1 | canvas=0.1", "multiplier": 0.5, "value": 0.25}
    body["features"] = [{"box": [0, 0, 0.5, 1]}, {"mask": in_base64(mask)}]
    assert client.post("/analyse", json=body).status_code == 202
    (request,) = requests
    grid, options = request.grid, request.options
    assert (grid.prompts, grid.negative, grid.seeds, grid.guidance) == (("a robot",), "bad", (4, 5), 1)
    assert (grid.width, grid.height, request.method, request.weights_share) == (64, 72, "fast", 0.1)
    assert (options.multiplier, options.value, options.weights["OUT00"], options.weights["IN01"]) == (0.5, 0.25, 1, 0)
    box, by_mask = request.features
    assert box.box == (0, 0, 0.5, 1)
    assert by_mask.mask.tobytes() == mask.tobytes()


def test_a_second_feature_may_be_the_whole_image(client, requests):
    body = {"lora": "robot", "prompts": ["a robot"], "features": [{"word": "robot"}, {}]}
    assert client.post("/analyse", json=body).status_code == 202
    assert requests[0].features[1] == WHOLE_IMAGE


def test_a_search_for_weights(client, monkeypatch):
    """What is sent is asked; the answer has the front and its pictures."""
    weights, reached = BlockWeights.uniform("sd1", 1.0), []

    def run(host, request, progress):
        reached.append(request)
        progress(100, request.budget)
        front = (Solution(weights, 1.0, 1.0, Image.new("RGB", (8, 8))), Solution(weights.replace(IN01=-0.5), 0.9, 0.2))
        said = {"keep": request.keep.title, "drop": "everything else", "kind": request.kind, "budget": request.budget}
        return Solved(
            "sd1",
            "robot",
            "demo",
            **said,
            front=front,
            chosen=1,
            area_share=0.25,
            evaluations=100.0,
            seconds=1.0,
            pictures=2,
        )

    monkeypatch.setattr(analyses, "run_solve", run)
    body = {"lora": "robot", "prompts": ["a robot"], "keep": {"word": "robot"}, "seeds": [4], "budget": 300}
    job = client.post("/solve", json={**body, "kind": "sparse", "drop": {"box": [0, 0, 1, 0.5]}}).json()["job"]
    (request,) = reached
    assert (request.keep.word, request.drop.box, request.kind) == ("robot", (0, 0, 1, 0.5), "sparse")
    assert (request.grid.seeds, request.budget) == ((4,), 300)
    while (found := client.get(f"/solve/{job}").json())["state"] == "running":
        pass
    solved = Solved.from_json(found["solved"])
    assert (solved.best.weights["IN01"], solved.area_share, len(found["pictures"])) == (-0.5, 0.25, 1)
    for wrong, status, said in (
        ({"budget": 0}, 422, "budget"),
        ({"keep": {}}, 400, "nothing to keep"),
        ({"drop": {"word": "robot"}}, 400, "A and B are both"),
        ({"prompts": []}, 400, "no prompt"),
    ):
        answer = client.post("/solve", json={**body, **wrong})
        assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.json()
    assert client.get("/solve/none").status_code == 404


def test_two_loras_are_compared(client, host, monkeypatch):
    """By their files as `collide` does, and with prompts by what reaches the model."""

    def compared(**body):
        answer = client.post("/collide", json={"first": "robot", "second": "people/anna", **body})
        if answer.status_code != 202:
            return answer.status_code, answer.json()["detail"]
        while (found := client.get(f"/collide/{answer.json()['job']}").json())["state"] == "running":
            pass
        return found

    networks = [read_network(host.lora_dirs[0] / f"{name}.safetensors") for name in ("robot", "people/anna")]
    expected = collision.collide(*networks).to_json()
    assert compared()["collision"] == json.loads(json.dumps(expected))
    reached = []

    def measured(first, second, model, grid, progress):
        reached.append((first.name, second.name, model, grid))
        return collision.collide(first, second)

    with monkeypatch.context() as patched:
        patched.setattr(analyses, "collide", measured)
        found = compared(prompts=["a [b:0.5]"], seeds=[7], cfg=1, width=64, negative="n")
    (asked,) = reached
    assert asked[:3] == ("robot", "anna", host.model())
    assert asked[3] == SamplingGrid(("a [b:0.5]",), "n", (7,), guidance=1, width=64)
    assert found["collision"]["notices"]  # brackets are not read
    for wrong, status, said in (
        ({"second": "robot"}, 400, "first and second are both 'robot': expected two LoRAs"),
        ({"second": "none"}, 404, "there is no LoRA 'none'"),
        ({"prompts": ["a"], "width": 100}, 400, "width 100: expected a multiple of 8"),
    ):
        code, detail = compared(**wrong)
        assert (code, said in detail) == (status, True), detail
    failed = compared(second="xl")
    assert (failed["state"], "expected one architecture" in failed["detail"]) == ("failed", True)
    assert client.get("/collide/none").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"prompts": []}, 400, "no prompt: expected at least one"),
        ({"prompts": [f"prompt {n}" for n in range(17)]}, 422, "prompts"),
        ({"seeds": list(range(65))}, 422, "seeds"),
        ({"width": 4104}, 422, "width"),
        ({"width": 100}, 400, "width 100: expected a multiple of 8"),
        ({"features": [{"box": [0, 1]}]}, 400, "expected four numbers"),
        ({"features": [{"mask": "no base64"}]}, 400, "expected a PNG or JPEG in base64"),
        ({"features": [{"mask": in_base64(Image.new("L", (8, 8)), "GIF")}]}, 400, "expected a picture as the mask"),
        ({"features": [{"mask": in_base64(Image.new("1", (1, 8193)))}]}, 400, "the mask, 1x8193: expected up to 8192"),
    ],
)
def test_what_cannot_be_asked_is_refused(client, requests, change, status, said):
    answer = client.post("/analyse", json={"lora": "robot", "prompts": ["a robot"], **change})
    assert (answer.status_code, requests) == (status, [])
    assert said in answer.json()["detail"]
