"""The gradient of sampling at places, summed in order, is that of torch's `grid_sample`."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.data.warp import OrderedSample, sample_at, spread

SHAPE = torch.Size((3, 2, 5, 7))


def images_and_grid(out: tuple[int, int] = (6, 4)) -> tuple[Tensor, Tensor]:
    """Return random images and places, some of them far outside."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    grid = 3 * torch.rand(SHAPE[0], *out, 2, generator=generator, dtype=torch.float64) - 1.5
    return images.requires_grad_(), grid


def test_gradient_is_that_of_grid_sample() -> None:
    images, grid = images_and_grid()
    sampled = F.grid_sample(images, grid, align_corners=False)
    towards = torch.randn_like(sampled)
    (expected,) = torch.autograd.grad(sampled, images, towards)
    torch.testing.assert_close(spread(towards, grid, SHAPE), expected)
    ours = OrderedSample.apply(images, grid)
    assert torch.equal(ours, sampled)
    torch.testing.assert_close(torch.autograd.grad(ours, images, towards)[0], expected)


def test_a_pixel_in_the_middle_of_four_is_shared_equally() -> None:
    grid = torch.zeros(1, 1, 1, 2)  # the centre of a 2x2 image
    shares = spread(torch.tensor([[[[8.0]]]]), grid, torch.Size((1, 1, 2, 2)))
    assert shares.flatten().tolist() == [2, 2, 2, 2]


def test_what_falls_outside_is_dropped() -> None:
    grid = torch.full((1, 1, 1, 2), 9.0)
    assert not spread(torch.ones(1, 1, 1, 1), grid, torch.Size((1, 1, 2, 2))).any()


def test_the_gradient_can_be_differentiated_again() -> None:
    images, grid = images_and_grid((2, 2))
    assert torch.autograd.gradgradcheck(lambda x: OrderedSample.apply(x, grid), (images,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_equal_bits_on_a_gpu() -> None:
    images, grid = (one.detach().float().cuda() for one in images_and_grid((64, 64)))
    images.requires_grad_()
    gradients = []
    for _ in range(5):
        sampled = sample_at(images, grid)
        gradients.append(torch.autograd.grad(sampled.square().sum(), images)[0])
    assert all(torch.equal(gradients[0], other) for other in gradients)
