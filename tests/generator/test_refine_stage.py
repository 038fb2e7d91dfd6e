"""Stage refine: both starts by the same code, the better one kept, the same after any kill."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generator_helpers import NETWORK, SmokeJob, finish, new_job

import distillery
from distillery.errors import ConfigError
from distillery.files import digest_file, read_json, write_json
from distillery.progress import Progress, ignore_progress
from distillery.tensorfile import read_tensors
from generator import refinement
from generator.config import DistillConfig, from_dict
from generator.controls import real_selections
from generator.real_start import has_enough, real_start
from generator.refinement import Refined
from generator.stage import Context, StageOutput
from generator.stages import refine, refine_real
from generator.stages.common import Reals, open_reals
from generator.stages.proxy import CLUSTERS, PROXY
from generator.stages.refine_real import MESSAGES
from generator.stages.score import CHOSEN
from generator.starts import JUDGES, STARTS, Start
from robust.proxy import train_proxy
from robust.scoring import Gain


@pytest.fixture
def config(smoke: SmokeJob) -> DistillConfig:
    return from_dict(smoke.job["config"])


def asking(config: DistillConfig, **fields: Any) -> DistillConfig:
    return replace(config, refine=replace(config.refine, **fields))


@pytest.fixture
def context_of(smoke: SmokeJob, tmp_path: Path) -> Callable[..., Context]:
    """What the stage may use: the smoke job's own inputs, another configuration."""
    inputs = {name: smoke.stage(name).folder for name in refine.STAGE.reads}

    def make(config: DistillConfig, name: str = "stage", **fields: Any) -> Context:
        folder = tmp_path / name / "refine-0.partial"  # work aside lies beside it
        folder.mkdir(parents=True, exist_ok=True)
        values = {"on_progress": ignore_progress, "checkpoint_interval_s": 0} | fields
        return Context(config, folder, inputs, **values)

    return make


def written(folder: Path) -> dict[str, str]:
    """Return the digests of what stays of a stage's folder."""
    return {p.name: digest_file(p) for p in folder.iterdir() if "checkpoint-" not in p.name}


def material(smoke: SmokeJob, context: Context) -> tuple[Reals, Any, np.ndarray]:
    """Return the prepared data, the proxy and the clusters of the smoke job."""
    reals = open_reals(context)
    proxy = reals.load_classifier(smoke.stage("score").folder / PROXY, context.config.proxy.network)
    return reals, proxy, read_tensors(smoke.stage("score").folder / CLUSTERS)[0]["cluster_ids"]


def test_the_real_start_is_the_k_medoids_control_and_says_what_its_images_are(
    smoke: SmokeJob, config: DistillConfig, context_of: Callable[..., Context]
) -> None:
    reals, proxy, clusters = material(smoke, context_of(config))
    start = real_start(reals, proxy, clusters, config)
    control = real_selections(reals, proxy, config)["k_medoids"]
    assert np.array_equal(start["images"], control.images)
    assert np.array_equal(start["labels"], control.labels)
    assert set(start["seeds"].tolist()) == {-1} and start["scores"].shape == (20, 2)
    assert (start["cluster_ids"] // 5 == start["labels"]).all()
    chosen, _ = read_tensors(smoke.stage("score").folder / CHOSEN)
    kinds = {name: (array.dtype, array.ndim) for name, array in chosen.items()}
    assert {name: (array.dtype, array.ndim) for name, array in start.items()} == kinds


def test_a_packed_real_start_has_a_real_image_for_each_picture(
    smoke: SmokeJob, config: DistillConfig, context_of: Callable[..., Context]
) -> None:
    packed = asking(config, parameterisation="multi_formation")
    reals, proxy, clusters = material(smoke, context_of(config))
    start = real_start(reals, proxy, clusters, packed)
    assert np.bincount(start["labels"]).tolist() == [8] * 10
    assert len({image.tobytes() for image in start["images"]}) == 80
    assert has_enough(reals.dataset, packed)
    assert not has_enough(reals.dataset, replace(packed, images_per_class=30))  # 120 of some 97


def test_both_starts_are_refined_alike_and_validation_decides(
    smoke: SmokeJob, config: DistillConfig, context_of: Callable[..., Context]
) -> None:
    told: list[Progress] = []
    context = context_of(asking(config, start="auto"), on_progress=told.append)
    output = refine.run(context)
    starts = output.facts["starts"]
    scores = {s: starts[s]["set_scores"] for s in ("generated", "real")}
    assert all(len(own) == 2 and np.isfinite(own).all() for own in scores.values())
    gain = output.facts["gain"]
    is_beyond_chance = Gain(**gain).is_beyond_chance()
    assert output.facts["start"] == ("real" if is_beyond_chance else "generated")
    assert f"± {gain['error']:.3f}" in output.summary
    result, _ = read_tensors(context.folder / "refined.safetensors")
    sets = {s: read_tensors(context.folder / f"refined-{s}.safetensors")[0] for s in scores}
    assert np.array_equal(result["images"], sets[output.facts["start"]]["images"])
    assert not np.array_equal(sets["generated"]["images"], sets["real"]["images"])
    for message in MESSAGES.values():
        assert [p.step for p in told if p.message == message] == list(range(1, 7))
    # the generated start moves as it does alone
    alone, _ = read_tensors(smoke.stage("refine").folder / "refined.safetensors")
    assert np.array_equal(sets["generated"]["images"], alone["images"])


def test_a_proxy_is_trained_once_for_both_starts(
    config: DistillConfig, context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        trained.append(kwargs["seed"])
        return train_proxy(*args, **kwargs)

    monkeypatch.setattr(refinement, "train_proxy", counted)
    context = context_of(asking(config, start="auto"))
    refine.run(context)
    assert len(trained) == len(set(trained)) == 2  # 6 steps, 3 for each proxy


def fake_refinement(monkeypatch: pytest.MonkeyPatch, **scores: list[float]) -> list[str]:
    """Let refinement move nothing and find these scores; returns which starts were asked for."""
    asked: list[str] = []

    def refine_images(
        images: np.ndarray, labels: np.ndarray, reals: Reals, *_: Any, **__: Any
    ) -> Refined:
        start = "real" if len(asked) or "generated" not in scores else "generated"
        asked.append(start)
        kept = int(np.nanargmin(scores[start])) if not all(map(math.isnan, scores[start])) else 0
        # where all losses are one number the score is three times that: mean and both tails
        count = len(reals.split("validation")[1])
        losses = np.full((JUDGES, count), scores[start][kept] / 3, np.float32)
        return Refined(images, labels, [0.5], scores[start], kept, losses)

    monkeypatch.setattr(refine_real, "refine_images", refine_images)
    return asked


def test_the_line_tells_both_scores_and_which_start_is_kept(
    config: DistillConfig, context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_refinement(monkeypatch, generated=[1.2, 0.9], real=[0.8, 0.7])
    output = refine.run(context_of(asking(config, start="auto")))
    assert output.summary == (
        "robust validation loss of students: generated start 1.200, refined 0.900; real start "
        "(k-medoids) 0.800, refined 0.700; real less by 0.200 ± 0.000, beyond chance: the real "
        "start is kept; pixels moved by 0.0 % of their range on average"
    )
    facts = output.facts
    assert (facts["start"], facts["kept"], facts["set_scores"]) == ("real", 1, [0.8, 0.7])
    assert facts["starts"]["generated"] == {"kept": 1, "set_scores": [1.2, 0.9]}
    assert facts["gain"] == pytest.approx({"value": 0.2, "error": 0.0, "freedom": None}, abs=1e-5)


@pytest.mark.parametrize("generated", [[0.8, 0.7], [math.nan, math.nan]])
def test_a_tie_and_a_score_that_is_no_number_go_to_the_generated_start(
    config: DistillConfig, context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch,
    generated: list[float],
) -> None:  # fmt: skip
    fake_refinement(monkeypatch, generated=generated, real=[0.7, 0.9])
    context = context_of(asking(config, start="auto"))
    output = refine.run(context)
    assert output.facts["start"] == "generated" and "the generated start is kept" in output.summary
    assert ("unusable" in output.summary) == math.isnan(generated[0])
    write_json(context.folder / "facts.json", output.facts)  # no number that JSON lacks


def test_a_start_that_was_not_asked_for_is_refined_for_the_table_and_never_kept(
    config: DistillConfig, context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_refinement(monkeypatch, generated=[1.2, 0.9], real=[0.8, 0.7])
    output = refine.run(context_of(config))  # the smoke job asks for the generated one
    assert output.facts["start"] == "generated"
    assert output.summary.startswith("robust validation loss of students: start 1.200, refined")
    assert output.summary.endswith("; for the table alone: real start (k-medoids) 0.800, "
                                   "refined 0.700")  # fmt: skip


def test_without_controls_one_start_alone_is_refined(
    config: DistillConfig, context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = replace(config, evaluate=replace(config.evaluate, controls=False))
    asked = fake_refinement(monkeypatch, real=[0.8, 0.7])
    context = context_of(asking(bare, start="real"))
    output = refine.run(context)
    assert asked == ["real"] and list(output.facts["starts"]) == ["real"]
    assert sorted(written(context.folder)) == [
        "curve.json", "refined-real.safetensors", "refined.safetensors",
    ]  # fmt: skip


def test_too_few_real_images_to_pack_leave_the_generated_start_alone(
    config: DistillConfig, context_of: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_refinement(monkeypatch, generated=[1.2, 0.9])
    monkeypatch.setattr(refine, "has_enough", lambda *_: False)
    output: StageOutput = refine.run(context_of(asking(config, start="auto")))
    assert list(output.facts["starts"]) == ["generated"]
    with pytest.raises(ConfigError, match="a real start takes 2 training images of every class"):
        refine.run(context_of(asking(config, start="real"), "other"))


class Killed(BaseException):
    """What no handler sees coming."""


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("attempts", "step"), [(1, 2), (1, 6), (2, 6), (2, 10)])
def test_a_kill_at_any_step_of_either_start_changes_no_byte(
    config: DistillConfig, context_of: Callable[..., Context], attempts: int, step: int,
    start: Start,
) -> None:  # fmt: skip
    asked = asking(config, start="auto", num_attempts=attempts, num_students=1)
    undisturbed = context_of(asked, "undisturbed")
    output = refine.run(undisturbed)

    def kill(progress: Progress) -> None:
        if progress.message == MESSAGES[start] and progress.step == step:
            raise Killed

    with pytest.raises(Killed):
        refine.run(context_of(asked, on_progress=kill))
    told: list[Progress] = []
    again = context_of(asked, on_progress=told.append)
    assert refine.run(again) == output
    assert written(again.folder) == written(undisturbed.folder)
    again_told = [p.step for p in told if p.message == MESSAGES[start]]
    assert min(again_told, default=step) >= step  # nothing is done twice
    whose = {re.sub(r" judged by students, \d+ %$", "", p.message) for p in told}
    assert whose <= {*MESSAGES.values(), "both starts"}  # nor is a proxy trained again


@pytest.fixture(scope="module")
def auto(tmp_path_factory: pytest.TempPathFactory, smoke: SmokeJob) -> SmokeJob:
    """A finished job of both starts; students who learn something tell them well apart."""
    root = tmp_path_factory.mktemp("auto")
    student = {"network": NETWORK, "num_steps": 60}
    job = new_job(
        root / "job", smoke.cache, refine={"start": "auto"}, evaluate={"student": student}
    )
    return SmokeJob(root / "job", smoke.cache, job, finish(root / "job", job, smoke.cache))


def test_bundle_card_and_report_say_that_validation_preferred_real_images(auto: SmokeJob) -> None:
    data = distillery.load(auto.result.bundle)
    moved = auto.stage("refine").record["facts"]["kept"] > 0
    assert data.metadata["start"] == "real_by_validation"
    assert data.origin == ("refined" if moved else "real")
    assert set(data.seeds.tolist()) == {-1}
    assert (data.cluster_ids // 5 == data.labels).all()
    report = read_json(auto.result.bundle / "report.json")
    assert report["fallback"] is None and report["start"]["word"] == "real_by_validation"
    reason = "students of them did better on the validation split (robust loss"
    assert reason in report["start"]["reason"]
    assert reason in (auto.result.bundle / "report.html").read_text()
    card = (auto.result.bundle / "README.md").read_text()
    assert "students of real images did better" in card and "20 real images" in card


def test_the_table_shows_what_the_generated_images_give_and_repeats_nothing(
    auto: SmokeJob,
) -> None:
    report = read_json(auto.result.bundle / "report.json")
    names = [row["name"] for row in report["results"]["hard"]]
    assert names[0] == "ours" and names[-1] == "generated_refined"
    assert "real_refined" not in names
    pairs = [tuple(effect["compared"]) for effect in report["stage_effects"]]
    assert len(set(pairs)) == len(pairs) == 7
    assert ("selected", "generated_refined") in pairs and ("k_medoids", "ours") in pairs
    assert ("generated_refined", "ours") in pairs and ("selected", "ours") not in pairs


def test_unfaithful_samples_leave_the_real_start_alone(smoke: SmokeJob, tmp_path: Path) -> None:
    job = new_job(
        tmp_path / "job", smoke.cache, refine={"start": "auto"},
        generate={"fidelity_floor": 1.0}, label={"enabled": False},
    )  # fmt: skip
    result = finish(tmp_path / "job", job, smoke.cache)
    facts = {stage.name: stage.record["facts"] for stage in result.stages}
    assert facts["score"]["fallback"] and list(facts["refine"]["starts"]) == ["real"]
    data = distillery.load(result.bundle)
    assert data.metadata["start"] == "real" and set(data.seeds.tolist()) == {-1}
    report = read_json(result.bundle / "report.json")
    assert report["fallback"]["origin"] == data.origin and report["start"]["reason"] is None
    names = [row["name"] for row in report["results"]["hard"]]
    assert not {"real_refined", "generated_refined"} & set(names)
