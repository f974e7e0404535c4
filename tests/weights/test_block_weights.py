"""BlockWeights: immutable, complete, and exact after every round trip."""

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_blocktrain.blocks import ARCHITECTURES, architecture
from lib_blocktrain.weights.block_weights import BlockWeights, kohya_entries, number

finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def block_weights(draw, values=finite, architecture_ids=tuple(ARCHITECTURES), outside=True):
    """Draw weights; `outside` tells whether BASE and REST are drawn too."""
    architecture_id = draw(st.sampled_from(architecture_ids))
    blocks = {block_id: draw(values) for block_id in architecture(architecture_id).block_ids}
    if not outside:
        return BlockWeights(architecture_id, blocks)
    return BlockWeights(architecture_id, blocks, draw(values), draw(st.none() | values))


def sd1(**weights):
    return BlockWeights.uniform("sd1", 0).replace(BASE=0, **weights)


def test_every_block_base_and_rest_can_be_asked():
    weights = BlockWeights.uniform("sd1", 0.5).replace({"IN04": 2}, BASE=0.25, REST=0.75)
    assert (weights["IN04"], weights["OUT11"], weights["BASE"], weights["REST"]) == (2, 0.5, 0.25, 0.75)
    assert (weights.base, weights.rest) == (0.25, 0.75)
    with pytest.raises(KeyError):
        BlockWeights.uniform("sdxl", 1)["IN09"]


def test_nothing_can_be_changed():
    values = dict.fromkeys(architecture("sd1").block_ids, 1.0)
    weights = BlockWeights("sd1", values)
    values["IN04"] = 7
    assert weights["IN04"] == 1
    with pytest.raises(TypeError):
        weights.values["IN04"] = 7
    with pytest.raises(AttributeError):
        weights.base = 7


@pytest.mark.parametrize(("base", "out05", "rest"), [(1, 0, 1), (0, 1, 1), (0.5, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_rest_is_1_unless_everything_else_is_off(base, out05, rest):
    """Design section 5: REST has its default until it is set."""
    values = dict.fromkeys(architecture("sd1").block_ids, 0.0) | {"OUT05": out05}
    assert BlockWeights("sd1", values, base).rest == rest
    assert BlockWeights.uniform("sd1", 0).replace(BASE=base, OUT05=out05).rest == rest
    assert BlockWeights.uniform("sd1", 1).replace({**values, "BASE": base}).rest == rest
    assert BlockWeights("sd1", values, base, 0.25).replace(OUT05=3).rest == 0.25


@pytest.mark.parametrize("architecture_id", ARCHITECTURES)
def test_off(architecture_id):
    off = BlockWeights.uniform(architecture_id, 0)
    assert off.off
    for block_id in ("BASE", "REST", "M00"):
        assert not off.replace({block_id: 0.1}).off


@settings(deadline=None)
@given(block_weights())
def test_equal_weights_are_equal_hash_alike_and_survive_copies(weights):
    twin = BlockWeights(weights.architecture, dict(weights.values), weights.base, weights.rest)
    copies = [twin, copy.copy(weights), copy.deepcopy(weights), pickle.loads(pickle.dumps(weights)), weights.replace()]
    assert {weights, *copies} == {weights}
    assert weights != weights.replace(M00=0.0 if weights["M00"] else 1.0)


def test_architectures_differ_even_with_the_same_blocks():
    assert BlockWeights.uniform("sd1", 1) != BlockWeights.uniform("sd2", 1)


def test_minus_zero_is_zero():
    assert BlockWeights.uniform("sd1", -0.0).to_line() == ",".join("0" * 26)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"IN12": 1}, "unknown 'IN12': expected the 25 blocks IN00..OUT11"),
        ({"in04": 1}, "unknown 'in04'"),
        ({"IN04": float("nan")}, "IN04 = nan: expected a finite number"),
        ({"BASE": float("inf")}, "BASE = inf: expected a finite number"),
        ({"REST": "1"}, "REST = '1': expected a finite number"),
        ({"M00": True}, "M00 = True: expected a finite number"),
    ],
)
def test_strange_weights_are_refused_by_name_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        BlockWeights.uniform("sd1", 1).replace(changes)


def test_missing_blocks_and_unknown_architectures_are_refused():
    with pytest.raises(ValueError, match="no value for IN02, IN03"):
        BlockWeights("sd1", {"IN00": 1, "IN01": 1})
    with pytest.raises(ValueError, match="IN09"):
        BlockWeights("sdxl", dict.fromkeys(architecture("sd1").block_ids, 1))
    with pytest.raises(ValueError, match="'flux': expected one of"):
        BlockWeights.uniform("flux", 1)


def test_line():
    assert sd1(IN04=0.1, OUT11=1).to_line("A") == "A:0,0,0,0,0,0.1" + ",0" * 19 + ",1"
    assert BlockWeights.uniform("sdxl", 1).to_line() == ",".join("1" * 20)
    shared = sd1(M00=1, REST=0.5).to_line("A", with_architecture=True, area_share=0.12)
    assert shared.endswith(",0 | arch=sd1 canvas=0.12 rest=0.5")


@settings(deadline=None)
@given(finite)
def test_numbers_are_written_short_and_exact(value):
    assert float(number(value)) == value
    assert len(number(value)) <= len(repr(value))
    assert not number(value).endswith(".0")


@settings(deadline=None)
@given(block_weights())
def test_json_and_back(weights):
    data = json.loads(json.dumps(weights.to_json()))
    assert list(data["weights"]) == ["BASE", *architecture(weights.architecture).block_ids]
    assert BlockWeights.from_json(data) == weights


@pytest.mark.parametrize(
    "data",
    [{}, {"architecture": "sd1"}, {"architecture": "sd1", "weights": []}, {"weights": {}, "architecture": "x", "y": 1}],
)
def test_json_that_is_no_block_weights(data):
    with pytest.raises(ValueError, match="expected"):
        BlockWeights.from_json(data)


def test_kohya_learning_rates():
    ramp = {block_id: i for i, block_id in enumerate(architecture("sd1").block_ids)}
    assert BlockWeights("sd1", ramp).to_kohya() == [
        "down_lr_weight=0,1,2,3,4,5,6,7,8,9,10,11",
        "mid_lr_weight=12",
        "up_lr_weight=13,14,15,16,17,18,19,20,21,22,23,24",
    ]
    ramp = {block_id: i / 2 for i, block_id in enumerate(architecture("sdxl").block_ids)}
    assert BlockWeights("sdxl", ramp).to_kohya() == [
        "down_lr_weight=0,0.5,1,1.5,2,2.5,3,3.5,4",
        "mid_lr_weight=4.5,4.5,4.5",
        "up_lr_weight=5,5.5,6,6.5,7,7.5,8,8.5,9",
    ]


def test_sdxl_has_23_entries():
    entries = kohya_entries("sdxl")
    assert entries[0] == entries[22] == "REST"
    assert entries[1:10] == tuple(f"IN{i:02}" for i in range(9))
    assert entries[10:13] == ("M00",) * 3
    assert entries[13:22] == tuple(f"OUT{i:02}" for i in range(9))


def test_kohya_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r"IN04 = -0.5: a learning rate cannot be negative"):
        sd1(IN04=-0.5).to_kohya()
