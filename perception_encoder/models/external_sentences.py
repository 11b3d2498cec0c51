"""Models of sentence-transformers: texts, images or videos, with their own preprocessing and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.models.external import Adapter, Mode, Pixels, Role
from perception_encoder.models.external_transformers import check_tokenizer
from perception_encoder.models.missing_weights import check_none_missing, missing_weights
from perception_encoder.progress import quiet_loading


class SentenceTransformersModel(Adapter):
    """A model of texts, images or videos, by its hub name or directory, with its own preprocessing and prompts."""

    library, distribution = "st", "sentence-transformers"
    modes = ("crop",)
    image_shape = None

    def _create(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer
        from transformers import PreTrainedModel

        with quiet_loading(), missing_weights(PreTrainedModel) as missing:
            model = SentenceTransformer(self.listed, trust_remote_code=self.trusted, device="cpu")
        parts = [module for module in model.modules() if isinstance(module, Transformer)]
        pools = any(
            way["method_output_name"] == "pooler_output" for part in parts for way in part.modality_config.values()
        )
        check_none_missing(self.name, [key for key in missing if pools or "pooler" not in key])
        for module in parts:
            if module.tokenizer is not None:
                with self._reading("its tokenizer cannot be loaded"):
                    check_tokenizer(module.tokenizer)
        return model

    @property
    def reads_images(self) -> bool:  # type: ignore[override]
        return self.model.supports("image")

    @property
    def reads_videos(self) -> bool:  # type: ignore[override]
        return self.model.supports("video")

    @property
    def reads_texts(self) -> bool:  # type: ignore[override]
        return self.model.supports("text")

    @property
    def prompts(self) -> dict[str, str]:
        stored, default = self.model.prompts, self.model.default_prompt_name
        names: dict[str, str | None] = {"default": default, "query": "query" if "query" in stored else default}
        names["document"] = next((name for name in ("document", "passage", "corpus") if name in stored), default)
        return {role: stored[name] for role, name in names.items() if name and stored[name]}

    @property
    def _scored(self) -> Any:
        return self.model.transformers_model

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Pixels]:
        if mode == "squash":
            raise ConfigError(f"{self.name} has its own preprocessing; omit the transform, or use crop")
        return lambda image: {"image": np.asarray(image)}  # which the library prepares with the prompt

    def embed_images(self, images: Sequence[Pixels], role: Role) -> Tensor:
        if not self.reads_images:
            raise ConfigError(f"{self.name} reads texts only; use a model of images")
        return self._encode([{"image": Image.fromarray(image["image"])} for image in images], role)

    def embed_video(self, frames: Sequence[Pixels], times: Sequence[float], role: Role) -> Tensor:
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None
        known = {"total_num_frames": len(frames), "frames_indices": list(range(len(frames))), "fps": rate}
        video = {"array": np.stack([frame["image"] for frame in frames]), "video_metadata": known if rate else None}
        kept = {"video": {"do_sample_frames": False}}  # all of these frames
        return self._encode([{"video": video}], role, processing_kwargs=kept)[0]

    def embed_texts(self, texts: list[str], role: Role) -> Tensor:
        opens = self.reads_images or self.reads_videos  # then also a string that is an address or names a file
        return self._encode([{"text": text} if opens and _may_name_media(text) else text for text in texts], role)

    def _encode(self, inputs: list[Any], role: Role, **options: Any) -> Tensor:
        names = {"query": "encode_query", "document": "encode_document", None: "encode"}
        with self._tokenizing:
            encode: Any = getattr(self.model, names[role])
            return encode(inputs, convert_to_tensor=True, show_progress_bar=False, **options)


def _may_name_media(text: str) -> bool:
    return text.lower().startswith(("data:", "http:", "https:")) or "." in text[-6:]
