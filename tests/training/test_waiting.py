"""Training and generation leave a device to its work: nothing is read back from it, or copied to it, on the way."""

from __future__ import annotations

import dataclasses
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import masking_utils

from perception_encoder.errors import DataError
from perception_encoder.language_alignment.task import LanguageAlignmentTask
from perception_encoder.language_models import reading
from perception_encoder.language_models.model import collate
from perception_encoder.language_models.reading import TorchReader, generate_tokens
from perception_encoder.preprocess.conversation import Message, Sampling
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.training import loop
from perception_encoder.training.distributed import clip_gradients
from perception_encoder.training.loop import Section, train_steps
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer
from perception_encoder.transfer import Arriving, to_device
from tests.pretraining.toys import small_batch, small_towers
from tests.tiny_language_models import NO_END, tiny_language_model, tiny_llama
from tests.training.toys import CONFIG, Regression, batch, losses

WAITS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::masked_select"}
"""What reads a tensor's values: on a GPU, the host waits for them."""


class Reads(TorchDispatchMode):
    """Counts the operators that read values."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := func._schema.name) in WAITS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):
    """Notes operators that copy between the CPU and a device, or take tensors of both, outside `to_device`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if len({tensor.device for tensor in tensors if tensor.dim()}) > 1 and not any(
            frame.f_code is to_device.__code__ for frame, _ in traceback.walk_stack(None)
        ):
            self.found.append(func._schema.name)
        return result


def pairs(chunk: int | None = None) -> tuple[Any, Any]:
    return ContrastiveTask(small_towers(chunk)), small_batch()


def pairs_in_chunks() -> tuple[Any, Any]:
    return pairs(chunk=3)


def conversations() -> tuple[Any, Any]:
    whole = tiny_language_model()
    count = whole.model.projector.tokens_of(whole.model.vision.grid_of(32, 32))
    messages = [Message("user", ("what?",)), Message("assistant", ("a mug",))]
    prompt = whole.decoder.prompts.training_prompt(messages, [])
    shown = dataclasses.replace(prompt, is_image=[at < count for at in range(len(prompt.ids))])
    task = LanguageAlignmentTask(whole.model.train(), 0.1, seed=0)
    task.model.requires_grad_(True)
    return task, collate([(shown, torch.rand(1, 3, 32, 32))] * 2, 0)


@pytest.mark.parametrize("made", [pairs, pairs_in_chunks, conversations])
def test_a_step_reads_nothing_from_its_device_and_copies_only_by_to_device(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor on "meta" has no values, so reading one is an error. transformers reads whether a row is packed."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(loop, "fast_autocast", lambda device: nullcontext())
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    monkeypatch.setattr(loop, "Arriving", lambda values: values)
    task, on_host = made()
    task.model.to("meta")
    optimizer = build_optimizer(task.model, OptimizerConfig(name="sgd", lr=0.1))
    moved = on_host.to(torch.device("meta"))
    with Copies() as copies:
        losses = loop._backward(task, moved, 0)
        loop.update(task.model, optimizer, [0.1] * len(optimizer.param_groups), 1.0)
    values: Any = losses.values  # as they left, not `Arriving`
    assert values.device.type == "meta" and losses.names and not copies.found
    with pytest.raises(RuntimeError, match="meta"):
        values[0].item()


@pytest.mark.parametrize("total", [0.0, 0.5, 1.0, 3.7, float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clipping_on_the_device_gives_the_bits_of_reading_the_norm(total: float, dtype: torch.dtype) -> None:
    def read(gradients: list[Tensor], maximum: float) -> None:
        norm = torch.stack([gradient.pow(2).sum() for gradient in gradients]).sum().sqrt().item()
        for gradient in gradients if norm > maximum else []:
            gradient.mul_(maximum / norm)

    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 7), (11,), (3, 2, 4))]
    norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    gradients = [gradient * (total / norm) for gradient in gradients]
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    clip_gradients(parameters, 1.0)
    read(gradients, 1.0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0, equal_nan=True)


class Late(Arriving):
    """Values as of a GPU."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(values)
        self.waits = True


def test_on_a_gpu_a_bad_loss_is_found_a_step_later_but_before_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host reads the losses of a step while the GPU computes the next; a checkpoint and a report wait for them."""
    begun: list[int] = []

    class Watched(Regression):
        def losses(self, batch: Tensor) -> dict[str, Tensor]:
            begun.append(len(begun))
            return super().losses(batch)

    def found(bad: int) -> int:
        begun.clear()
        nan_at = lambda step: batch(step) * (float("nan") if step == bad else 1)  # noqa: E731
        with pytest.raises(DataError, match=f"step {bad}: the loss is nan"):
            train_steps(Section(Watched(), nan_at), config, tmp_path / str(bad), "a")
        return begun[-1]

    config = dataclasses.replace(CONFIG, steps=30, log_every=10, checkpoint_every=7)
    assert [found(bad) for bad in (3, 6, 9)] == [3, 6, 9]
    monkeypatch.setattr(loop, "Arriving", Late)
    assert [found(bad) for bad in (4, 13, 19)] == [5, 13, 19]


def test_losses_read_a_step_later_are_those_of_their_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(name: str) -> list[list[float]]:
        train_steps(Section(Regression(), batch), dataclasses.replace(CONFIG, log_every=2), tmp_path / name, "a")
        return losses(tmp_path / name, "error")

    at_once = train("at once")
    monkeypatch.setattr(loop, "Arriving", Late)
    assert train("late") == at_once and len(at_once) > 2


@contextmanager
def counted() -> Iterator[Counter[str]]:
    with Reads() as reads:
        yield reads.counts


@pytest.mark.parametrize("prompts", [1, 3])
def test_a_generated_token_is_read_once_with_all_others(prompts: int) -> None:
    model = tiny_llama()
    embedded = [torch.randn(5, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(prompts)]

    def reads(tokens: int) -> Counter[str]:
        with counted() as counts:
            list(generate_tokens(TorchReader(model), embedded, NO_END, Sampling(max_tokens=tokens)))
        return counts

    assert reads(3) == reads(12)


def test_the_step_ahead_of_a_gpu_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    embedded = [torch.randn(5, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]

    def answers(*ends: int) -> list[list[int | None]]:
        return list(generate_tokens(TorchReader(model), embedded, frozenset(ends), Sampling(max_tokens=9)))

    whole = answers()
    ends = [token for token in whole[4] if token is not None]
    cut = answers(*ends)
    monkeypatch.setattr(reading, "Arriving", Late)
    assert answers() == whole and answers(*ends) == cut != whole


def test_values_of_the_cpu_have_arrived() -> None:
    values = torch.arange(3)
    assert Arriving(values).get() is values
