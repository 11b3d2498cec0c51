"""Read prompts with a language model: embeddings of prompts, then one token at a time, to logits of the next token."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perception_encoder.language_alignment.text.fast_llama import FastLlama, rotates_alike

Step = Callable[[Sequence[int]], Tensor]
"""The next token of each prompt (B,) to the logits of those after them (B, V)."""


class Reader(Protocol):
    """Executes a decoder-only language model; each conversation has a cache of keys and values of its own."""

    @property
    def runtime(self) -> str:
        """The library: "torch" or "openvino"."""
        ...

    @property
    def precision(self) -> str:
        """Of the products: "float32", "bfloat16" or another type of torch, or "int8"."""
        ...

    def read(self, prompts: Sequence[Float[Tensor, "T D"]], room: int) -> tuple[Float[Tensor, "B V"], Step]:
        """Read prompts as one batch; return the logits of their next tokens, and the step after those.

        `room`: maximum number of tokens that will follow. Call it and the step in inference mode.
        """
        ...

    def read_each(self, prompts: Sequence[Float[Tensor, "T D"]]) -> Iterator[Float[Tensor, " V"]]:
        """Yield the logits of the token after each prompt; their common beginning, such as a video, is read once."""
        ...


class TorchReader:
    """A causal language model of transformers; steps of one small Llama on a CPU are packed (see `FastLlama`)."""

    runtime = "torch"

    def __init__(self, model: Any, packed: bool = True) -> None:
        """`packed`: False for a model in training, whose weights must stay as they are."""
        self.model, self.packed = model, packed
        self._cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    @property
    def precision(self) -> str:
        """See `Reader`."""
        return str(self.model.get_input_embeddings().weight.dtype).removeprefix("torch.")

    @cached_property
    def _fast(self) -> FastLlama | None:
        """Packed model, created for the first single prompt."""
        if not self.packed or not FastLlama.fits(self.model):
            return None
        with torch.inference_mode(False):  # the model's weights become views of the packed ones
            return FastLlama(self.model)

    @cached_property
    def _alike(self) -> bool:
        """Whether a prompt may share a batch or its beginning with longer ones."""
        return rotates_alike(self.model)

    def read(self, prompts: Sequence[Tensor], room: int) -> tuple[Tensor, Step]:
        """See `Reader`. Several prompts are padded on the left, with the padding masked."""
        if len(prompts) > 1 and not self._alike:
            alone = [self.read([prompt], room) for prompt in prompts]
            steps = [one for _, one in alone]
            return torch.cat([logits for logits, _ in alone]), lambda tokens: torch.cat(
                [one([token]) for one, token in zip(steps, tokens, strict=True)]
            )
        inputs, padding = stack_left(prompts)
        padded, cache = bool(padding.any()), None
        columns = torch.arange(inputs.shape[1], device=inputs.device)
        mask = (columns >= padding[:, None]).long()
        positions = (columns - padding[:, None]).clamp(min=0)

        def run(**feed: Tensor) -> Tensor:
            nonlocal cache
            extra = {"attention_mask": mask, "position_ids": positions} if padded else {}
            output = self.model(**feed, **extra, **{self._cache_name: cache}, use_cache=True, logits_to_keep=1)
            cache = output[self._cache_name]
            logits: Tensor = output.logits
            return logits[:, -1]

        def step(tokens: Sequence[int]) -> Tensor:
            nonlocal mask, positions
            mask = torch.cat([mask, mask.new_ones(len(tokens), 1)], dim=1)
            positions = positions[:, -1:] + 1
            return run(input_ids=torch.tensor(tokens, device=mask.device)[:, None])

        logits = run(inputs_embeds=inputs)
        if len(prompts) == 1 and self._fast is not None:
            packed = self._fast.continue_from(cache, room)
            return logits, lambda tokens: packed(tokens[0])[None]
        return logits, step

    @torch.inference_mode()
    def read_each(self, prompts: Sequence[Tensor]) -> Iterator[Tensor]:
        """See `Reader`."""
        name, start, cache = self._cache_name, common_length(prompts) if self._alike else 0, None
        if start:
            cache = self.model(inputs_embeds=prompts[0][None, :start], use_cache=True, logits_to_keep=1)[name]
        for prompt in prompts:
            inputs = {"inputs_embeds": prompt[None, start:], name: deepcopy(cache)}
            yield self.model(**inputs, use_cache=start > 0, logits_to_keep=1).logits[0, -1]


def stack_left(prompts: Sequence[Float[Tensor, "T D"]]) -> tuple[Float[Tensor, "B T D"], Int[Tensor, " B"]]:
    """Stack prompts, with zeros before the shorter ones, and return how many."""
    longest = max(len(prompt) for prompt in prompts)
    stacked = torch.stack([torch.cat([p.new_zeros(longest - len(p), p.shape[1]), p]) for p in prompts])
    return stacked, torch.tensor([longest - len(prompt) for prompt in prompts], device=stacked.device)


def common_length(prompts: Sequence[Float[Tensor, "T D"]]) -> int:
    """Return the length of the common prefix of prompts, leaving each at least one token."""
    length = min((len(prompt) for prompt in prompts), default=1) - 1
    for prompt in prompts[1:]:
        same = (prompt[:length] == prompts[0][:length]).all(-1)
        length = int(same.long().cumprod(0).sum())
    return length
