"""The encoders that are timed compute the same tower, the limits its products, and a result replaces its own only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.encode import __main__ as encode
from benchmarks.encode import limits, peers
from benchmarks.encode.case import Case, Kind, case_of, minimum_cosine, output
from benchmarks.speed_tables import best_float, best_peer, encoding_table
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize

ROUNDINGS = {"float32": 24 * 64, "bfloat16": 24}
"""Of a value on its way through the two blocks: a dozen a block, of sums of up to 64 products, which are in float32."""
LEAST_COSINE = {name: 1 - (n * torch.finfo(getattr(torch, name)).eps) ** 2 / 2 for name, n in ROUNDINGS.items()}
"""If all roundings add up, whatever kernels the machine has: a relative error of e turns a vector by e at most."""
LEAST_COSINE["int8"] = 0.97


def case(kind: Kind) -> Case:
    vision = VisionConfig(image_size=32, patch_size=16, width=32, depth=2, heads=2, mlp_width=64, output_dim=24)
    text = TextConfig(context_length=20, width=32, depth=2, heads=2, output_dim=24, vocabulary=49_408)
    model = CLIP(vision, text, "tiny")
    initialize(model, torch.Generator().manual_seed(0))
    return case_of(model.eval(), kind, 1 if kind == "single" else 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["image", "single", "text", "caption"])
def test_every_contender_agrees_with_its_weights_in_float32(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("openvino", "nncf", "onnxruntime", "onnxscript", "transformers", "skimage"):
        pytest.importorskip(library)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(peers, "timm_contenders", lambda *_: [])  # they know published sizes only
    monkeypatch.setattr(peers, "open_clip_contenders", lambda *_: [])
    tiny = case(kind)
    found = list(encode.contenders(tiny))
    result = encode.measure(tiny, found, 0.0)
    assert {label.partition(",")[0] for label in result["speeds"]} == {
        "perception-encoder",
        "limit: bare products",
        "onnxruntime",
        peers.SAME_SIZE,
    }
    assert all(len(speeds) == encode.MIN_ROUNDS and min(speeds) > 0 for speeds in result["speeds"].values())
    cosines = result["cosines"]
    assert "perception-encoder, OpenVINO, float32" in cosines
    for label, cosine in cosines.items():
        assert LEAST_COSINE[label.rpartition(", ")[2]] < cosine < 1 + 1e-6, label
    assert set(result["machine"]) == {"cpu", "cores", "features", "libraries"}


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_peers_have_the_towers_size(library: str) -> None:
    pytest.importorskip(library)
    model = create_model("PE-Core-T16-384").eval()
    tower = case_of(model, "image", 1)
    make: Any = getattr(peers, f"{library}_contenders")
    (exact, _) = make(tower, compiled=False)
    assert exact.label == f"{library}, eager, float32"
    assert exact.run().shape == tower.expected.shape
    assert minimum_cosine(exact.run(), exact.expected) > 0.99999


def test_bare_products_are_those_of_the_blocks() -> None:
    tiny = case("image")
    tokens, width, heads, hidden, depth = limits.sizes(tiny)
    assert (tokens, width, heads, hidden, depth) == (5, 32, 2, 64, 2)
    openvino = pytest.importorskip("openvino")
    model = limits._products(tiny, 1, int8=False)
    matrices = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    flops = sum(
        int(np.prod(node.get_output_shape(0))) * node.input(0).get_shape()[-1]
        for node in matrices
        if isinstance(node, openvino.Node)
    )
    assert flops == depth * (tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width)


def test_photographs_are_the_same_each_time_and_differ() -> None:
    pytest.importorskip("skimage")
    first, again = case("image"), case("image")
    assert np.array_equal(first.inputs, again.inputs) and not np.array_equal(first.inputs[0], first.inputs[1])
    assert np.array_equal(output(first.module, first.ready), first.expected)


def test_a_result_replaces_its_own_tower_only(tmp_path: Path) -> None:
    out = tmp_path / "encode.json"
    for name, value in (("a:image", 1), ("b:image", 2), ("a:image", 3)):
        encode.merge(out, name, {"value": value})
    assert json.loads(out.read_text())["towers"] == {"a:image": {"value": 3}, "b:image": {"value": 2}}


def test_ratios_are_to_the_best_peer_of_the_same_model() -> None:
    speeds = {
        "perception-encoder, OpenVINO, int8": 40.0,
        "perception-encoder, OpenVINO, bfloat16": 24.0,
        "timm, compiled, bfloat16": 12.0,
        "onnxruntime, int8": 16.0,
        "CLIP of the same size, OpenVINO, int8": 39.0,
        "limit: bare products, OpenVINO, bfloat16": 30.0,
        "limit: bare products, OpenVINO, int8": 50.0,
    }
    rates = dict(speeds)
    assert best_peer(rates) == 16 and best_float(rates) == 24
    result = {
        "speeds": {label: [rate] * 3 for label, rate in speeds.items()},
        "cosines": {},
        "machine": {"cores": 2},
        "others": 0.31,
    }
    table = encoding_table({"PE-Core-B16-224:image": result, "x:text": result}, "image")
    assert table[0] == ("", "B16-224")
    assert [row[1] for row in table[-6:-1]] == ["**2.50**", "**1.50**", "**2.00**", "**0.80**", "**0.80**"]
    assert "0.31, **too many for exact ratios**" in table[-1][1]
