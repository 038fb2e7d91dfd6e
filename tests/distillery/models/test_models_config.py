"""Costs are formulas: they must agree with networks that are really built and run."""

import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distillery.errors import ConfigError
from distillery.models.config import (
    PUBLISHED_BASES,
    VAE_NUM_PARAMETERS,
    PixelDiTConfig,
    dit_flops_per_image,
    dit_num_parameters,
    parse_classifier_name,
    vae_flops_per_image,
)
from distillery.models.dit import build_pixel_dit, denoise

SMALL = PixelDiTConfig(
    image_size=12, channels=3, num_classes=7, patch_size=4, num_layers=2, num_heads=3, head_dim=8
)


def test_a_network_is_known_again_by_its_description() -> None:
    described = SMALL.transformer_config()
    assert PixelDiTConfig.of_transformer(described).transformer_config() == described


@pytest.mark.parametrize("config", [SMALL, PixelDiTConfig.for_images(8, 1, 10)])
def test_number_of_parameters_is_that_of_the_network(config: PixelDiTConfig) -> None:
    network = build_pixel_dit(config, seed=0)
    assert config.num_parameters() == sum(p.numel() for p in network.parameters())


def test_digits_default_is_the_prototype() -> None:
    config = PixelDiTConfig.for_images(8, 1, 10)
    assert (config.width, config.num_layers, config.patch_size) == (96, 4, 2)
    assert config.num_parameters() == 828_964  # measured on the built network


def test_flops_are_those_that_torch_counts() -> None:
    network = build_pixel_dit(SMALL, seed=0).eval()
    for size in (1, 5):
        zeros = torch.zeros(size, dtype=torch.int64)
        counter = FlopCounterMode(display=False)
        # torch does not count its fused attention on a CPU
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            denoise(network, torch.zeros(size, 3, 12, 12), zeros, zeros)
        assert counter.get_total_flops() == size * SMALL.flops_per_image()


def test_published_base_has_the_published_cost() -> None:
    config = PUBLISHED_BASES["facebook/DiT-XL-2-256"].transformer
    assert dit_num_parameters(config) == pytest.approx(
        749.8e6, rel=1e-4
    )  # measured on the built network
    # Peebles & Xie, Table 1 count a multiplication and its addition as one: 118.6 G
    assert dit_flops_per_image(config) / 2 == pytest.approx(118.6e9, rel=0.01)


def test_autoencoder_costs_what_torch_counts() -> None:
    with torch.device("meta"):  # shapes only: nothing is computed
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        )  # fmt: skip
    assert sum(p.numel() for p in vae.parameters()) == VAE_NUM_PARAMETERS
    for size in (256, 512):
        image = torch.zeros(1, 3, size, size, device="meta")
        latent = torch.zeros(1, 4, size // 8, size // 8, device="meta")
        counts = []
        for function, argument in ((vae.encode, image), (vae.decode, latent)):
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                function(argument)
            counts.append(counter.get_total_flops())
        assert tuple(counts) == vae_flops_per_image(size)


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (16, 2), (28, 4), (32, 4), (64, 4)])
def test_patch_follows_the_image_size(size: int, patch: int) -> None:
    assert PixelDiTConfig.for_images(size, 3, 10).patch_size == patch


def test_size_that_is_no_multiple_of_the_patch_names_one_that_is() -> None:
    with pytest.raises(ConfigError, match="use 28"):
        PixelDiTConfig.for_images(29, 1, 10)


def test_values_that_no_network_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels"):
        PixelDiTConfig.for_images(8, 2, 10)
    with pytest.raises(ConfigError, match="noise_schedule"):
        PixelDiTConfig(
            image_size=8, channels=1, num_classes=2, patch_size=2,
            noise_schedule="sigmoid",  # type: ignore[arg-type]
        )  # fmt: skip
    with pytest.raises(ConfigError, match="geglu"):
        dit_num_parameters({"activation_fn": "geglu"})


def test_costs_need_no_torch() -> None:
    code = "import sys, distillery.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet", "one of convnet-d3-w128.*alexnet, vgg11, resnet10, resnet18, resnetap10, vit"),
        ("resnet34", "one of"),
        ("convnet-d3", "one of"),
        ("convnet-d3-w0", "width of a network must be 1 to 2048"),
        ("resnet18-w9999", "width of a network must be 1 to 2048"),
        ("convnet-d0-w8", "depth of 1 or more"),
        ("vit-w40", "multiple of 32"),
    ],
)
def test_networks_that_cannot_be_built_list_the_choices(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_classifier_name(name)


def test_names_say_family_depth_and_width() -> None:
    name = parse_classifier_name("convnet-d4-w16-group-max")
    assert (name.family, name.depth, name.width) == ("convnet", 4, 16)
    assert name.is_group_norm and name.is_max_pooled
    assert parse_classifier_name("alexnet").width == 128
    assert parse_classifier_name("resnetap10-w8").width == 8
