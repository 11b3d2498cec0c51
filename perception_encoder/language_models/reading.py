"""Generate with a decoder-only language model: read prompts, then choose one token at a time by its logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perception_encoder.errors import ModelError
from perception_encoder.preprocess.conversation import Sampling
from perception_encoder.transfer import Arriving, to_device

Step = Callable[[Tensor], Tensor]
"""The next token of each prompt (B,) to the logits of those after them (B, V)."""
COLDEST = 1e-5
"""Lower temperatures act like 0 (the most probable token), as dividing logits by them overflows."""


class PromptState(ABC):
    """Prompts that were read as one batch, and their answers so far, as a cache of keys and values."""

    @abstractmethod
    def add(self, inputs: Float[Tensor, "B T D"]) -> Float[Tensor, "B V"]:
        """Read further tokens, and return the logits of those after them. Call it in inference mode."""

    @abstractmethod
    def copy(self) -> PromptState:
        """Return a copy that continues on its own."""


class PromptReader(ABC):
    """Executes a decoder-only language model of transformers."""

    model: Any
    runtime: str
    """The library: "torch" or "openvino"."""
    precision: str
    """Of the products: "float32", "bfloat16" or another type of torch, or "int8"."""
    alike: bool = True
    """Whether a prompt may share a batch or its beginning with longer ones."""

    @abstractmethod
    def begin(self, padding: Int[Tensor, " B"]) -> PromptState:
        """Return empty conversations; nothing attends to the first tokens of each, `padding`, which is on the CPU."""

    def read(self, prompts: Sequence[Float[Tensor, "T D"]]) -> tuple[Float[Tensor, "B V"], Step]:
        """Read prompts as one batch; return the logits of their next tokens, and the step after those (see `add`)."""
        if len(prompts) > 1 and not self.alike:
            logits, steps = zip(*(self.read([prompt]) for prompt in prompts), strict=True)

            def step_each(tokens: Tensor) -> Tensor:
                return torch.cat([step(token) for step, token in zip(steps, tokens.split(1), strict=True)])

            return torch.cat(logits), step_each
        longest = max(len(prompt) for prompt in prompts)
        inputs = torch.stack([torch.cat([p.new_zeros(longest - len(p), p.shape[1]), p]) for p in prompts])
        padding = torch.tensor([longest - len(prompt) for prompt in prompts])
        reading, embed = self.begin(padding), self.model.get_input_embeddings()

        def step(tokens: Tensor) -> Tensor:
            return reading.add(embed(to_device(tokens, inputs.device))[:, None])

        return reading.add(inputs), step

    @torch.inference_mode()
    def read_each(self, prompts: Sequence[Float[Tensor, "T D"]]) -> Iterator[Float[Tensor, " V"]]:
        """Yield the logits of the token after each prompt; their common beginning, such as a video, is read once."""
        if not prompts:
            return
        start = common_length(prompts) if self.alike else 0
        beginning = self.begin(torch.zeros(1, dtype=torch.long))
        if start:
            beginning.add(prompts[0][None, :start])
        for prompt in prompts:
            yield beginning.copy().add(prompt[None, start:])[0]


class TorchReader(PromptReader):
    """Runs the model as it is."""

    runtime = "torch"

    def __init__(self, model: Any) -> None:
        self.model, self.alike = model, rotates_alike(model)
        self.precision = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")

    def begin(self, padding: Tensor) -> PromptState:
        return _TorchReading(self.model, padding)


class _TorchReading(PromptState):
    def __init__(self, model: Any, padding: Tensor) -> None:
        self.model, self.padding, self.padded = model, to_device(padding, model.device), bool(padding.any())
        self.length, self.cache = 0, dict[str, Any]()  # by its name

    def copy(self) -> PromptState:
        other = copy(self)
        other.cache = deepcopy(self.cache)
        return other

    def add(self, inputs: Tensor) -> Tensor:
        start, self.length = self.length, self.length + inputs.shape[1]
        options = self.cache
        if self.padded:
            columns = torch.arange(self.length, device=inputs.device) - self.padding[:, None]
            positions = {"attention_mask": (columns >= 0).long(), "position_ids": columns[:, start:].clamp(min=0)}
            options = options | positions
        output = self.model(inputs_embeds=inputs, **options, use_cache=True, logits_to_keep=1)
        name = "cache" if "cache" in output else "past_key_values"  # depends on transformers' version
        self.cache = {name: output[name]}
        return output.logits[:, -1]


def common_length(prompts: Sequence[Float[Tensor, "T D"]]) -> int:
    """Return the length of the common prefix of prompts, leaving each at least one token."""
    length = min(len(prompt) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        same = (prompt[:length] == prompts[0][:length]).all(-1)
        length = int(same.long().cumprod(0).sum())
    return length


def rotates_alike(model: Any) -> bool:
    """Return whether a position is encoded alike in texts of any length; not with RoPE of these two types."""
    types = set[str]()
    for module in model.modules():
        found = getattr(module, "rope_type", None) or {}
        types.update(found.values() if isinstance(found, Mapping) else [found])  # a mapping: by the kind of layer
    return not any("dynamic" in name or name == "longrope" for name in types)


@torch.inference_mode()
def generate_tokens(
    reader: PromptReader, prompts: Sequence[Tensor], end_tokens: frozenset[int], sampling: Sampling
) -> Iterator[list[int | None]]:
    """Yield the next token of each prompt until all have ended, None after an end; end tokens are not yielded.

    `prompts`: embeddings (T, dim) of each. Each has its own random generator, so that answers do not depend on the
    batch. Raises ModelError for logits that are NaN or infinite.
    """
    logits, step = reader.read(prompts)
    if sampling.temperature < COLDEST and not (sampling.presence_penalty or sampling.frequency_penalty):
        rows = _most_probable(reader, logits, step, sampling.max_tokens)
    else:
        rows = _sampled(reader, logits, step, sampling)
    open_rows = [True] * len(prompts)
    for row in rows:
        open_rows = [is_open and token not in end_tokens for is_open, token in zip(open_rows, row, strict=True)]
        if not any(open_rows):
            return
        yield [token if is_open else None for token, is_open in zip(row, open_rows, strict=True)]


def _most_probable(reader: PromptReader, logits: Tensor, step: Step, count: int) -> Iterator[list[int]]:
    """Yield the most probable tokens; a GPU computes the next step while the host waits for a token."""
    for left in reversed(range(count)):
        tokens = logits.argmax(-1)
        arriving = Arriving(torch.cat([tokens, logits.isfinite().all()[None]]))
        if left and arriving.waits:
            logits = step(tokens)
        *chosen, finite = arriving.get().tolist()
        require_finite(finite, reader)
        yield chosen
        if left and not arriving.waits:
            logits = step(tokens)


def _sampled(reader: PromptReader, logits: Tensor, step: Step, sampling: Sampling) -> Iterator[list[int]]:
    """Yield tokens sampled on the CPU, whose random numbers are the same with any device."""
    given = [list[int]() for _ in logits]
    generators = [torch.Generator().manual_seed(sampling.seed) for _ in logits]
    for left in reversed(range(sampling.max_tokens)):
        logits = logits.cpu()
        require_finite(bool(logits.isfinite().all()), reader)
        for row, generator, earlier in zip(logits, generators, given, strict=True):
            earlier.append(sample_token(row, sampling, generator, earlier))
        chosen = [earlier[-1] for earlier in given]
        yield chosen
        if left:
            logits = step(torch.tensor(chosen))


def require_finite(finite: bool, reader: PromptReader) -> None:
    """Raise ModelError unless all logits are finite."""
    if not finite:
        raise ModelError(
            f"the language model gives NaN or infinity in {reader.precision}; its weights are bad or need float32"
        )


def sample_token(logits: Tensor, sampling: Sampling, generator: torch.Generator, given: Sequence[int] = ()) -> int:
    """Choose a token by its logits (V): the most probable, or one sampled at the temperature from the top ones.

    `logits`: on the CPU. `given`: the answer's earlier tokens, for the penalties.
    """
    if given and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = torch.tensor(given).unique(return_counts=True)
        logits = logits.float().index_add(0, tokens, counts * -sampling.frequency_penalty - sampling.presence_penalty)
    if sampling.temperature < COLDEST:
        return int(logits.argmax())
    probabilities = (logits.float() / sampling.temperature).softmax(0)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
