"""Run both towers of a model in training, with the mask token and cached captions.

One forward pass does everything that needs gradients, so that DDP and FSDP can wrap it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.errors import needs_extra
from perception_encoder.losses.pretraining import mask_regularization_loss
from perception_encoder.models.clip import CLIP, TextTransformer
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.layers import Block
from perception_encoder.models.precision import fast_autocast
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
from perception_encoder.pretraining.config import LoRA
from perception_encoder.progress import Track, untracked
from perception_encoder.training.distributed import gather, in_chunks, pad_rows, this_rank
from perception_encoder.transfer import to_device

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

MAX_CACHED = 2**17  # captions; the embeddings of PE-Core-B and L take half a gibibyte then
AT_ONCE = 256  # captions per pass
LENGTH_GROUPS = 4  # captions are encoded in groups of similar length, so that few are padded to the longest


class TowerOutputs(NamedTuple):
    """Output of both towers; a tuple, so that hooks of DDP and FSDP find its tensors."""

    images: Tensor  # embeddings (b, D), float32
    texts: Tensor  # embeddings (u, D), float32
    logit_scale: Tensor
    mask_loss: Tensor | None = None


class CachedTexts:
    """Embeddings of captions by a locked text tower, by token ids (U, T), encoded once before the run.

    Before it, and not when they are drawn: an embedding's last bits depend on what else is in its batch, and a resumed
    run must see those that an uninterrupted one saw. Each rank encodes a share.
    """

    def __init__(self, tower: TextTransformer, tokens: Tensor, track: Track = untracked) -> None:
        self._length = tokens.shape[1]
        self._row_of = {row.tobytes(): number for number, row in enumerate(tokens.numpy())}
        device = tower.positional_embedding.device
        share = tokens[this_rank().share(len(tokens))]
        order = share.argmax(dim=-1).argsort()  # by length
        groups = order.split(AT_ONCE)
        with torch.no_grad(), fast_autocast(device):
            tracked = track(groups, "encoding captions", len(groups))
            parts = [tower(trim(share[rows]).to(device)).float() for rows in tracked]
            self._embeddings = gather(torch.cat(parts)[order.argsort()], len(tokens))  # (U, D)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (u, D) of cached captions (u, t), padded or not."""
        padded = F.pad(tokens, (0, self._length - tokens.shape[1]), value=PADDING).cpu().numpy()
        rows = torch.tensor([self._row_of[row.tobytes()] for row in padded])
        return self._embeddings[to_device(rows, self._embeddings.device)]


class TrainingTowers(nn.Module):
    """A CLIP model in training; every rank runs it on equally many rows, and so equally often.

    `masked`: with a mask token, which is not part of the final model. `chunk`: number of images, frames or captions
    whose activations are in memory at a time; None for all. `cached`: embeddings of a locked text tower's captions.
    """

    def __init__(
        self, clip: CLIP, masked: bool = False, chunk: int | None = None, cached: CachedTexts | None = None
    ) -> None:
        super().__init__()
        self.clip, self.chunk, self.cached = clip, chunk, cached
        self.mask_token = nn.Parameter(torch.zeros(clip.visual.config.width)) if masked else None

    def forward(
        self, images: Tensor, tokens: Tensor, masked: Tensor | None = None, masks: Tensor | None = None
    ) -> TowerOutputs:
        """Encode uint8 images (b, 3, H, W) and token ids (u, T); rows `masked` are also encoded with `masks`.

        Token ids and masks belong on the CPU, where their values are needed. The embedding of a video (b, F, 3, H, W)
        is the mean over its frames; videos have no mask loss.
        """
        encoded = self._encode_images(pad_rows(images))[: len(images)]
        texts = self._encode_texts(tokens)
        loss = None
        if self.mask_token is not None and masked is not None and masks is not None:
            copies = images[pad_rows(masked)]
            loss = self._mask_loss(copies, pad_rows(masks), self.mask_token, len(masks))
        # copies, not views of the padded rows, which FSDP's hooks would not follow
        encoded, texts = encoded.to(torch.float32, copy=True), texts.to(torch.float32, copy=True)
        return TowerOutputs(encoded, texts, self.clip.logit_scale.exp(), loss)

    def _encode_images(self, images: Tensor) -> Tensor:
        frames = images.flatten(0, 1) if images.dim() == 5 else images
        encoded = in_chunks(lambda chunk: self.clip.encode_image(to_float(chunk)), frames, self.chunk)
        return encoded.unflatten(0, images.shape[:2]).mean(dim=1) if images.dim() == 5 else encoded

    def _encode_texts(self, tokens: Tensor) -> Tensor:
        if self.cached is not None:
            return self.cached(tokens)
        return encode_by_length(self.clip, pad_rows(tokens), self.chunk)[: len(tokens)]

    def _mask_loss(self, images: Tensor, masks: Tensor, mask_token: Tensor, count: int) -> Tensor:
        """Return the mean loss of the first `count` rows; the others are padding."""
        visual, prefix = self.clip.visual, int(self.clip.visual.config.class_token)

        def losses(rows: Tensor) -> Tensor:
            """Return the sum over rows (m,) that hide the same number of patches."""
            pixels, hidden = to_float(images[to_device(rows, images.device)]), masks[rows]
            with torch.no_grad():
                whole = visual.forward_features(pixels)[:, prefix:]
            mask = to_device(hidden, images.device)
            seen = visual.forward_features(pixels, mask=mask, mask_token=mask_token)[:, prefix:]
            real = int((rows < count).sum())
            if not real:
                return 0 * seen.float().sum()[None]  # other ranks wait for its gradient
            return real * mask_regularization_loss(seen[:real].float(), whole[:real].float(), hidden[:real])[None]

        rows = torch.arange(len(masks))
        return in_chunks(losses, rows, self.chunk).sum() / max(1, count)


def encode_by_length(model: CLIP, tokens: Tensor, chunk: int | None = None) -> Tensor:
    """Return `model.encode_text` of padded token ids (U, T), computed in groups of similar length."""
    order, device = tokens.argmax(dim=-1).argsort(), model.logit_scale.device
    size = chunk or -(-len(order) // LENGTH_GROUPS)
    groups = [in_chunks(model.encode_text, to_device(trim(tokens[rows]), device), chunk) for rows in order.split(size)]
    return torch.cat(groups)[to_device(order.argsort(), device)]


PADDING = 0


class CaptionVocabulary:
    """Token ids of some texts, renumbered from 0 in order, so that the end of a text stays the highest id."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        rows = tokenizer(texts).unique(dim=0)
        self.ids = torch.cat([torch.tensor([PADDING]), rows.flatten()]).unique()  # ascending
        self.captions = torch.searchsorted(self.ids, rows)
        """Renumbered ids (U, T) of the distinct texts, in an order that does not depend on theirs."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Return the renumbered ids (U, T) of texts with known tokens."""
        return torch.searchsorted(self.ids, self.tokenizer(texts))

    @torch.no_grad()
    def narrow(self, model: CLIP) -> None:
        """Reduce a text tower's token table to these tokens, in place."""
        table = model.text.token_embedding.weight
        model.text.token_embedding = nn.Embedding.from_pretrained(table[self.ids].clone(), freeze=False)

    @torch.no_grad()
    def widen(self, model: CLIP, others: Tensor | None = None) -> None:
        """Restore a text tower's full vocabulary, in place; other tokens' rows are zero or those of `others`."""
        rows = model.text.token_embedding.weight
        table = (
            rows.new_zeros(model.text.config.vocabulary, rows.shape[1])
            if others is None
            else others.to(rows.device, copy=True)
        )
        table[self.ids] = rows
        model.text.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)


def add_adapters(model: CLIP, config: LoRA, locked: str | None, seed: int) -> LoraModel:
    """Add adapters to a model in place, except to a locked tower; only they and the logit scale are trained.

    MissingExtraError without peft.
    """
    with needs_extra("train", "peft"):
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    blocks = [name for name, module in model.named_modules() if isinstance(module, Block)]
    blocks = [name for name in blocks if locked is None or not name.startswith(f"{locked}.")]
    linear, parameters = list[str](), list[str]()
    if config.targets != "mlp":
        linear += [f"{name}.attn.out_proj" for name in blocks]
        parameters += [f"{name}.attn.in_proj_weight" for name in blocks]
    if config.targets != "attention":
        linear += [f"{name}.mlp.{part}" for name in blocks for part in ("c_fc", "c_proj")]
    config_of_peft = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=linear, target_parameters=parameters or None
    )
    adapters = LoraModel(model, config_of_peft, "default")
    model.logit_scale.requires_grad_(True)
    generator = torch_generator(seed, 1)  # peft draws from the global state
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
    return adapters


@torch.no_grad()
def merge_adapters(adapters: LoraModel) -> None:
    """Merge adapters into the weights in place, and remove them from the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    while any(isinstance(module, BaseTunerLayer) for module in adapters.model.modules()):
        adapters.merge_and_unload()  # nested adapters need a second pass
