"""What the tests of fine-tuning build on: a DiT of 2 blocks, width 32, 4 x 4 pixels, 4 classes."""

from diffusers import DiTTransformer2DModel

from distillery.models.config import PixelDiTConfig
from distillery.models.dit import build_pixel_dit

NUM_CLASSES = 4


def build_tiny_dit(seed: int = 0, channels: int = 1) -> DiTTransformer2DModel:
    config = PixelDiTConfig(
        image_size=4, channels=channels, num_classes=NUM_CLASSES, patch_size=2,
        num_layers=2, num_heads=2, head_dim=16,
    )  # fmt: skip
    return build_pixel_dit(config, seed)
