"""Export towers as ONNX files that are checked against torch."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.errors import OutputError, needs_extra
from perception_encoder.files import replacing_new, writing
from perception_encoder.models.checkpoints.weights import Model, weight_hash
from perception_encoder.models.clip import CLIP

TOLERANCE = 1e-3
"""Maximum difference of an ONNX file from torch, relative to the largest value."""
MINIMUM_COSINE = 0.999
"""Minimum cosine similarity of an int8 file's embeddings with torch's."""
Inputs = Mapping[str, Tensor]
"""Fixed inputs by tower: "image", images (B, 3, H, W) from -1 to 1; "text", token ids (B, T)."""

_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""Metadata by which onnxruntime's quantisation knows that it need not ask for its own preparation."""
_EXTERNAL = 2**30  # bytes of weights beyond which they lie beside the .onnx file, which itself may hold 2 GiB


def write_onnx(
    model: Model, directory: Path, size: tuple[int, int] | None = None, int8: Inputs | None = None
) -> dict[str, float | None]:
    """Write `image.onnx` and, for two-tower models, `text.onnx` to a new directory, all or nothing.

    `int8`: quantise the towers, and compare them on these inputs.

    Returns each tower's largest difference to torch through onnxruntime, over the largest value, or in int8 its minimum
    cosine similarity; None without onnxruntime. Raises MissingExtraError, OutputError (also for a difference above 1e-3
    or a cosine below 0.999) and ShapeError.
    """
    check_onnx(int8=int8 is not None)
    with writing(directory), replacing_new(directory) as temporary:
        visual = model.visual if isinstance(model, CLIP) else model
        height, width = size or (visual.config.image_size, visual.config.image_size)
        visual.grid_of(height, width)  # a clear error for sizes that do not fit
        noise = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        towers: dict[str, tuple[nn.Module, Tensor, str]] = {"image": (visual, 2 * noise - 1, "images")}
        if isinstance(model, CLIP):
            text = model.text.config
            tokens = torch.arange(1, 2 * text.context_length + 1).view(2, -1) % text.vocabulary
            towers["text"] = model.text, tokens, "tokens"
        kind = "features" if visual.config.pools else "tokens"
        metadata = {"model": model.name, "weights": weight_hash(model), "pixels": "RGB, -1 to 1"}
        differences: dict[str, float | None] = {}
        for tower, (module, example, inputs) in towers.items():
            path = temporary / f"{tower}.onnx"
            large = sum(parameter.nbytes for parameter in module.parameters()) > _EXTERNAL
            names = inputs, f"{tower}_{kind}"
            if int8 is None:
                save_onnx(module, example, names, metadata, path, external=large)
                differences[tower] = check_maps(module, example, path)
                continue
            (whole := temporary / "float32").mkdir()
            save_onnx(module, example, names, metadata | _PREPARED, whole / path.name, external=large)
            check_maps(module, example, whole / path.name)
            differences[tower] = _quantize(module, int8[tower], whole / path.name, path, external=large)
            shutil.rmtree(whole)
        return differences


@torch.no_grad()
def _quantize(module: nn.Module, inputs: Tensor, whole: Path, path: Path, external: bool) -> float:
    """Write a file with int8 products; return its minimum cosine similarity with torch.

    The range of activations is found in each call, so nothing is calibrated: static ranges were further from torch and
    no faster. Weights have 7 bits: on x86 CPUs without VNNI onnxruntime adds two products in 16 bits, which those of
    8 bits exceed, so that a file would be far worse there than where it was checked. Unsigned weights have no such
    limit, but no fast kernels either. Raises OutputError for a cosine below 0.999.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        whole,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        use_external_data_format=external,
        extra_options={"MatMulConstBOnly": True},
    )
    found = run_onnx(path, inputs)
    assert found is not None
    cosine = float(nn.functional.cosine_similarity(torch.from_numpy(found[0]), module(inputs), dim=-1).min())
    if not cosine >= MINIMUM_COSINE:
        raise OutputError(
            f"{path.name} in int8 has a cosine similarity of {cosine:.4f} with torch, below {MINIMUM_COSINE}; "
            "export it without int8"
        )
    return cosine


def check_onnx(int8: bool = False) -> None:
    """Raise MissingExtraError without the libraries that write ONNX, or that quantise it (`int8`)."""
    with needs_extra("onnx"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if int8:
            import onnxruntime  # noqa: F401


def save_onnx(
    module: nn.Module,
    example: Tensor,
    names: tuple[str, str],
    metadata: dict[str, str],
    path: Path,
    external: bool = False,
) -> None:
    """Write a module with one input and one output (`names`) as ONNX for any batch size.

    `external`: store the weights beside the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from torch about itself
        program = torch.onnx.export(
            torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)),
            dynamo=True,
            verbose=False,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: "batch"},),
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=external)


@torch.no_grad()
def check_maps(module: nn.Module, example: Tensor, path: Path) -> float | None:
    """Compare an exported module with torch on three inputs (another batch size): see `check_difference`."""
    batch = torch.cat([example, example[:1].flip(-1)])
    found = run_onnx(path, batch)
    if found is None:
        return None
    expected = module(batch).double()
    difference = (torch.from_numpy(found[0]) - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    return check_difference(path, float(difference))


def run_onnx(path: Path, batch: Tensor) -> list[np.ndarray] | None:
    """Return the outputs of an ONNX file with one input; None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    return outputs


def check_difference(path: Path, difference: float) -> float:
    """Return a file's difference from torch; OutputError if it exceeds `TOLERANCE`."""
    if not difference < TOLERANCE:
        raise OutputError(f"{path.name} differs from torch by {difference:.1e}, more than {TOLERANCE}")
    return difference
