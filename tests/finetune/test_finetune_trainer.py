"""The fine-tuning loop: it trains, resumes to the same bytes, guards fidelity, and never waits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from finetune_helpers import NUM_CLASSES, build_tiny_dit
from torch.utils._python_dispatch import TorchDispatchMode

from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled, ConfigError, JobError, TrainingError
from distillery.models.diffusion import alphas_cumprod
from distillery.models.dit import denoise
from distillery.progress import Progress
from finetune.config import FinetuneConfig, with_preset
from finetune.difffit import ROWS, apply_difffit, merge_adapter
from finetune.latents import PixelLatents
from finetune.loop import FinetuneLoop
from finetune.memory import ClassMemories
from finetune.processes import Processes
from finetune.step import TERMS, Batches
from finetune.trainer import FinetuneResult, finetune

ABAR = alphas_cumprod("squaredcos_cap_v2")
SHORT = FinetuneConfig(num_steps=30, batch_size=8, memory_size=4)


def run(
    data: tuple[np.ndarray, np.ndarray],
    folder: Path,
    config: FinetuneConfig = SHORT,
    seed: int = 0,
    interval_s: float = 1e9,
    **options,
) -> FinetuneResult:
    images, labels = data
    transformer = options.pop("transformer", None) or build_tiny_dit()
    return finetune(
        transformer, alphas_cumprod=ABAR, null_row=NUM_CLASSES, latents=PixelLatents(images),
        labels=labels, class_rows=range(NUM_CLASSES), config=config, seed=seed,
        checkpoint=Checkpoint(folder / "state.safetensors", interval_s=interval_s), **options,
    )  # fmt: skip


def same(one: FinetuneResult, other: FinetuneResult) -> bool:
    return one.curves == other.curves and all(
        np.array_equal(one.adapter[name], other.adapter[name]) for name in one.adapter
    )


def stop_at(step: int):
    def on_progress(progress: Progress) -> None:
        if progress.step == step:
            raise Cancelled

    return on_progress


def test_it_learns_and_leaves_the_base_alone(striped_images, tmp_path) -> None:
    transformer = build_tiny_dit()
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    config = replace(SHORT, num_steps=150, learning_rate=1e-2)
    result = run(striped_images, tmp_path, config, transformer=transformer)
    curve = result.curves["denoising"]
    assert len(curve) == result.num_steps_done == 150
    assert np.mean(curve[-20:]) < 0.7 * np.mean(curve[:20])
    assert result.stopped is None
    after = transformer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    merge_adapter(transformer, result.adapter)
    assert list(transformer.state_dict()) == list(before)
    assert result.adapter[ROWS].tolist() == list(range(NUM_CLASSES + 1))


def test_half_precision_leaves_the_base_alone_too(striped_images, tmp_path) -> None:
    transformer = build_tiny_dit()
    before = dict(transformer.__dict__)
    run(striped_images, tmp_path, replace(SHORT, num_steps=2, precision="bf16"),
        transformer=transformer)  # fmt: skip
    x, timesteps, rows = torch.randn(2, 1, 8, 8), torch.zeros(2).long(), torch.tensor([0, 1])
    assert "_original_forward" not in transformer.__dict__ and set(before) <= set(
        transformer.__dict__
    )
    fresh = denoise(build_tiny_dit(), x, timesteps, rows)
    assert torch.equal(denoise(transformer, x, timesteps, rows), fresh)  # not rounded


def test_the_first_step_only_fills_the_memories(striped_images, tmp_path) -> None:
    curves = run(striped_images, tmp_path).curves
    assert curves["representativeness"][0] == curves["diversity"][0] == 0
    assert all(0 < value <= 2 for value in curves["representativeness"][2:])
    assert all(-1 <= value <= 1 and value != 0 for value in curves["diversity"][2:])


def test_the_diversity_weight_acts(striped_images, tmp_path) -> None:
    values = {}
    for weight in (0.0, 5.0):
        (tmp_path / str(weight)).mkdir()
        config = replace(SHORT, num_steps=100, diversity_weight=weight, learning_rate=1e-2)
        curves = run(striped_images, tmp_path / str(weight), config).curves
        values[weight] = np.mean(curves["diversity"][-20:])
    assert values[5.0] < values[0.0] - 0.05


@pytest.mark.parametrize("step", [10, 20])
def test_a_cancelled_run_goes_on_to_the_same_bytes(striped_images, tmp_path, step) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    config = replace(SHORT, guard_interval=7)
    options = {"check": lambda model: float(model.proj_out_2.bias.abs().sum()) + 1}
    whole = run(striped_images, tmp_path / "whole", config, **options)
    with pytest.raises(Cancelled):
        run(striped_images, tmp_path / "broken", config, on_progress=stop_at(step), **options)
    steps: list[int] = []
    broken = run(
        striped_images, tmp_path / "broken", config,
        on_progress=lambda p: steps.append(p.step), **options,
    )  # fmt: skip
    assert min(steps) > step
    assert same(whole, broken)
    assert whole.curves["fidelity_step"] == [0, 7, 14, 21, 28, 30]


def test_when_it_saves_or_reports_changes_nothing(striped_images, tmp_path) -> None:
    (tmp_path / "often").mkdir()
    often = run(striped_images, tmp_path / "often", interval_s=0.0)
    assert same(run(striped_images, tmp_path), often)


def test_a_finished_run_is_not_run_again(striped_images, tmp_path) -> None:
    first = run(striped_images, tmp_path)
    again = run(striped_images, tmp_path, on_progress=lambda _: pytest.fail("took a step"))
    assert same(first, again)


def test_seeds_tell_runs_apart(striped_images, tmp_path) -> None:
    first = run(striped_images, tmp_path)
    with pytest.raises(JobError, match="another configuration, seed or dataset"):
        run(striped_images, tmp_path, seed=1)
    (tmp_path / "other").mkdir()
    assert not same(first, run(striped_images, tmp_path / "other", seed=1))


def test_the_guard_stops_and_keeps_the_last_good_adapter(striped_images, tmp_path) -> None:
    fidelity = iter([0.9, 0.8, 0.3])
    config = replace(SHORT, guard_interval=10)
    kept = {}

    def check(model) -> float:
        value = next(fidelity)
        kept[value] = model.proj_out_2.bias.detach().clone()
        return value

    result = run(striped_images, tmp_path, config, check=check)
    assert result.stopped == (
        "fidelity fell from 0.900 to 0.300 by step 20, below 50% of the base's own: "
        "the last good adapter is kept"
    )
    assert result.num_steps_done == 20
    assert result.curves["fidelity"] == [0.9, 0.8, 0.3]
    assert np.array_equal(result.adapter["proj_out_2.bias"], kept[0.8].numpy())
    assert not torch.equal(kept[0.8], kept[0.3])
    # a run that was stopped stays stopped
    again = run(striped_images, tmp_path, config, check=lambda _: pytest.fail("checked"))
    assert same(result, again)
    assert again.stopped == result.stopped


def test_a_guard_that_fails_at_once_keeps_the_base(striped_images, tmp_path) -> None:
    fidelity = iter([1.0, 0.0])
    config = replace(SHORT, guard_interval=10)
    result = run(striped_images, tmp_path, config, check=lambda _: next(fidelity))
    base = build_tiny_dit()
    expected = apply_difffit(base, range(NUM_CLASSES)).state()
    assert all(np.array_equal(result.adapter[name], expected[name]) for name in expected)


def test_the_check_sees_the_averaged_adapter(striped_images, tmp_path) -> None:
    seen = []
    config = replace(SHORT, guard_interval=0)
    result = run(
        striped_images, tmp_path, config,
        check=lambda model: seen.append(model.proj_out_2.bias.detach().numpy().copy()) or 1.0,
    )  # fmt: skip
    assert len(seen) == 2  # the base, and the end
    assert np.array_equal(seen[1], result.adapter["proj_out_2.bias"])
    (tmp_path / "unguarded").mkdir()
    unguarded = run(striped_images, tmp_path / "unguarded", config)
    assert np.array_equal(unguarded.adapter["proj_out_2.bias"], seen[1])


def test_a_term_that_is_not_finite_is_named_and_the_good_state_kept(
    striped_images, tmp_path
) -> None:
    config = replace(SHORT, num_steps=40)
    with pytest.raises(Cancelled):
        run(striped_images, tmp_path, config, on_progress=stop_at(20))
    saved = (tmp_path / "state.safetensors").read_bytes()
    images, labels = striped_images

    class Broken(PixelLatents):
        def batch(self, indices, flips, generator):
            return super().batch(indices, flips, generator) * float("nan")

    with pytest.raises(TrainingError, match="the denoising loss became nan at step 20"):
        finetune(
            build_tiny_dit(), alphas_cumprod=ABAR, null_row=NUM_CLASSES, latents=Broken(images),
            labels=labels, class_rows=range(NUM_CLASSES), config=config, seed=0,
            checkpoint=Checkpoint(tmp_path / "state.safetensors", interval_s=0.0),
        )  # fmt: skip
    assert (tmp_path / "state.safetensors").read_bytes() == saved


def test_weights_that_overflow_are_never_saved(striped_images, tmp_path) -> None:
    config = replace(SHORT, num_steps=1, learning_rate=1e38)
    with pytest.raises(TrainingError, match="no longer finite after step 0"):
        run(striped_images, tmp_path, config)
    assert not (tmp_path / "state.safetensors").exists()


@pytest.mark.parametrize("preset", ["default", "reference", "printed"])
def test_presets_run(striped_images, tmp_path, preset) -> None:
    config = with_preset(replace(SHORT, num_steps=5), preset, "pixel")
    result = run(striped_images, tmp_path, config)
    assert result.num_steps_done == 5
    assert set(TERMS) < set(result.curves)


def test_bf16_runs_after_full_precision_in_one_process(striped_images, tmp_path) -> None:
    full = run(striped_images, tmp_path, replace(SHORT, num_steps=10))
    (tmp_path / "bf16").mkdir()
    config = replace(SHORT, num_steps=10, precision="bf16")
    half = run(striped_images, tmp_path / "bf16", config)
    assert half.curves["denoising"] == pytest.approx(full.curves["denoising"], rel=0.05)
    assert half.curves != full.curves


def test_the_variance_term_trains_bases_that_predict_one(striped_images, tmp_path) -> None:
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=1, out_channels=2,
        num_layers=2, sample_size=4, num_embeds_ada_norm=NUM_CLASSES, norm_elementwise_affine=False,
    )  # fmt: skip
    config = replace(SHORT, num_steps=60, variance_loss=True, learning_rate=1e-2)
    curves = run(striped_images, tmp_path, config, transformer=transformer).curves
    assert np.mean(curves["variance"][-15:]) < np.mean(curves["variance"][:15])


class NoSync(TorchDispatchMode):
    """Fails where the host would wait for a device: a tensor's value is asked for."""

    FORBIDDEN = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not str(func).startswith(self.FORBIDDEN), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def build_loop(data: tuple[np.ndarray, np.ndarray], config: FinetuneConfig) -> FinetuneLoop:
    images, labels = data
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processes = Processes(config.precision, device, config.batch_size)
    batches = Batches(
        PixelLatents(images), torch.from_numpy(labels), torch.arange(NUM_CLASSES),
        NUM_CLASSES, len(ABAR), config, 0,
    )  # fmt: skip
    adapter = apply_difffit(build_tiny_dit().to(processes.device), range(NUM_CLASSES))
    memories = ClassMemories(NUM_CLASSES, 4, 16, processes.device)
    return FinetuneLoop(adapter, ABAR, batches, memories, config, processes, "test")


@pytest.mark.parametrize("reduction", ["per_sample", "scalar"])
def test_a_step_never_asks_for_a_value(striped_images, reduction) -> None:
    loop = build_loop(striped_images, replace(SHORT, reduction=reduction))
    loop.take_step()
    with NoSync():
        loop.take_step()
    with pytest.raises(AssertionError, match="waits for the device"), NoSync():
        torch.ones(1).item()  # the test itself would notice


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_step_never_waits_for_the_gpu(striped_images, precision) -> None:
    loop = build_loop(striped_images, replace(SHORT, precision=precision))
    for _ in range(3):
        loop.take_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.take_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_another_device_than_the_first_of_the_interpreter_is_taken(monkeypatch) -> None:
    Processes("no", torch.device("cpu"), 8)
    reset = []
    monkeypatch.setattr(
        AcceleratorState, "_reset_state",
        staticmethod(lambda reset_partial_state=False: reset.append(reset_partial_state)),
    )  # fmt: skip
    Processes("no", torch.device("cpu"), 8)
    assert not reset
    Processes("no", torch.device("cuda"), 8)  # without a GPU accelerate stays where it is
    assert reset == [True]


def test_wrong_arguments_are_refused(striped_images, tmp_path) -> None:
    images, labels = striped_images
    with pytest.raises(ValueError, match="must pair up, got 24 and 23"):
        run((images, labels[1:]), tmp_path)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.3"):
        run((images, labels + 1), tmp_path)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        run(striped_images, tmp_path, replace(SHORT, precision="fp16"))
