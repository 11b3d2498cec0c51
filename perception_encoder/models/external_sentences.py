"""Models of sentence-transformers: texts, images or videos, with their own preprocessing and prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.files import digest
from perception_encoder.models.external import Adapter, Mode, Pixels, Role
from perception_encoder.models.external_transformers import check_tokenizer, traceable_masks
from perception_encoder.models.missing_weights import check_none_missing, missing_weights
from perception_encoder.progress import quiet_loading


class SentenceTransformersModel(Adapter):
    """A model of texts, images or videos, by its hub name or directory, with its own preprocessing and prompts."""

    library, distribution = "st", "sentence-transformers"
    modes = ("crop",)

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
        if self.image_shape:
            return self._pixels
        return lambda image: {"image": np.asarray(image)}  # which the library prepares with the prompt

    @cached_property
    def image_shape(self) -> tuple[int, ...] | None:
        """See `Adapter.image_shape`; None for models that put images into a prompt, or that have several parts."""
        if not self.reads_images or self.part("document"):
            return None
        known = self._features([Image.new("RGB", (48, 32))], None)
        others = {name: value for name, value in _others(known).items() if value is not None}
        return self._shape_of(self._pixels) if others == {"modality": "image"} else None

    def _pixels(self, image: Image.Image) -> Pixels:
        return {name: values[0].numpy() for name, values in _tensors(self.model.preprocess([image])).items()}

    def _features(self, inputs: list[Any], role: Role) -> dict[str, Any]:
        """Return what the library's modules take for inputs: tensors, and values that are the same for all inputs."""
        prompt = self.prompts.get(role or "default")
        with self._tokenizing:
            return self.model.preprocess(inputs, prompt=prompt, **_task(role))

    @cached_property
    def has_token_rows(self) -> bool:
        """See `Adapter.has_token_rows`; False for static embeddings, which are looked up."""
        shapes = {values.shape for values in self.tokens(["a", "a b"], "query").values()} if self.reads_texts else set()
        return [len(shape) for shape in shapes] == [2]

    def part(self, role: Role) -> Role:
        return role if self._depends_on_role else None

    @cached_property
    def _depends_on_role(self) -> bool:
        """Whether a part of the model is for a role, or the prompt's tokens are left out of pooling."""
        return any(not getattr(module, "include_prompt", True) or _has_roles(module) for module in self.model.modules())

    def tokens(self, texts: list[str], role: Role) -> Mapping[str, Tensor]:
        return _tensors(self._features(self._as_texts(texts), role))

    def text_output(self, batch: dict[str, Tensor], role: Role) -> Tensor:
        with traceable_masks() if torch.jit.is_tracing() else nullcontext():
            return self._output({**batch, **_others(self._features(["a"], role))}, role)

    def image_output(self, batch: dict[str, Tensor]) -> Tensor:
        return self._output({**batch, "modality": "image"}, None)

    def _output(self, features: dict[str, Any], role: Role) -> Tensor:
        return self.model(features, **_task(role))["sentence_embedding"][:, : self.model.truncate_dim]

    @property
    def versions(self) -> dict[str, str]:
        """See `Adapter.versions`; with that of transformers, whose models these are."""
        return {**super().versions, "hf": version("transformers")}

    @cached_property
    def structure(self) -> str:
        """See `Adapter.structure`; with the configurations of the library's modules."""
        from sentence_transformers.base.modules.module import Module

        modules = [module for module in self.model.modules() if isinstance(module, Module)]
        return digest(super().structure, str([module.get_config_dict() for module in modules]))

    def embed_images(self, images: Sequence[Pixels], role: Role) -> Tensor:
        if not self.reads_images:
            raise ConfigError(f"{self.name} reads texts only; use a model of images")
        if self.image_shape:
            with self._tokenizing:  # all cores compute one batch
                return super().embed_images(images, role)
        return self._encode([{"image": Image.fromarray(image["image"])} for image in images], role)

    def embed_video(self, frames: Sequence[Pixels], times: Sequence[float], role: Role) -> Tensor:
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None
        known = {"total_num_frames": len(frames), "frames_indices": list(range(len(frames))), "fps": rate}
        video = {"array": np.stack([frame["image"] for frame in frames]), "video_metadata": known if rate else None}
        kept = {"video": {"do_sample_frames": False}}  # all of these frames
        return self._encode([{"video": video}], role, processing_kwargs=kept)[0]

    def embed_texts(self, texts: list[str], role: Role) -> Tensor:
        return self._encode(self._as_texts(texts), role)

    def _as_texts(self, texts: list[str]) -> list[Any]:
        opens = self.reads_images or self.reads_videos  # then also a string that is an address or names a file
        return [{"text": text} if opens and _may_name_media(text) else text for text in texts]

    def _encode(self, inputs: list[Any], role: Role, **options: Any) -> Tensor:
        names = {"query": "encode_query", "document": "encode_document", None: "encode"}
        with self._tokenizing:
            encode: Any = getattr(self.model, names[role])
            return encode(inputs, convert_to_tensor=True, show_progress_bar=False, **options)


def _has_roles(module: Any) -> bool:
    """Return whether a module computes queries and documents in another way: a router may have routes for either."""
    if not hasattr(module, "route_mappings"):
        return "task" in getattr(module, "forward_kwargs", ())
    return not {"query", "document"}.isdisjoint([*module.sub_modules, *(task for task, _ in module.route_mappings)])


def _task(role: Role) -> dict[str, str]:
    return {"task": role} if role else {}


def _tensors(features: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}


def _others(features: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in features.items() if not isinstance(value, Tensor)}


def _may_name_media(text: str) -> bool:
    return text.lower().startswith(("data:", "http:", "https:")) or "." in text[-6:]
