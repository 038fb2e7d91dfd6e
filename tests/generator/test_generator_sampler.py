"""Sampling: the stock pipeline's images, guidance, and images that do not depend on the batch."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from distillery.errors import Cancelled
from distillery.models.config import PixelDiTConfig
from distillery.models.diffusion import alphas_cumprod
from distillery.models.dit import build_pixel_dit
from distillery.models.initialise import seeded_weights
from generator.noise import initial_noise, noise_seed
from generator.sampler import SamplerName, guided_eps, make_scheduler, sample_latents

LINEAR = alphas_cumprod("linear")
COSINE = alphas_cumprod("squaredcos_cap_v2")
NULL = 1000


@pytest.fixture(scope="module")
def pipeline() -> DiTPipeline:
    """The published layout: ImageNet's rows, learned variance, an autoencoder."""
    with seeded_weights(0):
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
            num_layers=2, sample_size=4, patch_size=2, num_embeds_ada_norm=NULL,
        )  # fmt: skip
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=8,
        )  # fmt: skip
    for embedding in (m for m in transformer.modules() if isinstance(m, nn.Embedding)):
        embedding.weight.data *= 50  # so that a wrong row shows
    scheduler = DDIMScheduler(beta_schedule="linear", beta_end=0.02, clip_sample=False)
    pipe = DiTPipeline(transformer.eval(), vae.eval(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Bounded(nn.Module):
    """A DiT whose estimates of the image lie in [-1, 1], as those of a trained one do."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, timestep: Tensor, **other: object) -> tuple[Tensor]:
        image = self.transformer(x, timestep=timestep, **other)[0].mul(0.3).tanh()
        kept = COSINE[timestep].float().reshape(-1, 1, 1, 1)
        return ((x - kept.sqrt() * image) / (1 - kept).sqrt(),)


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    config = PixelDiTConfig(
        image_size=4, channels=1, num_classes=4, patch_size=2, num_layers=2, num_heads=2,
        head_dim=16,
    )  # fmt: skip
    transformer = build_pixel_dit(config, 0).eval()
    for embedding in (m for m in transformer.modules() if isinstance(m, nn.Embedding)):
        embedding.weight.data *= 50
    return Bounded(transformer)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # the stock scheduler's own
@pytest.mark.parametrize("num_steps", [4, 20])
@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_images_are_those_of_the_stock_pipeline(
    pipeline: DiTPipeline, sampler: str, num_steps: int, guidance_scale: float
) -> None:
    if sampler == "dpm-solver++":
        pipeline.scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", beta_end=0.02)
    else:
        pipeline.scheduler = DDIMScheduler(beta_schedule="linear", beta_end=0.02, clip_sample=False)
    rows = [207, 3]
    stock = pipeline(
        rows, guidance_scale=guidance_scale, num_inference_steps=num_steps, output_type="np",
        generator=torch.Generator().manual_seed(5),
    ).images  # fmt: skip
    noise = randn_tensor((2, 4, 4, 4), generator=torch.Generator().manual_seed(5))
    latents = sample_latents(
        pipeline.transformer, noise, torch.tensor(rows), alphas_cumprod=LINEAR, null_row=NULL,
        sampler=sampler, num_steps=num_steps, guidance_scale=guidance_scale,
    )  # fmt: skip
    with torch.inference_mode():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    ours = ((decoded + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.ptp(stock) > 0.05 and np.abs(ours - stock).max() < 1 / 255
    assert np.abs(ours[0] - ours[1]).max() > 0.01  # the two are not the same picture


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
def test_noise_leads_to_the_only_image_of_a_network_that_knows_it(sampler: str) -> None:
    """A perfect denoiser of one image: the solver must end on that image."""
    image = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)

    class Knows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dummy = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
            kept = COSINE[timestep].float().reshape(-1, 1, 1, 1)
            return ((x - kept.sqrt() * image) / (1 - kept).sqrt(),)

    noise = initial_noise([1, 2, 3], (1, 4, 4))
    latents = sample_latents(
        Knows(), noise, torch.zeros(3).long(), alphas_cumprod=COSINE, null_row=4, sampler=sampler,
        num_steps=15,
    )  # fmt: skip
    torch.testing.assert_close(latents, image.expand(3, 1, 4, 4), atol=0.02, rtol=0)


def test_images_agree_whatever_the_batch_and_the_company(tiny: nn.Module) -> None:
    seeds = [noise_seed(0, label, i) for label in range(4) for i in range(9)]
    rows = torch.arange(4).repeat_interleave(9)

    def sample(indices: list[int]) -> Tensor:
        return sample_latents(
            tiny, initial_noise([seeds[i] for i in indices], (1, 4, 4)), rows[indices],
            alphas_cumprod=COSINE, null_row=4, num_steps=8, guidance_scale=3.0,
        )  # fmt: skip

    whole = sample(list(range(36)))
    assert whole.std() > 0.2 and whole.abs().max() < 10
    assert torch.equal(whole, sample(list(range(36))))
    one_by_one = torch.cat([sample([i]) for i in range(0, 36, 5)])
    mixed = sample([35, 0, 17, 4])
    tolerance = 2 / 255  # of the range [-1, 1]
    assert (whole[::5] - one_by_one).abs().max() <= tolerance
    assert (whole[[35, 0, 17, 4]] - mixed).abs().max() <= tolerance


class Counting(nn.Module):
    """Says `label + 1` everywhere, and notes the batch of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: Tensor, class_labels: Tensor, **_: object) -> tuple[Tensor]:
        self.batches.append(len(x))
        return ((class_labels + 1.0).reshape(-1, 1, 1, 1).expand_as(x),)


def guided(network: nn.Module, scale: float) -> Tensor:
    return guided_eps(
        network, torch.zeros(2, 1, 1, 1), torch.zeros(2).long(), torch.tensor([0, 2]), null_row=9,
        guidance_scale=scale,
    ).flatten()  # fmt: skip


def test_guidance_by_hand() -> None:
    # conditional 1 and 3, unconditional 10: 10 + 2 (1 - 10) = -8, 10 + 2 (3 - 10) = -4
    network = Counting()
    assert guided(network, 2.0).tolist() == [-8.0, -4.0]
    assert network.batches == [4]
    assert guided(network, 0.0).tolist() == [10.0, 10.0]  # no label at all


def test_without_guidance_there_is_one_forward_pass_and_no_null_class() -> None:
    network = Counting()
    assert guided(network, 1.0).tolist() == [1.0, 3.0]
    assert network.batches == [2]


def test_learned_variances_are_left_out() -> None:
    class WithVariance(nn.Module):
        def forward(self, x: Tensor, **_: object) -> tuple[Tensor]:
            return (torch.cat([torch.ones_like(x), torch.full_like(x, 99.0)], 1),)

    assert guided(WithVariance(), 1.0).tolist() == [1.0, 1.0]
    assert guided(WithVariance(), 4.0).tolist() == [1.0, 1.0]


def test_the_class_decides_what_the_noise_becomes(tiny: nn.Module) -> None:
    noise = initial_noise([1, 1], (1, 4, 4))
    latents = sample_latents(
        tiny, noise, torch.tensor([0, 3]), alphas_cumprod=COSINE, null_row=4, num_steps=4
    )
    assert (latents[0] - latents[1]).abs().max() > 0.01


def test_each_step_is_told_and_may_stop_the_work(tiny: nn.Module) -> None:
    told: list[int] = []

    def stop_at_two() -> None:
        told.append(1)
        if len(told) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        sample_latents(
            tiny, initial_noise([1], (1, 4, 4)), torch.tensor([0]), alphas_cumprod=COSINE,
            null_row=4, num_steps=5, on_step=stop_at_two,
        )  # fmt: skip
    assert len(told) == 2


@pytest.mark.parametrize("sampler", ["dpm-solver++", "ddim"])
@pytest.mark.parametrize("length", [500, 2000])
def test_timesteps_are_those_of_the_schedule_whatever_its_length(
    sampler: SamplerName, length: int
) -> None:
    schedule = alphas_cumprod("linear", length, beta_end=20 / length)  # as much noise at its end
    scheduler = make_scheduler(sampler, schedule, 10)
    first, last = int(scheduler.timesteps[0]), int(scheduler.timesteps[-1])
    assert 0.85 * length < first < length and last < 0.12 * length


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be dpm-solver\+\+ or ddim, got 'euler'"):
        make_scheduler("euler", COSINE, 5)  # type: ignore[arg-type]
