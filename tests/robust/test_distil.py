"""The engine of matching: every method moves the images, resumes exactly, stops on bad numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from set_helpers import WholeSets

from distillery.checkpoint import Checkpoint
from distillery.data.normalise import Normalisation
from distillery.errors import Cancelled, ConfigError, TrainingError
from robust.constraints import ConstraintWeights
from robust.distil import Budget, _Run, distil, stages_of
from robust.matching_types import Method, NetworkPlan, WeightedConstraint
from robust.methods import METHODS, method_for, robust_variant, with_constraints
from robust.moving_clusters import cluster_around
from robust.networks import Surroundings, build
from robust.objective import PRESETS, GroupRobust
from robust.objectives import distribution_matching
from robust.parameters import MultiFormation, Pixels
from robust.refine import RealImages

NORMALISATION = Normalisation((0.5,), (0.25,), (0.5,))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def _around(network: str = "convnet-d1-w4") -> Surroundings:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(3).repeat_interleave(20)
    images = torch.rand(60, 1, 8, 8, generator=generator) * 2 - 1 + labels[:, None, None, None] / 2
    return Surroundings(network, RealImages(images, labels), 3, seed=7)


def _short(method: Method) -> Method:
    """The same method with little work between two steps of the images."""
    plan = replace(
        method.networks, steps=min(2, method.networks.steps), batch_size=30,
        warmup_steps=min(2, method.networks.warmup_steps), queue_every=2, renew_every=2,
    )  # fmt: skip
    return replace(method, networks=plan, reals_per_class=8)


def _run(method: Method, iterations: int = 3, **options):
    parameterisation = (
        MultiFormation(NORMALISATION.clamp, method.factor)
        if method.factor > 1
        else Pixels(NORMALISATION.clamp)
    )
    start = torch.zeros(len(LABELS) * parameterisation.views, 1, 8, 8)
    start += torch.linspace(-1, 1, len(start))[:, None, None, None]
    budget = Budget(iterations=iterations)
    return start, distil(
        method, start, LABELS, _around(), parameterisation, budget=budget, **options
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_images_plain_and_robust(name: str) -> None:
    for method in (method_for(name, 10), robust_variant(method_for(name, 10))):
        start, done = _run(replace(_short(method), stages=min(2, method.stages)))
        assert len(done.losses) == 3
        assert np.isfinite(done.losses).all()
        begun = start if method.factor == 1 else MultiFormation(NORMALISATION.clamp).encode(start)
        moved = (done.images - begun).abs().amax((1, 2, 3))
        assert (moved > 0).all()  # each image of each class
        assert done.images.shape == (6, 1, 8, 8)
        assert float(done.images.abs().max()) <= 2.001  # what raw pixels can hold


def test_matching_brings_class_means_nearer() -> None:
    method = replace(
        method_for("dm", 10), augmentation=None, reals_per_class=20, learning_rate=0.2,
        networks=NetworkPlan(source="random", renew_every=1000),
    )  # fmt: skip
    _, done = _run(method, iterations=30)
    assert done.losses[-1] < 0.5 * done.losses[0]


@pytest.mark.parametrize("name", ["dm", "dsa", "idm", "idc", "pdd", "dream"])
def test_a_run_that_was_cut_ends_as_one_that_was_not(name: str, tmp_path) -> None:
    method = _short(robust_variant(method_for(name, 10)) if name == "idm" else method_for(name, 10))
    method = replace(method, stages=min(2, method.stages))
    _, whole = _run(method, iterations=5)
    checkpoint = Checkpoint(tmp_path / "state.safetensors", interval_s=0.0)

    def cut(progress) -> None:
        if progress.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        _run(method, iterations=5, checkpoint=checkpoint, on_progress=cut)
    _, resumed = _run(method, iterations=5, checkpoint=checkpoint)
    assert torch.equal(resumed.images, whole.images)
    assert resumed.losses == whole.losses


def test_classes_taken_one_by_one_give_the_same_step() -> None:
    method = replace(method_for("dm", 10), augmentation=None, reals_per_class=20)
    _, together = _run(method, iterations=1)
    _, apart = _run(method, iterations=1, classes_per_step=1)
    assert torch.allclose(together.images, apart.images, atol=1e-5)


def test_a_term_that_is_not_finite_is_named_and_the_last_good_state_is_kept(tmp_path) -> None:
    calls = []

    def bad(network, real, synthetic, num_classes):
        calls.append(1)
        return synthetic.images.sum() * (torch.nan if len(calls) == 3 else 1.0)

    method = replace(
        method_for("dm", 10), constraints=(WeightedConstraint("spread", 1.0, bad),),
        reals_per_class=4,
    )  # fmt: skip
    checkpoint = Checkpoint(tmp_path / "state.safetensors", interval_s=3600.0)
    with pytest.raises(TrainingError, match=r"spread became nan at step 2.*last good state"):
        _run(method, iterations=5, checkpoint=checkpoint)
    saved = checkpoint.load()
    assert saved is not None
    assert len(saved[1]["losses"]) == 2
    assert np.isfinite(saved[0]["values"]).all()


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is(tmp_path) -> None:
    def steep(network, real, synthetic, num_classes):
        # the root of zero is zero, and its slope is infinite
        return (0 * synthetic.images.sum()).abs().sqrt()

    method = replace(
        method_for("dm", 10), constraints=(WeightedConstraint("steep", 1.0, steep),),
        reals_per_class=4,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="the gradient became nan at step 0"):
        _run(method, iterations=1)


def test_a_budget_of_seconds_ends_the_run_by_its_own_clock() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.25
        return now[0]

    method = replace(method_for("dm", 10), reals_per_class=4)
    start = torch.zeros(6, 1, 8, 8)
    done = distil(
        method, start, LABELS, _around(), Pixels(NORMALISATION.clamp),
        budget=Budget(seconds=3.0, clock=clock),
    )  # fmt: skip
    assert 1 < len(done.losses) < 12
    assert done.seconds >= 3.0


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_left_means_no_step(seconds: float) -> None:
    start = torch.zeros(6, 1, 8, 8)
    done = distil(
        method_for("dm", 10), start, LABELS, _around(), Pixels(NORMALISATION.clamp),
        budget=Budget(seconds=seconds),
    )  # fmt: skip
    assert done.losses == [] and torch.equal(done.images, start)


def test_cross_entropy_of_idm_weighs_as_much_as_the_network_knows() -> None:
    method = _short(method_for("idm", 10))
    seen = []

    def spy(network, real, synthetic, num_classes):
        seen.append(1)
        return synthetic.images.sum() * 0 + 1.0  # its weight is then what it adds to the loss

    def nothing(network, real, synthetic, num_classes):
        return synthetic.images.sum() * 0

    term = replace(method.constraints[0], term=spy)
    method = replace(method, constraints=(term,), objective=nothing, augmentation=None)
    plan = replace(method.networks, queue_start=0, queue_every=100, queue_size=1)
    _, done = _run(replace(method, networks=plan))
    assert done.losses[0] == 0  # an untrained network has no say
    assert 0 < done.losses[-1] <= 0.5 * 100


def test_dc_says_where_it_has_no_loops() -> None:
    with pytest.raises(ConfigError, match="dc has loops for 1, 10, 20, 30, 40, 50.*got 15"):
        method_for("dc", 15)
    assert method_for("dm", 15).num_iterations == 20_000


def test_an_unknown_method_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="dc, dsa, dm, idm, idc, dream, pdd, got 'mtt'"):
        method_for("mtt", 10)


def test_constraints_stand_beside_the_objective_with_their_weights() -> None:
    network = build(_around(), 0)
    method = with_constraints(method_for("dm", 10), ConstraintWeights(0.05, 0.01), network)
    assert method.name == "dm+centralisation+covariance"
    assert [one.weight for one in method.constraints] == [0.05, 0.01]
    assert method.objective is distribution_matching
    with pytest.raises(ConfigError, match="needs a network"):
        with_constraints(method, ConstraintWeights(0.05, 0.0), None)


def test_the_robust_variant_trains_networks_on_real_data() -> None:
    plan = robust_variant(method_for("dm", 10)).networks
    assert plan.source == "trained" and plan.robust is not None and plan.warmup_steps > 0
    assert robust_variant(method_for("dsa", 10)).networks.source == "trained"
    with pytest.raises(ConfigError, match="default, reference"):
        robust_variant(method_for("dm", 10), "printed")


def test_the_reference_preset_enlarges_the_batches_of_networks_and_goes_on_from_its_memory(
    tmp_path, monkeypatch
) -> None:
    sizes = []
    plain = GroupRobust.__call__
    monkeypatch.setattr(
        GroupRobust, "__call__", lambda self, losses, ids, **options: (
            sizes.append(len(losses)) or plain(self, losses, ids, **options)
        ),
    )  # fmt: skip
    method = _short(robust_variant(method_for("dm", 10), "reference"))
    assert method.networks.batch_size == 30
    _run(method, iterations=1)
    assert sizes and set(sizes) == {3 * 256}
    remembering = replace(PRESETS["default"], memory=0.9)
    method = replace(method, networks=replace(method.networks, robust=remembering))
    _, whole = _run(method, iterations=4)
    checkpoint = Checkpoint(tmp_path / "state.safetensors", interval_s=0.0)

    def cut(progress) -> None:
        if progress.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        _run(method, iterations=4, checkpoint=checkpoint, on_progress=cut)
    saved = checkpoint.load()
    assert saved is not None
    seen = saved[0]["network.running"]
    assert seen.shape == (3 * 2,) and np.isfinite(seen).any()  # as many clusters as images
    _, resumed = _run(method, iterations=4, checkpoint=checkpoint)
    assert torch.equal(resumed.images, whole.images)


def test_clusters_below_the_least_size_join_the_nearest(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        "robust.networks.cluster_around",
        lambda *arrays, **options: (
            asked.append(options["min_size"]) or cluster_around(*arrays, **options)
        ),
    )
    _run(_short(robust_variant(method_for("dm", 10))), iterations=1)
    assert set(asked) == {PRESETS["default"].min_cluster_size}


def test_stages_move_their_own_images_and_leave_the_others() -> None:
    states = []
    method = replace(_short(method_for("pdd", 10)), stages=2, augmentation=None)
    start = _run(method, iterations=1)[0]
    for iterations in (2, 4):
        run = _Run(
            method, start, LABELS, _around(), Pixels(NORMALISATION.clamp), Budget(iterations=4)
        )
        for _ in range(iterations):
            run.iterate(20)
        states.append(run.values.detach().clone())
    first, second = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    middle, end = states
    begun = Pixels(NORMALISATION.clamp).store(start)
    assert torch.equal(middle[second], begun[second])  # not looked at yet
    assert (middle[first] - begun[first]).abs().amax((1, 2, 3)).min() > 0
    assert torch.equal(end[first], middle[first])  # frozen
    assert (end[second] - begun[second]).abs().amax((1, 2, 3)).min() > 0


def test_every_network_of_a_stage_has_learnt_the_earlier_images_before_the_first_look() -> None:
    method = replace(_short(method_for("pdd", 10)), stages=2, augmentation=None)
    around, seen = _around(), []
    run = _Run(
        method, torch.zeros(6, 1, 8, 8), LABELS, around, Pixels(NORMALISATION.clamp),
        Budget(iterations=6),
    )  # fmt: skip
    plain = run.networks.at

    def at(iteration, synthetic):
        network = plain(iteration, synthetic)
        number = run.networks._number
        fresh = build(around, number)
        changed = any(
            not torch.equal(a, b)
            for a, b in zip(network.parameters(), fresh.parameters(), strict=True)
        )
        seen.append((number, len(synthetic().labels), changed))
        return network

    run.networks.at = at
    for _ in range(6):
        run.iterate(20)
    # a network serves two iterations, a stage has three; each stage begins with a fresh one
    assert [number for number, *_ in seen] == [0, 0, 1, 2, 2, 3]
    assert seen[0] == (0, 0, False) and seen[2] == (1, 0, False)  # there is nothing to learn yet
    assert seen[3] == (2, 3, True) and seen[5] == (3, 3, True)  # they learnt the first stage's


def test_what_is_as_large_as_the_set_does_not_grow_with_the_parts_of_a_step() -> None:
    method = replace(_short(method_for("dm", 10)), reals_per_class=1)
    counts = []
    for num_classes in (8, 24):
        labels = torch.arange(num_classes).repeat_interleave(8)
        images = torch.randn(len(labels), 1, 8, 8)
        around = Surroundings("convnet-d1-w4", RealImages(images, labels), num_classes, seed=7)
        run = _Run(
            method, images, labels, around, Pixels(NORMALISATION.clamp), Budget(iterations=2)
        )
        run.iterate(1)  # which looks for the parts
        with WholeSets(images) as whole:
            run.iterate(1)
        counts.append(whole.count)
    assert counts[0] == counts[1] > 0


def test_pdd_says_where_it_has_no_stages() -> None:
    with pytest.raises(ConfigError, match="pdd has stages for 10 and 50 images per class, got 20"):
        method_for("pdd", 20)
    method = method_for("pdd", 10)
    assert (method.stages, method.num_iterations) == (5, 50_000)
    assert method.networks.warmup_steps == 500
    with pytest.raises(ValueError, match="class 0 has 2 images, which 5 stages cannot share"):
        stages_of(LABELS, 5)
    assert stages_of(torch.arange(2).repeat_interleave(10), 5)[:10].tolist() == [
        0, 0, 1, 1, 2, 2, 3, 3, 4, 4
    ]  # fmt: skip
