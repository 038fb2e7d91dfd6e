"""The diffusion maths, against values by hand and against diffusers' own schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler

from distillery.models.diffusion import add_noise, alphas_cumprod, predict_x0, split_eps


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("num_timesteps", [1000, 50])
def test_schedules_are_those_of_diffusers(schedule: str, num_timesteps: int) -> None:
    theirs = DDIMScheduler(
        beta_schedule=schedule, num_train_timesteps=num_timesteps, beta_start=1e-4, beta_end=0.02
    ).alphas_cumprod
    ours = alphas_cumprod(schedule, num_timesteps)  # type: ignore[arg-type]
    assert ours.dtype == torch.float64 and ours.shape == (num_timesteps,)
    torch.testing.assert_close(ours, theirs.double(), rtol=5e-5, atol=0)  # theirs are float32


def test_linear_schedule_by_hand() -> None:
    values = alphas_cumprod("linear", 3, beta_start=0.1, beta_end=0.3)
    torch.testing.assert_close(values, torch.tensor([0.9, 0.72, 0.504], dtype=torch.float64))


def test_unknown_schedule_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="squaredcos_cap_v2"):
        alphas_cumprod("cosine")  # type: ignore[arg-type]


def test_noise_is_mixed_by_the_square_roots() -> None:
    kept = torch.tensor([0.64, 0.36], dtype=torch.float64)
    x0, noise = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 10.0)
    noisy = add_noise(x0, noise, torch.tensor([1, 0]), kept)
    assert noisy.dtype == torch.float32
    torch.testing.assert_close(noisy[:, 0, 0, 0], torch.tensor([0.6 + 8.0, 0.8 + 6.0]))


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_true_noise_gives_back_the_image(schedule: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(4, 3, 2, 2, generator=rng), torch.randn(4, 3, 2, 2, generator=rng)
    timesteps, kept = torch.tensor([0, 1, 500, 900]), alphas_cumprod(schedule)  # type: ignore[arg-type]
    noisy = add_noise(x0, noise, timesteps, kept)
    torch.testing.assert_close(predict_x0(noisy, noise, timesteps, kept), x0, rtol=1e-4, atol=1e-4)


def test_x0_estimate_carries_a_gradient_to_the_prediction_with_the_right_sign() -> None:
    kept = torch.tensor([0.36], dtype=torch.float64)
    eps = torch.zeros(1, 1, 1, 1, requires_grad=True)
    predict_x0(torch.ones(1, 1, 1, 1), eps, torch.tensor([0]), kept).sum().backward()
    torch.testing.assert_close(eps.grad, torch.full((1, 1, 1, 1), -0.8 / 0.6))


def test_output_is_split_where_the_variance_is_learned() -> None:
    output = torch.arange(8.0).view(1, 8, 1, 1)
    eps, variance = split_eps(output, 4)
    assert eps.flatten().tolist() == [0, 1, 2, 3]
    assert variance is not None and variance.flatten().tolist() == [4, 5, 6, 7]
    assert split_eps(output, 8) == (output, None)
    with pytest.raises(ValueError, match="3 or 6"):
        split_eps(output, 3)
