"""The encoders that are timed compute the same tower, and ratios are to the best peer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.encode import __main__ as encode
from benchmarks.encode import peers
from benchmarks.encode.case import Case, Kind, case_of
from benchmarks.speed_tables import best_float, best_peer, encoding_table
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
@pytest.mark.parametrize("kind", ["image", "text"])
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
