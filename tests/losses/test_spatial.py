"""The losses of spatial alignment: values by hand, gradients, and memory."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.errors import ShapeError
from perception_encoder.losses.spatial import token_cosine_loss, token_similarity_loss


def plain(student: Tensor, teacher: Tensor, temperature: float | None) -> Tensor:
    """The definition, with whole matrices."""
    ours, other = (F.normalize(item, dim=-1) for item in (student, teacher))
    target = other @ other.mT
    if temperature is not None:
        target = torch.exp(temperature * (target - 1))
    return F.mse_loss(ours @ ours.mT, target)


def test_tokens_are_compared_by_their_cosine() -> None:
    student = torch.tensor([[[3.0, 0.0], [1.0, 1.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, -2.0]]])
    assert float(token_cosine_loss(student, teacher)) == pytest.approx(-(1 - 1 / math.sqrt(2)) / 2)


@pytest.mark.parametrize("temperature", [20.0, None])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_equal_whole_matrices_in_value_and_gradient(temperature: float | None, block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(3, 13, 6, generator=generator), torch.randn(3, 13, 9, generator=generator)
    both = []
    for loss in (lambda *each: token_similarity_loss(*each, block=block), plain):
        leaf = student.clone().requires_grad_()
        value = loss(leaf, teacher, temperature)
        (3 * value).backward()
        both.append((value.detach(), leaf.grad))
    torch.testing.assert_close(both[0], both[1])


def test_a_token_of_zeros_has_the_gradient_of_the_definition() -> None:
    student, teacher = torch.rand(2, 5, 4), torch.rand(2, 5, 4)
    student[0, 2] = 0
    leaves = [student.clone().requires_grad_() for _ in range(2)]
    token_similarity_loss(leaves[0], teacher).backward()
    plain(leaves[1], teacher, 20.0).backward()
    size = leaves[1].grad.norm(dim=-1, keepdim=True)  # about 1e10 for the token of zeros: the sums round at that scale
    assert size[0, 2] > 1e6
    torch.testing.assert_close(leaves[0].grad / size, leaves[1].grad / size)


def test_another_grid_of_patches_is_an_error() -> None:
    with pytest.raises(ShapeError, match=r"the teacher's \(1, 9, 3\)"):
        token_cosine_loss(torch.rand(1, 4, 3), torch.rand(1, 9, 3))
    with pytest.raises(ShapeError, match="the teacher 1 images of 9 tokens"):
        token_similarity_loss(torch.rand(1, 4, 3), torch.rand(1, 9, 5))


MEMORY = """
import resource, torch
from perception_encoder.errors import ShapeError
from perception_encoder.losses.spatial import token_similarity_loss
student, teacher = torch.randn(64, 1024, 64).requires_grad_(), torch.randn(64, 1024, 64)
token_similarity_loss(student[:1], teacher[:1]).backward()  # what is loaded once
student.grad = None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
token_similarity_loss(student, teacher).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units elsewhere")
def test_memory_stays_low() -> None:
    """At 1,024 tokens and 64 images the matrices alone would take 0.8 GB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) * 1024 < 0.3e9
