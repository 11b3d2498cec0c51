"""Models of open_clip: embeddings of images and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.models.external.adapter import Adapter, Mode


class OpenClipModel(Adapter):
    """A model by open_clip's names: `NAME,PRETRAINED` (a tag or a file), `hf-hub:…` or `local-dir:…`."""

    library, distribution, reads_texts = "open_clip", "open_clip_torch", True

    def _create(self) -> Any:
        import open_clip

        architecture, _, pretrained = self.listed.partition(",")
        located = architecture.startswith(("hf-hub:", "local-dir:"))
        if not located and not pretrained:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            message = f"{self.name} names no weights; say open_clip:{architecture},TAG or a file (tags: {tags})"
            raise WeightsUnavailableError(message)
        return open_clip.create_model(architecture, pretrained=None if located else pretrained)

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Tensor]:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        resize_mode = "squash" if mode == "squash" else "shortest"
        config = replace(PreprocessCfg(**self.model.visual.preprocess_cfg), resize_mode=resize_mode)
        transform: Any = image_transform_v2(config, is_train=False)
        return transform

    @cached_property
    def tokenize(self) -> Callable[[list[str]], Tensor]:
        """The model's tokenizer."""
        import open_clip

        return open_clip.get_tokenizer(self.listed.partition(",")[0])

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def embed_texts(self, texts: list[str], device: torch.device) -> Tensor:
        return self.model.encode_text(self.tokenize(texts).to(device))
