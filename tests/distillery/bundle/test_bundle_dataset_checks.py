"""A dataset that breaks a rule of the schema cannot be built, so it cannot be written."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.write import encode_bundle


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"labels": np.zeros(12, np.int64)}, "image 3 has label 0 instead of 1"),
        ({"labels": np.zeros(12, np.int32)}, "must have dtype I64, got I32"),
        ({"weights": np.ones(12)}, "must have dtype F32, got F64"),
        ({"images": np.zeros((12, 3, 5, 5), np.uint16)}, "must have dtype U8, got uint16"),
        ({"images": np.zeros((12, 2, 5, 5), np.uint8)}, "got 2 channels of 5 x 5"),
        ({"images": np.zeros((12, 3, 5, 4), np.uint8)}, "must be square"),
        ({"scores": np.full((12, 2), np.nan, np.float32)}, "'scores' must hold finite"),
        ({"images_per_class": 0}, "images_per_class must be 1 or more, got 0"),
        ({"origin": "drawn"}, "origin must be one of generated, refined, real, got 'drawn'"),
        ({"metadata": {"schema": "mine"}}, "filled in by the writer"),
        ({"metadata": {"seed": 3}}, "metadata must be text"),
        ({"metadata": {"norm_mean": "[0, 0, 0]"}}, "norm_mean and norm_std together"),
    ],
)
def test_a_rule_that_is_broken_is_named(
    make_dataset: Callable[..., DistilledDataset], fields: dict[str, Any], sentence: str
) -> None:
    images_per_class = fields.pop("images_per_class", None)
    with pytest.raises(ValueError, match=sentence):
        if images_per_class is None:
            make_dataset(**fields)
        else:
            make_dataset(images_per_class=images_per_class)


def test_metadata_that_the_reader_would_refuse_is_not_written(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    too_long = make_dataset(metadata={"note": "x" * (1 << 20)})
    with pytest.raises(ValueError, match="must fit into 1048576 bytes"):
        encode_bundle(too_long)
