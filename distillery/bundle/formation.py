"""Packed images: stored images that hold several pictures side by side, and how they come out.

The parts of an image are enlarged to its full size by bilinear interpolation, in the order of
reading; NumPy only. Source: Kim et al. (2022), IDC, multi-formation; the same function as
`robust.parameters.MultiFormation`. Shapes: N stored images, F factor, C channels, H = W pixels.
"""

import numpy as np

FACTORS = (2, 3)
"""Pictures along each side of a packed image."""


def decode_pictures(images: np.ndarray, factor: int, fill: tuple[float, ...]) -> np.ndarray:
    """Return the pictures of packed images, uint8 (N * F * F, C, H, W); as they are at factor 1.

    Args:
        images: uint8 (N, C, H, W).
        factor: F. Where it does not divide the side, images are first widened to the right and
            below by the fewest pixels.
        fill: What stands there, of each channel, in [0, 1].
    """
    if factor == 1:
        return images
    count, channels, side, _ = images.shape
    part = -(-side // factor)
    weights = _weights(part, side)  # (H, part)
    border = np.asarray(fill, np.float32).reshape(1, channels, 1, 1) * 255
    result = np.empty((count, factor * factor, channels, side, side), np.uint8)
    for index in range(count):  # one at a time: float pictures of all would take much memory
        wide = np.broadcast_to(border, (1, channels, factor * part, factor * part)).copy()[0]
        wide[:, :side, :side] = images[index]
        tiles = wide.reshape(channels, factor, part, factor, part).transpose(1, 3, 0, 2, 4)
        large = weights @ tiles @ weights.T  # (F, F, C, H, W)
        pictures = np.clip(np.rint(large), 0, 255).astype(np.uint8)
        result[index] = pictures.reshape(result.shape[1:])
    return result.reshape(-1, channels, side, side)


def _weights(size: int, target: int) -> np.ndarray:
    """Return the bilinear weights (target, size) of a line; pixels are areas, edges repeat."""
    places = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    lower = np.floor(places).astype(np.int64)
    upper = np.minimum(lower + 1, size - 1)
    share = places - lower
    weights = np.zeros((target, size))
    rows = np.arange(target)
    np.add.at(weights, (rows, lower), 1 - share)
    np.add.at(weights, (rows, upper), share)
    return weights.astype(np.float32)
