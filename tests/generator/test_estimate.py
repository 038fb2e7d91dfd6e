"""What a job takes: counted, priced, and known to be zero where it is done already."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillery.data.survey import Survey
from distillery.files import write_json
from distillery.machine import Machine
from distillery.models.config import PUBLISHED_BASES, PixelDiTConfig
from generator import speeds as pricing
from generator.config import DistillConfig, from_dict
from generator.defaults import Situation, default_values
from generator.estimate import estimate, measure_speeds, memory_of
from generator.limit import EVALUATION_SHARE, evaluation_share, limit_evaluation
from generator.plan import merge
from generator.planned import Look, Plan
from generator.speeds import Speeds, StepCost
from generator.work import SD_VAE, BaseDescription, describe_base, work_of

MACHINE = Machine(2, 8 * 10**9, None, 0)
SPEEDS = Speeds(
    dit_train=StepCost(0.0, 0.001), dit_forward=StepCost(0.0, 0.0001),
    classifier=StepCost(0.01, 0.0), basis="by hand", classifier_basis="by hand", spread=2.0,
)  # fmt: skip
LOOK = Look(
    Survey(native_size=8, gray=True, num_read=100, num_bad=0),
    tuple("0123456789"), num_images=1000, num_train=720, smallest_class=72,
)  # fmt: skip


@pytest.fixture
def make_plan_of() -> Callable[..., Plan]:
    def make(look: Look = LOOK, **request: Any) -> Plan:
        situation = Situation(
            kind="pixel", preset=request.get("preset", "default"), minimax_preset="default",
            image_size=8, channels=1, num_classes=len(look.class_names),
            num_train=look.num_train, images_per_class=request.get("images_per_class", 10),
            num_threads=1,
        )  # fmt: skip
        values = merge(default_values(situation), {"base": {"reference": "pixel"}})
        return Plan(from_dict(merge(values, request)), (), (), look, None)

    return make


def work(plan: Plan) -> dict[str, float]:
    base = describe_base(plan.config, len(plan.look.class_names))
    return work_of(plan.config, plan.look, base, SPEEDS)


def test_stages_are_counted_by_hand(make_plan_of: Callable[..., Plan]) -> None:
    plan = make_plan_of(
        base={"reference": "pixel", "pretrain": {"num_steps": 100, "batch_size": 32}},
        proxy={"num_steps": 50}, label={"num_steps": 20},
        generate={"num_steps": 5, "guidance_scale": 2.0, "oversample": 3},
        finetune={"enabled": False}, refine={"enabled": False},
        evaluate={"num_seeds": 2, "student": {"num_steps": 40}},
    )  # fmt: skip
    seconds = work(plan)
    assert seconds["base"] == pytest.approx(100 * 32 * 0.001 + 250 * 0.01)  # base and its judge
    assert seconds["label"] == pytest.approx(20 * 0.01)
    # a pool of 3 x 10 x 10 and 100 plain samples, 5 steps, twice the batch for guidance
    assert seconds["generate"] == pytest.approx(0.2 + 400 * 5 * 2 * 0.0001)
    # ours, ours soft, plain, random, herding, k-medoids: six sets of two students
    assert seconds["evaluate"] == pytest.approx(6 * 2 * 40 * 0.01)
    assert seconds["finetune"] == seconds["refine"] == seconds["encode"] == 0.0


def test_more_work_takes_longer(make_plan_of: Callable[..., Plan]) -> None:
    small, large = work(make_plan_of()), work(make_plan_of(images_per_class=50))
    assert large["generate"] > small["generate"] and large["base"] == small["base"]
    many = replace(LOOK, class_names=tuple(map(str, range(41))))
    assert work(make_plan_of(many))["finetune"] > 2.9 * small["finetune"]  # three groups of classes
    smoke = work(make_plan_of(preset="smoke"))
    assert sum(smoke.values()) < sum(small.values()) / 5
    fast = work(make_plan_of(evaluate={"controls": False}))
    assert fast["evaluate"] < small["evaluate"] / 2


def test_networks_that_are_never_trained_cost_nothing(make_plan_of: Callable[..., Plan]) -> None:
    def seconds(**refine: Any) -> float:
        return work(make_plan_of(refine={"start": "generated", **refine}))["refine"]

    clusters, robust = seconds(), seconds(objective="dm", robust=True)
    refine = make_plan_of().config.refine
    full = refine.num_steps / refine.steps_per_proxy * 1.3 * refine.proxy_steps * 0.01
    assert seconds(youngest_proxy=1.0) == pytest.approx(clusters + 0.45 * full)  # ages .1 to 1
    saved = 0.55 * full  # which serve both starts
    assert seconds(objective="dm", robust=False) == pytest.approx(clusters - saved)
    assert robust == pytest.approx(clusters + saved)  # a method trains its own for each start


def test_every_start_is_refined_in_its_own_stage_and_the_evaluation_refines_nothing(
    make_plan_of: Callable[..., Plan],
) -> None:
    def seconds(start: str, *, controls: bool) -> dict[str, float]:
        return work(make_plan_of(refine={"start": start}, evaluate={"controls": controls}))

    alone = seconds("generated", controls=False)["refine"]
    refine = make_plan_of().config.refine
    proxies = refine.num_steps / refine.steps_per_proxy
    shared = proxies * 0.55 * 1.3 * refine.proxy_steps * 0.01
    both = 2 * alone - shared
    for start in ("auto", "generated", "real"):
        students = 4 * 4.0 if start == "auto" else 0.0  # two further ones of each rival
        assert seconds(start, controls=True)["refine"] == pytest.approx(both + students)
    assert seconds("auto", controls=False)["refine"] == pytest.approx(both + 16.0)
    assert seconds("real", controls=False)["refine"] == pytest.approx(alone)
    student = make_plan_of().config.evaluate
    # ours, ours soft, plain, random, herding, k-medoids, fine-tuned, chosen, the other start
    expected = 9 * student.num_seeds * student.student.num_steps * 0.01
    assert seconds("auto", controls=True)["evaluate"] == pytest.approx(expected)


def test_a_process_ahead_takes_proxies_real_start_and_teacher_off_the_job(
    make_plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    figures = [
        estimate(make_plan_of(), MACHINE, cache=tmp_path, speeds=SPEEDS, works_ahead=ahead)
        for ahead in (False, True)
    ]
    assert figures[1].memory_bytes - figures[0].memory_bytes == pytest.approx(0.6e9)
    assert figures[1].memory_basis.endswith("and a second process")
    alone, beside = ({s.name: s.seconds for s in one.stages} for one in figures)
    less = {name for name in alone if beside[name] < alone[name]}
    assert less == {"score", "refine", "label"}
    assert beside["refine"] == pytest.approx(alone["refine"] / 2)
    assert all(beside[name] == alone[name] for name in set(alone) - less)


def test_the_estimate_adds_up_and_names_its_basis(
    make_plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    figures = estimate(make_plan_of(), MACHINE, cache=tmp_path, speeds=SPEEDS)
    assert [stage.name for stage in figures.stages] == [
        "prepare", "base", "encode", "finetune", "generate", "score", "refine", "label",
        "evaluate", "bundle",
    ]  # fmt: skip
    assert figures.low_s < figures.seconds < figures.high_s
    assert figures.seconds == pytest.approx(sum(stage.seconds for stage in figures.stages))
    assert {s.name: s.basis for s in figures.stages}["encode"] == "nothing to do"
    assert 0.5e9 < figures.memory_bytes < 1.5e9 and 1e6 < figures.disk_bytes < 1e9
    assert figures.download_bytes == 0 and figures.warnings == ()
    assert figures.as_dict()["seconds"] == figures.seconds


def test_what_is_in_the_cache_costs_nothing(
    make_plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    from generator.pipeline import STAGES
    from generator.stage import RECORD, Finished, stage_key

    plan, done = make_plan_of(), {}
    cache, folder = tmp_path / "cache", tmp_path / "job"
    for stage in STAGES[:5]:  # prepare to generate, the last in the job's own folder
        root = cache if stage.is_shared else folder / "stages"
        place = root / f"{stage.name}-{stage_key(stage, plan.config, done)[:16]}"
        place.mkdir(parents=True)
        write_json(place / RECORD, {"digest": f"digest of {stage.name}"})
        done[stage.name] = Finished(stage.name, place, {"digest": f"digest of {stage.name}"}, True)

    def cached(**arguments: Any) -> set[str]:
        figures = estimate(plan, MACHINE, cache=cache, speeds=SPEEDS, **arguments)
        return {stage.name for stage in figures.stages if stage.basis.startswith("cached")}

    assert cached(folder=folder) == {"prepare", "base", "encode", "finetune", "generate"}
    assert cached() == {"prepare", "base", "encode", "finetune"}
    other = replace(plan, config=replace(plan.config, seed=1))
    figures = estimate(other, MACHINE, cache=cache, folder=folder, speeds=SPEEDS)
    names = {stage.name for stage in figures.stages if stage.basis.startswith("cached")}
    assert names == {"prepare", "base", "encode"}


def test_a_published_base_is_known_before_it_is_here(
    make_plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> None:
        from distillery.errors import ModelError

        raise ModelError("not here")

    monkeypatch.setattr("generator.bases.base_facts", absent)
    photos = replace(LOOK, survey=Survey(native_size=300, gray=False, num_read=9, num_bad=0))
    plan = make_plan_of(
        photos, base={"reference": "facebook/DiT-XL-2-256"}, image_size=256, channels=3,
        finetune={"batch_size": 8},
    )  # fmt: skip
    figures = estimate(plan, MACHINE, cache=tmp_path, speeds=SPEEDS)
    assert 3.2e9 < figures.download_bytes < 3.4e9  # 750 M weights and the autoencoder
    assert figures.disk_bytes > figures.download_bytes
    assert figures.memory_bytes > 8e9
    assert "this machine has 8.0 GB" in figures.warnings[0]
    roomy = estimate(plan, Machine(2, 10**9, "H200", 141 * 10**9), cache=tmp_path, speeds=SPEEDS)
    assert roomy.warnings == ()


def test_memory_grows_with_batch_and_images(make_plan_of: Callable[..., Plan]) -> None:
    def memory(base: BaseDescription, **request: Any) -> float:
        return memory_of(make_plan_of(**request).config, LOOK, base)[0]

    latent = BaseDescription(
        kind="latent", transformer=PUBLISHED_BASES["facebook/DiT-XL-2-256"].transformer,
        vae=SD_VAE, is_here=True,
    )  # fmt: skip
    eight, one = (memory(latent, finetune={"batch_size": n}) for n in (8, 1))
    assert 7 * 40 * 4 * 256 * 1152 * 28 == pytest.approx(eight - one)


def test_the_evaluation_of_a_default_job_stays_under_a_third(
    make_plan_of: Callable[..., Plan],
) -> None:
    def share(plan: Plan) -> float:
        return evaluation_share(plan.config, plan.look, describe_base(plan.config, 10))

    plan = make_plan_of()
    assert share(plan) < EVALUATION_SHARE and limit_evaluation(plan, {}) is plan

    heavy = make_plan_of(evaluate={"num_seeds": 6, "student": {"num_steps": 600}})
    limited = limit_evaluation(heavy, {})
    assert share(heavy) > EVALUATION_SHARE >= share(limited)
    assert 2 <= limited.config.evaluate.num_seeds < 6 and limited.config.evaluate.controls
    assert [d.choice for d in limited.decisions] == [
        f"{limited.config.evaluate.num_seeds} students a set"
    ]
    assert limit_evaluation(limited, {}) == limited  # whoever calls it twice changes nothing

    heavier = make_plan_of(evaluate={"num_seeds": 3, "student": {"num_steps": 6000}})
    limited = limit_evaluation(heavier, {})
    assert not limited.config.evaluate.controls
    assert "no controls" in limited.decisions[0].choice


@pytest.mark.parametrize("asked", [{"num_seeds": 6, "controls": True}, {"num_seeds": 6}])
def test_what_the_user_set_is_not_reduced(
    make_plan_of: Callable[..., Plan], asked: dict[str, Any]
) -> None:
    student = {"student": {"num_steps": 50_000}}
    plan = make_plan_of(evaluate={"num_seeds": 6, **student})
    limited: DistillConfig = limit_evaluation(plan, {"evaluate": asked | student}).config
    assert limited.evaluate.num_seeds == 6
    assert limited.evaluate.controls == ("controls" in asked)


def test_smoke_goes_through_everything(make_plan_of: Callable[..., Plan]) -> None:
    plan = make_plan_of(preset="smoke", evaluate={"student": {"num_steps": 50_000}})
    assert limit_evaluation(plan, {}) is plan


def test_a_smoke_run_of_photographs_is_not_kept_waiting_for_its_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("timing is a tenth of a smoke run")

    for name in ("measure_dit", "measure_classifier"):
        monkeypatch.setattr(pricing, name, refuse)
    values = {"preset": "smoke", "image_size": 32, "channels": 3, "num_threads": 1, "device": "cpu"}
    config = from_dict(values | {"base": {"reference": "pixel"}})
    speeds = measure_speeds(config, describe_base(config, 10), 10, MACHINE)
    assert speeds.basis == "a nominal machine"


def test_a_pixel_dit_whose_steps_take_long_is_counted_and_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a step of this one takes minutes")

    monkeypatch.setattr(pricing, "measure_dit", refuse)
    monkeypatch.setattr(pricing, "measure_classifier", lambda *_: StepCost(0.01, 0.0))
    values = {"image_size": 256, "channels": 3, "num_threads": 1, "base": {"reference": "pixel"}}
    config = from_dict(values)
    speeds = measure_speeds(config, describe_base(config, 10), 10, MACHINE)
    assert "nominal" in speeds.basis and speeds.dit_train.of(1) > 1.0


def test_a_named_pixel_base_is_timed_itself_and_on_the_device_of_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[tuple[Any, str]] = []

    def dit(network: PixelDiTConfig, batch_size: int, device: str) -> tuple[StepCost, StepCost]:
        timed.append((network, device))
        return StepCost(0.0, 0.01), StepCost(0.0, 0.01)

    def classifier(name: str, *rest: Any) -> StepCost:
        timed.append((name, rest[-1]))
        return StepCost(0.0, 0.01)

    used: list[str] = []
    monkeypatch.setattr("generator.estimate.use_device", used.append)
    monkeypatch.setattr(pricing, "measure_dit", dit)
    monkeypatch.setattr(pricing, "measure_classifier", classifier)
    own = PixelDiTConfig(image_size=8, channels=1, num_classes=7, patch_size=2, num_layers=2)
    base = BaseDescription(
        kind="pixel", transformer=own.transformer_config(), vae=None, is_here=True
    )
    values = {"image_size": 8, "channels": 1, "num_threads": 2, "base": {"reference": "mine"}}
    config = from_dict(values | {"device": "cuda"})
    speeds = measure_speeds(config, base, 10, MACHINE)
    assert timed == [(config.evaluate.student.network, "cuda"), (own, "cuda")]
    assert speeds.basis.endswith("timed now on the GPU")
    measure_speeds(replace(config, device="cpu"), base, 10, MACHINE)
    assert [device for _, device in timed[2:]] == ["cpu", "cpu"]
    assert used == ["cuda", "cpu"]  # set up as a job does


@pytest.mark.parametrize(
    ("size", "channels", "num_images", "ipc", "limit_s"),
    [(8, 1, 1797, 10, 10), (28, 1, 70_000, 1, 10), (32, 3, 10_000, 10, 11)],
)
def test_smoke_takes_seconds_whatever_the_images(
    size: int, channels: int, num_images: int, ipc: int, limit_s: float
) -> None:
    situation = Situation(
        kind="pixel", preset="smoke", minimax_preset="default", image_size=size,
        channels=channels, num_classes=10, num_train=num_images * 7 // 10, images_per_class=ipc,
        num_threads=1, is_digits=size == 8,
    )  # fmt: skip
    config = from_dict(merge(default_values(situation), {"base": {"reference": "pixel"}}))
    look = replace(LOOK, num_images=num_images, num_train=situation.num_train)
    look = replace(look, survey=replace(LOOK.survey, native_size=size))
    base = describe_base(config, 10)
    network = config.evaluate.student.network
    nominal = pricing.nominal_speeds(base.transformer, base.vae, network, size, channels)
    assert sum(work_of(config, look, base, nominal).values()) < limit_s
