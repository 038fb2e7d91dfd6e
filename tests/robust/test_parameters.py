"""What is optimised in place of plain images."""

import pytest
import torch
from torch import Tensor, nn

from distillery.data.normalise import Normalisation
from distillery.models.codec import PixelCodec
from robust.parameters import Latents, MultiFormation, Pixels, codec_latents

NORMALISATION = Normalisation((0.5,), (0.25,), (0.0,))  # raw pixels reach from -2 to 2


def clamp(images: Tensor) -> Tensor:
    return images.clamp(-2, 2)


def random_images(count: int, size: int = 8, channels: int = 1) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def latents(bound: float = torch.inf) -> Latents:
    """An autoencoder of one channel to two and back."""
    torch.manual_seed(0)
    down, up = nn.Conv2d(1, 2, 2, stride=2), nn.ConvTranspose2d(2, 1, 2, stride=2)
    return Latents(down, nn.Sequential(up, nn.Tanh()), clamp, bound)


def test_pixels_are_the_images() -> None:
    images = random_images(3) * 3
    pixels = Pixels(clamp)
    parameters = pixels.encode(images)
    assert torch.equal(pixels.decode(parameters), images) and parameters is not images
    assert torch.equal(pixels.store(parameters), clamp(images))
    pixels.project(parameters)
    assert torch.equal(parameters, clamp(images))


@pytest.mark.parametrize("factor", [2, 3])
def test_packing_and_unpacking_keeps_flat_images_in_their_order(factor: int) -> None:
    shades = torch.linspace(-1, 1, 2 * factor**2)
    images = shades[:, None, None, None].expand(-1, 1, 12, 12)
    packed = MultiFormation(clamp, factor).encode(images)
    assert packed.shape == (2, 1, 12, 12)
    torch.testing.assert_close(MultiFormation(clamp, factor).decode(packed), images)


def test_decoding_cuts_rows_first_and_enlarges() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    views = MultiFormation(clamp, 2).decode(image)
    assert views.shape == (4, 1, 4, 4)
    quarters = [image[:, :, :2, :2], image[:, :, :2, 2:], image[:, :, 2:, :2], image[:, :, 2:, 2:]]
    for view, quarter in zip(views, quarters, strict=True):
        torch.testing.assert_close(view.mean(), quarter.mean())
        torch.testing.assert_close(view[0, 0, 0], quarter[0, 0, 0, 0])  # corners stay


def test_a_factor_that_does_not_divide_the_side() -> None:
    packing = MultiFormation(clamp, 3, fill=-1.0)
    images = torch.ones(9, 3, 32, 32)
    packed = packing.encode(images)
    torch.testing.assert_close(packed, torch.ones(1, 3, 32, 32))
    views = packing.decode(packed)
    assert views.shape == (9, 3, 32, 32)
    torch.testing.assert_close(views[0], torch.ones(3, 32, 32))
    assert views[2, :, :, -1].max() == -1 and views[8, :, -1].max() == -1  # the widened border


@pytest.mark.parametrize(
    "parameterisation", [Pixels(clamp), MultiFormation(clamp, 2), MultiFormation(clamp, 3)]
)
def test_gradients_reach_every_pixel_of_their_own_image(parameterisation) -> None:
    parameters = random_images(2).double().requires_grad_()
    parameterisation.decode(parameters)[: parameterisation.views].sum().backward()
    assert parameters.grad is not None
    assert (parameters.grad[0] > 0).all() and (parameters.grad[1] == 0).all()
    assert torch.autograd.gradcheck(parameterisation.decode, (parameters,))


def test_gradients_reach_latents_through_the_decoder() -> None:
    parameterisation = latents()
    start = parameterisation.encode(random_images(2))
    assert not start.requires_grad
    parameters = start.double().requires_grad_()
    assert isinstance(parameterisation.decoder, nn.Module)
    parameterisation.decoder.double()
    assert torch.autograd.gradcheck(parameterisation.decode, (parameters,))


def test_latents_stay_in_their_box_and_are_stored_as_images() -> None:
    parameterisation = latents(bound=0.5)
    parameters = 5 * parameterisation.encode(random_images(2))
    assert parameters.abs().max() > 0.5
    parameterisation.project(parameters)
    assert parameters.abs().max() <= 0.5
    stored = parameterisation.store(parameters)
    assert stored.shape == (2, 1, 8, 8) and not stored.requires_grad


def test_latents_of_a_pixel_codec_are_images_in_its_units() -> None:
    parameterisation = codec_latents(PixelCodec(1), NORMALISATION)
    images = clamp(random_images(2))
    parameters = parameterisation.encode(images)
    assert parameters.abs().max() <= 1 + 1e-6  # -2 is black, -1 for the codec
    torch.testing.assert_close(parameters, images / 2)
    torch.testing.assert_close(parameterisation.decode(parameters), images)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="factor 2 or 3, got 4"):
        MultiFormation(clamp, 4)
    with pytest.raises(ValueError, match="give a multiple of 4, got 6"):
        MultiFormation(clamp, 2).encode(random_images(6))
