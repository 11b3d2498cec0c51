"""The preprocessing as files that other programs read: `preprocessor_config.json` and `tokenizer.json`."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.files import write_json, write_text
from perception_encoder.preprocess.tokenizer import portable_tokenizer


def write_preprocessing(directory: Path, size: tuple[int, int], context_length: int | None) -> None:
    """Write files for transformers' image processors and for the library `tokenizers`, beside a model's ONNX files.

    `size`: height and width in pixels. `context_length`: of the text tower; None without one, and then no tokenizer.
    """
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size[0], "width": size[1]},
        "resample": 2,  # bilinear
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    write_json(directory / "preprocessor_config.json", preprocessing)
    if context_length is not None:
        write_text(directory / "tokenizer.json", portable_tokenizer(context_length).to_str())
