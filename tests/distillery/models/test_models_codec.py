"""Codecs: scaling, shapes, batches and where gradients go."""

from collections.abc import Callable

import pytest
import torch

from distillery.models.base import DiffusionBase
from distillery.models.codec import LatentCodec, PixelCodec


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pixel_codec_changes_nothing(images: torch.Tensor) -> None:
    codec = PixelCodec(3)
    mean, std = codec.encode_moments(images)
    assert torch.equal(mean, images) and not std.any()
    assert codec.decode(images) is images
    assert codec.latent_shape(8) == (3, 8, 8)


def test_latents_are_scaled_moments_of_the_autoencoder(
    latent_base: DiffusionBase, images: torch.Tensor
) -> None:
    codec = latent_base.codec
    assert isinstance(codec, LatentCodec)
    mean, std = codec.encode_moments(images)
    with torch.no_grad():
        posterior = codec.vae.encode(images).latent_dist
    torch.testing.assert_close(mean, posterior.mean * 0.18215)
    torch.testing.assert_close(std, posterior.std * 0.18215)
    assert mean.shape[1:] == codec.latent_shape(8) == (4, 4, 4)
    assert not mean.requires_grad


def test_decoding_undoes_the_scale(latent_base: DiffusionBase) -> None:
    codec = latent_base.codec
    assert isinstance(codec, LatentCodec)
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        codec.decode(latents), codec.vae.decode(latents / 0.18215).sample, rtol=1e-4, atol=1e-5
    )


def test_batches_do_not_change_the_result(latent_base: DiffusionBase, images: torch.Tensor) -> None:
    assert isinstance(latent_base.codec, LatentCodec)
    small = LatentCodec(latent_base.codec.vae, batch_size=2)
    mean, _ = latent_base.codec.encode_moments(images)
    torch.testing.assert_close(small.encode_moments(images)[0], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        small.decode(mean), latent_base.codec.decode(mean), rtol=1e-4, atol=1e-5
    )


def test_gradient_reaches_latents_and_not_the_autoencoder(latent_base: DiffusionBase) -> None:
    assert isinstance(latent_base.codec, LatentCodec)
    latents = torch.zeros(3, 4, 4, 4, requires_grad=True)
    latent_base.codec.decode(latents)[:2].sum().backward()
    assert latents.grad is not None
    assert [bool(row.any()) for row in latents.grad] == [True, True, False]
    assert all(p.grad is None for p in latent_base.codec.vae.parameters())


def test_decoding_with_a_gradient_keeps_no_activations_and_gives_the_same_gradient(
    latent_base: DiffusionBase,
) -> None:
    codec = latent_base.codec
    assert isinstance(codec, LatentCodec)
    parted = LatentCodec(codec.vae, batch_size=8)  # parts of two
    start = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(2))

    def gradient(decode: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, int]:
        latents, kept = start.clone().requires_grad_(), []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            images = decode(latents)
        images.square().sum().backward()
        assert latents.grad is not None
        return latents.grad, sum(kept)

    own, kept = gradient(parted.decode)
    plain, all_kept = gradient(lambda z: codec.vae.decode(z / codec.scaling_factor).sample)
    torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    assert kept < all_kept / 20
