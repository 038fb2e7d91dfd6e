"""The variational bound of a learned variance: against known distributions and by its limits."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from distillery.models.diffusion import add_noise, alphas_cumprod
from finetune.variance import BIN, Posterior, variance_loss

ABAR = alphas_cumprod("linear")


def setting(timesteps: list[int]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(timesteps), 1, 2, 2)
    x0 = torch.rand(shape, generator=generator) * 1.6 - 0.8
    noise = torch.randn(shape, generator=generator)
    t = torch.tensor(timesteps)
    return x0, noise, add_noise(x0, noise, t, ABAR), t


def loss_of(values, eps, x0, noisy, t) -> torch.Tensor:
    return variance_loss(values, eps, x0, noisy, t, ABAR, Posterior(ABAR))


def test_the_posterior_is_bayes_rule() -> None:
    """q(x_{t-1} | x_t, x_0) from the product of its two normal factors, at t = 300."""
    t, x0, x = 300, 0.3, -0.7
    before, kept = ABAR[t - 1].item(), ABAR[t].item()
    alpha = kept / before
    precision = alpha / (1 - alpha) + 1 / (1 - before)
    mean = (math.sqrt(alpha) * x / (1 - alpha) + math.sqrt(before) * x0 / (1 - before)) / precision
    posterior = Posterior(ABAR)
    as_tensor = torch.tensor([t]), torch.full((1, 1, 1, 1), x0), torch.full((1, 1, 1, 1), x)
    assert posterior.mean(as_tensor[1], as_tensor[2], as_tensor[0]).item() == pytest.approx(mean)
    assert posterior.log_min[t].item() == pytest.approx(-math.log(precision), rel=1e-5)
    assert posterior.log_max[t].item() == pytest.approx(math.log(1 - alpha), rel=1e-5)


def test_a_perfect_prediction_costs_nothing() -> None:
    x0, noise, noisy, t = setting([5, 400, 999])
    assert loss_of(-torch.ones_like(x0), noise, x0, noisy, t).item() == pytest.approx(0, abs=1e-5)


def test_it_equals_the_divergence_of_the_two_normals() -> None:
    x0, noise, noisy, t = setting([100, 700])
    eps = noise + 0.3
    values = torch.full_like(x0, 0.4)  # 0.7 of the way from the least to the largest variance
    posterior = Posterior(ABAR)
    at = t.view(-1, 1, 1, 1)
    low, high = posterior.log_min[at], posterior.log_max[at]
    kept = ABAR[at].float()
    x0_hat = (noisy - (1 - kept).sqrt() * eps) / kept.sqrt()
    true = Normal(posterior.mean(x0, noisy, t), (0.5 * low).exp())
    model = Normal(posterior.mean(x0_hat, noisy, t), (0.5 * (0.7 * high + 0.3 * low)).exp())
    expected = kl_divergence(true, model).mean() / math.log(2)
    assert loss_of(values, eps, x0, noisy, t).item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_last_step_is_the_likelihood_of_an_8_bit_level() -> None:
    x0, noise, noisy, t = setting([0])
    values = torch.zeros_like(x0)
    posterior = Posterior(ABAR)
    mean = posterior.mean(x0, noisy, t)  # with the true noise, the estimate of x0 is exact
    std = (0.25 * (posterior.log_min[0] + posterior.log_max[0])).exp()
    model = Normal(mean.double(), std.double())
    likelihood = model.cdf(x0.double() + BIN) - model.cdf(x0.double() - BIN)
    expected = -likelihood.log2().mean()
    assert loss_of(values, noise, x0, noisy, t).item() == pytest.approx(expected.item(), rel=1e-3)


def test_the_gradient_reaches_the_variance_only_and_points_to_the_error() -> None:
    x0, noise, noisy, t = setting([200, 600])
    eps = (noise + 2.0).requires_grad_()
    values = torch.zeros_like(x0).requires_grad_()
    loss_of(values, eps, x0, noisy, t).backward()
    assert eps.grad is None
    assert (values.grad < 0).all()  # a mean so far off calls for more variance


def test_every_step_is_finite() -> None:
    x0, noise, noisy, t = setting([0, 1, 2, 998, 999])
    x0[:, 0, 0, 0], x0[:, 0, 0, 1] = 1.0, -1.0
    values = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = loss_of(values, noise + 5, x0, noisy, t)
    loss.backward()
    assert loss.isfinite()
    assert values.grad.isfinite().all()
