"""Shifts of the test images that a robust student should survive: noise, blur, inversion.

Strengths fit the image size (docs/method.md): noise of standard deviation 0.071 up to 64 px
and 0.2 above, blur of radius side/16. Raw uint8 images in and out, (N, C, H, W).
"""

import numpy as np
from PIL import Image, ImageFilter

from distillery.seeds import numpy_rng


def add_noise(images: np.ndarray, *, sigma: float, seed: int) -> np.ndarray:
    """Return images with Gaussian noise of standard deviation `sigma` on the [0, 1] scale."""
    noise = numpy_rng(seed, "corruption", "noise").standard_normal(images.shape, np.float32)
    return (images + 255 * sigma * noise).round().clip(0, 255).astype(np.uint8)


def blur(images: np.ndarray, *, radius: float) -> np.ndarray:
    """Return images blurred by Pillow's Gaussian filter of `radius` pixels."""
    gaussian = ImageFilter.GaussianBlur(radius)
    blurred = np.empty_like(images)
    for index, image in enumerate(images):
        for channel, plane in enumerate(image):
            blurred[index, channel] = np.asarray(Image.fromarray(plane).filter(gaussian))
    return blurred


def invert(images: np.ndarray) -> np.ndarray:
    """Return the negative of each image."""
    return 255 - images


def standard_corruptions(
    images: np.ndarray, *, seed: int = 0, blur_radius: float | None = None
) -> dict[str, np.ndarray]:
    """Return `{"noise", "blur", "invert"}` of the images, at strengths that fit their size.

    `blur_radius` takes the place of the radius that fits: the published one is 2 at every size.
    """
    side = images.shape[-1]
    return {
        "noise": add_noise(images, sigma=0.071 if side <= 64 else 0.2, seed=seed),
        "blur": blur(images, radius=side / 16 if blur_radius is None else blur_radius),
        "invert": invert(images),
    }
