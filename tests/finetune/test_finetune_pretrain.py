"""Pretraining: it learns, it resumes with the same bytes, and it says when it goes wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_helpers import NUM_CLASSES, build_tiny_dit

from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled, JobError, TrainingError
from distillery.models.diffusion import alphas_cumprod
from distillery.progress import Progress
from finetune import pretrain as pretraining
from finetune.config import PretrainConfig
from finetune.losses import min_snr_weights
from finetune.pretrain import learning_rate_at, pretrain

ABAR = alphas_cumprod("squaredcos_cap_v2")
SHORT = PretrainConfig(num_steps=60, batch_size=8, warmup_steps=5)


def run(data, folder: Path, config=SHORT, on_progress=lambda _: None, interval_s=1e9):
    transformer = build_tiny_dit()
    checkpoint = Checkpoint(folder / "state.safetensors", interval_s=interval_s)
    averaged = pretrain(
        transformer, *data, config,
        alphas_cumprod=ABAR, checkpoint=checkpoint, on_progress=on_progress,
    )  # fmt: skip
    return transformer, averaged


def test_the_loss_falls_and_the_averaged_weights_load(striped_images, tmp_path) -> None:
    reports: list[Progress] = []
    config = replace(SHORT, num_steps=200)
    _, averaged = run(striped_images, tmp_path, config, reports.append)
    assert reports[-1].step == reports[-1].total == 200
    assert reports[-1].metrics["loss"] < 0.7 * reports[0].metrics["loss"]
    build_tiny_dit(seed=9).load_state_dict(averaged, strict=True)


@pytest.mark.parametrize("max_snr", [None, 0.5])
def test_the_loss_weighs_the_squared_error_of_each_image(
    striped_images, tmp_path, monkeypatch, max_snr
) -> None:
    """Value by hand: the first step's loss, from errors that are given."""
    errors, timesteps = torch.arange(1.0, 9.0), []

    def given(transformer, x0, noise, drawn, rows, _):
        timesteps.append(drawn)
        return errors + 0 * sum(p.sum() for p in transformer.parameters())

    monkeypatch.setattr(pretraining, "_errors", given)
    seen: list[Progress] = []
    run(striped_images, tmp_path, replace(SHORT, num_steps=1, max_snr=max_snr), seen.append)
    weights = torch.ones(1000) if max_snr is None else min_snr_weights(ABAR, max_snr)
    expected = (weights[timesteps[0]] * errors).mean()
    assert seen[-1].metrics["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_errors_reach_every_weight() -> None:
    transformer = build_tiny_dit()
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn((4, 1, 8, 8), generator=generator)
    timesteps, rows = torch.tensor([5, 300, 600, 990]), torch.tensor([0, 1, NUM_CLASSES, 1])
    noise = torch.randn(x0.shape, generator=generator)
    pretraining._errors(transformer, x0, noise, timesteps, rows, ABAR).sum().backward()
    assert all(p.grad is not None for p in transformer.parameters())
    assert transformer.proj_out_2.weight.grad.abs().sum() > 0


def test_a_cancelled_run_goes_on_to_the_same_bytes(striped_images, tmp_path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()

    def stop_at_40(progress: Progress) -> None:
        if progress.step == 40:
            raise Cancelled

    whole = run(striped_images, tmp_path / "whole")
    with pytest.raises(Cancelled):
        run(striped_images, tmp_path / "broken", on_progress=stop_at_40)
    seen: list[int] = []
    broken = run(striped_images, tmp_path / "broken", on_progress=lambda p: seen.append(p.step))
    assert seen == [60]
    for one, other in zip(whole, (broken[0].state_dict(), broken[1]), strict=True):
        one = one if isinstance(one, dict) else one.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_is_not_run_again(striped_images, tmp_path) -> None:
    first = run(striped_images, tmp_path)[1]
    again = run(striped_images, tmp_path, on_progress=lambda _: pytest.fail("took a step"))[1]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_seed_gives_other_weights(striped_images, tmp_path) -> None:
    first = run(striped_images, tmp_path)[1]
    (tmp_path / "other").mkdir()
    other = run(striped_images, tmp_path / "other", replace(SHORT, base_seed=1))[1]
    assert not torch.equal(first["proj_out_2.weight"], other["proj_out_2.weight"])


def test_a_checkpoint_of_another_run_is_refused(striped_images, tmp_path) -> None:
    run(striped_images, tmp_path)
    with pytest.raises(JobError, match="another configuration"):
        run(striped_images, tmp_path, replace(SHORT, learning_rate=1e-4))


def test_a_loss_that_is_not_finite_names_the_step(striped_images, tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"loss became nan at step \d+"):
        run(striped_images, tmp_path, replace(SHORT, learning_rate=1e30))


def test_the_global_generator_is_left_alone(striped_images, tmp_path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    run(striped_images, tmp_path, replace(SHORT, num_steps=3))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_null_row_is_trained_by_dropped_labels(striped_images, tmp_path) -> None:
    before = build_tiny_dit().transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    trained, _ = run(striped_images, tmp_path)
    after = trained.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    assert not torch.equal(before[NUM_CLASSES], after[NUM_CLASSES])


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    config = PretrainConfig(num_steps=1000, warmup_steps=100, learning_rate=1.0)
    assert learning_rate_at(0, config) == pytest.approx(0.01)
    assert learning_rate_at(100, config) == 1.0
    assert learning_rate_at(550, config) == pytest.approx(0.5)
    assert 0 < learning_rate_at(999, config) < 1e-4


def test_images_and_labels_must_pair_up(striped_images, tmp_path) -> None:
    images, labels = striped_images
    with pytest.raises(ValueError, match="24 and 23"):
        run((images, np.delete(labels, 0)), tmp_path)


def test_weights_that_overflow_are_never_saved(striped_images, tmp_path) -> None:
    config = replace(SHORT, num_steps=1, warmup_steps=0, learning_rate=1e38)
    with pytest.raises(TrainingError, match="no longer finite after step 0"):
        run(striped_images, tmp_path, config)
    assert not (tmp_path / "state.safetensors").exists()
