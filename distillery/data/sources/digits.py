"""scikit-learn's handwritten digits: 1,797 real gray images of 8 x 8 pixels, ten classes.

The embedded default, because it comes with a dependency. Its splits are fixed, so that numbers of
different runs can be compared: 600 test, 200 validation, 997 train, each stratified.
Source: Alpaydin & Kaynak (1998), UCI "Optical Recognition of Handwritten Digits", CC BY 4.0.
"""

from functools import partial

import numpy as np

from distillery.data.source import Item, Source
from distillery.data.splits import draw_stratified

NUM_TEST, NUM_VALIDATION = 600, 200


def open_digits() -> Source:
    """Return the digits with their fixed splits; gray levels 0-16 become 0-255."""
    from sklearn.datasets import load_digits  # here: it takes a second to import

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    labels = bunch.target.astype(np.int64)
    everything = np.arange(len(labels))
    test = draw_stratified(labels, everything, NUM_TEST, 0, "digits", "test")
    rest = np.setdiff1d(everything, test)
    validation = draw_stratified(labels, rest, NUM_VALIDATION, 0, "digits", "validation")

    splits = np.full(len(labels), "train", dtype=object)
    splits[test], splits[validation] = "test", "validation"
    items = [
        Item(f"{index:04d}", int(labels[index]), splits[index], partial(images.__getitem__, index))
        for index in everything
    ]
    return Source(
        kind="digits",
        reference="digits",
        class_names=tuple("0123456789"),
        items=items,
        licence="cc-by-4.0",
    )
