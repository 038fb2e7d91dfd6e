"""What each method publishes, number by number (shared/methods.md, section 2)."""

import pytest

from robust.methods import method_for, robust_variant


@pytest.mark.parametrize("name", ["dc", "dsa"])
@pytest.mark.parametrize(
    ("images_per_class", "outer", "inner"), [(1, 1, 1), (10, 10, 50), (50, 50, 10)]
)
def test_gradient_matching(name: str, images_per_class: int, outer: int, inner: int) -> None:
    method = method_for(name, images_per_class)
    plan = method.networks
    assert (plan.source, plan.renew_every, plan.steps) == ("trained_along", outer, inner)
    assert (plan.learning_rate, plan.batch_size) == (0.01, 256)
    assert (method.learning_rate, method.momentum) == (0.1, 0.5)
    assert (method.num_iterations, method.reals_per_class) == (1000 * outer, 256)
    assert method.start == ("noise" if name == "dc" else "real")
    assert (method.augmentation is None) == (name == "dc")


@pytest.mark.parametrize(
    ("images_per_class", "rate"), [(1, 1.0), (10, 1.0), (50, 1.0), (100, 10.0)]
)
def test_distribution_matching(images_per_class: int, rate: float) -> None:
    method = method_for("dm", images_per_class)
    assert method.networks.source == "random"
    assert (method.num_iterations, method.reals_per_class) == (20_000, 256)
    assert (method.learning_rate, method.momentum) == (rate, 0.5)


def test_idm_looks_through_a_queue_of_networks_in_training() -> None:
    method, plan = method_for("idm", 10), method_for("idm", 10).networks
    assert plan.source == "queue" and method.factor == 2
    assert (plan.queue_start, plan.queue_size, plan.queue_every) == (3, 100, 30)
    (term,) = method.constraints
    assert term.weight == 0.5 and term.by_accuracy
    assert method_for("idm", 50).constraints[0].weight == 0.1


@pytest.mark.parametrize(("name", "reals"), [("idc", 64), ("dream", 128)])
def test_idc_and_dream(name: str, reals: int) -> None:
    method, plan = method_for(name, 10, pixel_std=1.0), method_for(name, 10).networks
    assert (method.factor, method.reals_per_class, plan.batch_size) == (2, reals, 128)
    assert (method.learning_rate, method.num_iterations) == (pytest.approx(5e-3), 200_000)
    assert plan.cutmix and (plan.momentum, plan.weight_decay) == (0.9, 5e-4)
    large = method_for(name, 10, image_size=224, pixel_std=1.0)
    assert (large.factor, large.num_iterations) == (3, 50_000)
    assert large.learning_rate == pytest.approx(3e-3)


def test_the_settings_of_the_robust_objective_can_be_others() -> None:
    plan = robust_variant(method_for("dm", 10), tail_fraction=0.5, min_cluster_size=2).networks
    assert plan.robust is not None
    assert (plan.robust.tail_fraction, plan.robust.min_cluster_size) == (0.5, 2)
