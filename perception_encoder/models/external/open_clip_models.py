"""Models of open_clip: embeddings of images and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.models.external.external_model import ExternalEncoder, ExternalModel, Mode


class OpenClipModel(ExternalModel):
    """A model by open_clip's names: `NAME,PRETRAINED` (a tag or a file), `hf-hub:…` or `local-dir:…`."""

    library, distribution = "open_clip", "open_clip_torch"

    def _create(self) -> Any:
        import open_clip

        architecture, _, pretrained = self.listed.partition(",")
        located = architecture.startswith(("hf-hub:", "local-dir:"))
        if not located and not pretrained:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            message = f"{self.name} names no weights; say open_clip:{architecture},TAG or a file (tags: {tags})"
            raise WeightsUnavailableError(message)
        return open_clip.create_model(architecture, pretrained=None if located else pretrained)

    def encoder(self, mode: Mode) -> ExternalEncoder:
        if self.random:
            return super().encoder(mode)
        model = self.model
        import open_clip

        tokenize = open_clip.get_tokenizer(self.listed.partition(",")[0])
        return OpenClipEncoder(self.name, model, tokenize, mode)


class OpenClipEncoder(ExternalEncoder):
    """An open_clip model under one transform."""

    def __init__(self, name: str, model: Any, tokenize: Callable[[list[str]], Tensor], mode: Mode) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        resize_mode = "squash" if mode == "squash" else "shortest"

        def make_transform() -> Any:
            config = replace(PreprocessCfg(**model.visual.preprocess_cfg), resize_mode=resize_mode)
            return image_transform_v2(config, is_train=False)

        super().__init__(name, model, make_transform)
        self.tokenize = tokenize

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def embed_texts(self, texts: list[str]) -> Tensor:
        return self.model.encode_text(self.tokenize(texts).to(self.device))
