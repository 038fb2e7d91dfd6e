"""Representative real images: one nearest to each centre."""

import numpy as np

from robust.representatives import nearest_to_centres


def test_each_centre_gets_the_image_nearest_to_it() -> None:
    features = np.array([[0.0], [1.0], [0.4], [10.0], [12.0], [11.2]])
    rows = nearest_to_centres(features, 2, seed=0)
    assert sorted(rows.tolist()) == [2, 5]  # means 0.47 and 11.07


def test_as_many_centres_as_images_give_them_all() -> None:
    features = np.array([[0.0], [5.0], [9.0]])
    assert sorted(nearest_to_centres(features, 3, seed=0).tolist()) == [0, 1, 2]
