"""A perception language model that answers questions about images and videos."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from weakref import ReferenceType, ref

import numpy as np
import torch
from torch import Tensor

from perception_encoder.language_alignment.model import PerceptionLanguageModel
from perception_encoder.language_alignment.text.decoder import Decoder
from perception_encoder.language_alignment.text.text_model import TextModel, check_logits
from perception_encoder.preprocess.conversation import MediaPart, Message, Sampling
from perception_encoder.preprocess.tiling import MediaConfig, media_pixels

CACHED_MEDIA = 32
"""Maximum number of images and videos with cached tokens, so that a chat encodes each one once."""
ENCODED_AT_ONCE = 8
"""Images and tiles in a batch of the vision tower."""


class LanguageModel(TextModel):
    """A perception language model on one device.

    Attributes: `model` (the torch module), `decoder` (tokenizer and prompts), `name`, `media`, `encoded` (how many
    images, tiles and frames have gone through the vision tower).
    """

    def __init__(self, name: str, model: PerceptionLanguageModel, decoder: Decoder, media: MediaConfig) -> None:
        super().__init__(name, decoder)
        self.model, self.media = model.eval(), media
        self.tile, self.tiles = media.image_size, media.tiles
        self.encoded = 0
        self._tokens: OrderedDict[tuple[int, bool], tuple[ReferenceType[MediaPart], Tensor]] = OrderedDict()

    @torch.inference_mode()
    def yes_probabilities(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        """Return the probability that each answer begins with "yes" rather than "no": (B,) float64.

        Sums the probabilities of the first tokens of both words, capitalised or not, with or without a space before
        them; other answers are ignored. Raises ModelError for logits that are NaN or infinite.
        """
        encode = self.decoder.tokenizer.encode
        forms = [(word, f" {word}", word.title(), f" {word.title()}") for word in ("yes", "no")]
        tokens = [sorted({encode(form, add_special_tokens=False)[0] for form in words}) for words in forms]
        both = set(tokens[0]) & set(tokens[1])  # for example a lone space
        yes, no = ([token for token in ids if token not in both] for ids in tokens)
        prompts = [self._prompt(conversation, Sampling(max_tokens=1))[0] for conversation in conversations]
        probabilities = []
        for logits in self.reader.read_each(prompts):
            check_logits(logits, self.reader)
            logits = logits.double()
            probabilities.append(float(torch.sigmoid(logits[yes].logsumexp(0) - logits[no].logsumexp(0))))
        return np.array(probabilities)

    @torch.inference_mode()
    def _prompt(self, conversation: Sequence[Message], sampling: Sampling) -> tuple[Tensor, int]:
        """Return the decoder's input (T, dim) for a conversation, and the number of text tokens cut."""
        media = [item for message in conversation for item in message.media]
        tokens = [self.media_tokens(item, len(media) == 1) for item in media]
        room, lengths = sampling.max_tokens, [len(item) for item in tokens]
        prompt = self.decoder.prompts.generation_prompt(conversation, lengths, room, sampling.cut)
        ids, is_image = torch.tensor(prompt.ids)[None], torch.tensor(prompt.is_image)[None]
        dim = self.model.projector.dim
        together = torch.cat(tokens) if tokens else torch.zeros(0, dim)
        device = next(self.model.parameters()).device
        embeddings = self.model.embed(ids.to(device), is_image.to(device), together.to(device))
        return embeddings[0], prompt.cut

    @torch.inference_mode()
    def media_tokens(self, item: MediaPart, alone: bool = True) -> Tensor:
        """Return the tokens (M, dim) of an image or a video, cached if it was encoded before.

        An image that is `alone` in its conversation is tiled; several images are squashed to one square each, as in
        PLM.
        """
        key = (id(item), alone)
        if key in self._tokens and self._tokens[key][0]() is item:
            self._tokens.move_to_end(key)
            return self._tokens[key][1]
        pixels = media_pixels(item, self.media, alone)
        parameter = next(self.model.vision.parameters())
        grid = self.model.vision.grid_of(pixels.shape[-2], pixels.shape[-1])
        batches = pixels.split(ENCODED_AT_ONCE)
        features = [self.model.image_features(batch.to(parameter.device, parameter.dtype)) for batch in batches]
        projected = [self.model.project(batch, grid) for batch in features]
        self.encoded += len(pixels)
        tokens = torch.cat(projected).flatten(0, 1)
        self._tokens[key] = (ref(item, lambda _: self._tokens.pop(key, None)), tokens)
        while len(self._tokens) > CACHED_MEDIA:
            self._tokens.popitem(last=False)
        return tokens
