"""Work aside and ahead: another process can do it, the result is the same, and nothing is left."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from generator_helpers import SmokeJob, finish, new_job

from distillery.evaluation.harness import judge
from distillery.files import read_json
from distillery.progress import Progress
from distillery.seeds import derive_seed
from generator import ahead, work
from generator.ahead import Ahead
from generator.ahead_work import stages_ahead, work_ahead
from generator.config import DistillConfig, from_dict
from generator.judging import bench_of
from generator.stage import Context
from generator.stages.common import open_reals
from generator.stages.real_students import refined_pictures
from generator.stages.refine_real import refined_file
from generator.work import works_ahead


@pytest.fixture
def config(smoke: SmokeJob) -> DistillConfig:
    return from_dict(smoke.job["config"])


def names(config: DistillConfig, *, enough: bool = True) -> list[str]:
    return [stage.name for stage in stages_ahead(config, has_real_start=enough)]


def test_what_is_done_ahead_is_what_the_job_will_need(config: DistillConfig) -> None:
    every = [
        "proxy", "refine_proxies", "refine_real", "teacher", "real_students", "refined_students",
    ]  # fmt: skip
    assert names(config) == every
    refine, evaluate, label = config.refine, config.evaluate, config.label
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"refine": replace(refine, enabled=False)}, {*every[1:3], every[5]}),
        ({"refine": replace(refine, parameterisation="latent")}, {every[2], every[5]}),
        ({"evaluate": replace(evaluate, controls=False)}, {every[2], *every[4:]}),
        ({"evaluate": replace(evaluate, protocol="dc-small")}, set(every[4:])),
        ({"label": replace(label, enabled=False)}, {"teacher"}),
        ({"refine": replace(refine, parameterisation="multi_formation")}, {"teacher"}),
    ]
    for changes, missing in cases:
        assert set(every) - set(names(replace(config, **changes))) == missing
    assert set(every) - set(names(config, enough=False)) == {every[2], every[5]}


def test_a_job_takes_what_was_done_ahead_and_ends_with_the_same_bytes(
    smoke: SmokeJob, tmp_path: Path
) -> None:
    job = new_job(tmp_path / "job", smoke.cache)
    work_ahead(tmp_path / "job", smoke.cache)
    told: list[Progress] = []
    result = finish(tmp_path / "job", job, smoke.cache, on_progress=told.append)
    assert result.content_digest == smoke.result.content_digest
    messages = {p.message for p in told}
    ours = {"training the robust proxy", "training proxies", "k-medoids of real images"}
    assert not messages & (ours | {"training the teacher", "students of herding of real features"})
    assert {"the chosen images", "students of Distillery"} <= messages
    for one, other in zip(result.stages, smoke.result.stages, strict=True):
        if one.name != "bundle":  # whose report has times
            assert one.record["digest"] == other.record["digest"]


def test_figures_told_aside_are_those_of_the_set(smoke: SmokeJob, config: DistillConfig) -> None:
    inputs = {name: smoke.stage(name).folder for name in ("prepare", "refine", "evaluate")}
    reals = open_reals(Context(config, Path(), inputs, lambda _: None))
    image_set = refined_pictures(inputs["refine"] / refined_file("real"), reals, config)
    bench = bench_of(config, reals)
    seed = derive_seed(config.seed, "student", 0)
    expected = judge(image_set, bench, config.evaluate.student, seed=seed)
    rows = {row["name"]: row for row in read_json(inputs["evaluate"] / "results.json")["hard"]}
    assert rows["real_refined"]["accuracy"]["mean"] == pytest.approx(expected["accuracy"])


def test_a_process_is_started_only_where_a_core_is_left(
    config: DistillConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = replace(config, preset="default")
    for cores, threads, expected in [(2, 1, True), (1, 1, False), (2, 2, False), (8, 4, True)]:
        monkeypatch.setattr(work, "available_cores", lambda cores=cores: cores)
        assert works_ahead(replace(full, num_threads=threads)) is expected
    assert not works_ahead(config)  # smoke
    assert not works_ahead(replace(full, device="cuda"))


def wait_for(is_there: Callable[[], bool], seconds: float = 120.0) -> None:
    """Fails where nothing comes."""
    end = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process works ahead of any job, on any machine."""
    monkeypatch.setattr(ahead, "works_ahead", lambda _: True)
    monkeypatch.setattr(ahead, "available_cores", lambda: 2)


def test_the_process_works_until_the_job_is_over(
    works: None, smoke: SmokeJob, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    with Ahead({}, folder) as process:
        child = process._child
        assert child is not None
        job = new_job(folder, smoke.cache)
        process.give(job, cache=smoke.cache)
        wait_for(lambda: bool([*(folder / "stages").glob("proxy-*/stage.json")]))
    assert child.poll() is not None and not (folder / ahead.LOG).exists()
    assert finish(folder, job, smoke.cache).content_digest == smoke.result.content_digest


def test_the_process_ends_with_whoever_started_it(works: None, tmp_path: Path) -> None:
    """As after a kill -9 of the job: nobody ends it, its input is closed."""
    process = Ahead({}, tmp_path)
    child = process._child
    assert child is not None and child.stdin is not None
    child.stdin.close()
    assert child.wait(120) == 0
    process.__exit__()


def test_what_it_did_not_expect_is_logged_and_the_job_goes_on(
    works: None, smoke: SmokeJob, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    job = new_job(folder, smoke.cache)
    (folder / "job.json").rename(folder / "elsewhere.json")
    with Ahead({}, folder) as process:
        child = process._child
        process.give(job, cache=smoke.cache)
        assert child is not None and child.wait(120) == 1
    (folder / "elsewhere.json").rename(folder / "job.json")
    assert "job.json" in (folder / ahead.LOG).read_text()
    with Ahead({}, folder) as process:
        process.give(job, cache=smoke.cache)
        assert not (folder / ahead.LOG).exists()
    assert finish(folder, job, smoke.cache).content_digest == smoke.result.content_digest


@pytest.mark.parametrize("request_", [{"preset": "smoke"}, {"device": "cuda"}])
def test_a_request_for_little_starts_no_process(
    works: None, request_: dict[str, str], tmp_path: Path
) -> None:
    with Ahead(request_, tmp_path) as process:
        assert process._child is None


def test_a_job_that_is_complete_starts_no_process(works: None, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with Ahead({}, tmp_path) as process:
        assert process._child is None


def test_a_job_that_leaves_no_core_ends_the_process(
    works: None, monkeypatch: pytest.MonkeyPatch, smoke: SmokeJob, tmp_path: Path
) -> None:
    monkeypatch.setattr(ahead, "works_ahead", lambda _: False)
    with Ahead({}, tmp_path) as process:
        child = process._child
        process.give(smoke.job, cache=smoke.cache)
        assert child is not None and child.poll() is not None
