"""A whole job: what it makes, what it refuses, and what it does when something goes wrong."""

from pathlib import Path

import numpy as np
import pytest
from generator_helpers import NETWORK, REQUEST, SmokeJob, finish, new_job

from distillery.bundle.folder import verify_folder
from distillery.bundle.read import read_bundle
from distillery.data.dataset import Dataset
from distillery.errors import Cancelled, DataError, JobError
from distillery.files import read_json
from distillery.tensorfile import read_tensors
from generator.pipeline import STAGES, request_digest, run_job, stored_job
from generator.stage import Finished, stage_key
from generator.stages.prepare import check_images_per_class

BUNDLE = "distilled.safetensors"


def test_the_bundle_is_whole_and_says_where_it_comes_from(smoke: SmokeJob) -> None:
    assert verify_folder(smoke.result.bundle) == []
    data = read_bundle(smoke.result.bundle / BUNDLE)
    assert data.images.shape == (20, 1, 8, 8) and data.images_per_class == 2
    assert data.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert data.content_digest == smoke.result.content_digest
    assert data.teacher_logits is not None and data.teacher_logits.shape == (20, 10)
    assert (data.cluster_ids // 5 == data.labels).all()  # each stands for a cluster of its class


def test_the_chosen_are_of_the_pool_and_the_refined_moved(smoke: SmokeJob) -> None:
    pool, _ = read_tensors(smoke.stage("generate").folder / "pool.safetensors")
    chosen, _ = read_tensors(smoke.stage("score").folder / "chosen.safetensors")
    refined, _ = read_tensors(smoke.stage("refine").folder / "refined.safetensors")
    where = {int(seed): index for index, seed in enumerate(pool["seeds"])}
    picks = [where[int(seed)] for seed in chosen["seeds"]]
    assert len(set(picks)) == 20
    assert np.array_equal(pool["images"][picks], chosen["images"])
    assert np.array_equal(pool["labels"][picks], chosen["labels"])
    assert np.array_equal(refined["labels"], chosen["labels"])
    assert not np.array_equal(refined["images"], chosen["images"])


def test_a_finished_job_is_not_computed_again(smoke: SmokeJob) -> None:
    reports: list[str] = []
    again = finish(
        smoke.folder, smoke.job, smoke.cache, on_progress=lambda p: reports.append(p.phase)
    )
    assert reports == [] and all(stage.was_cached for stage in again.stages)
    assert again.content_digest == smoke.result.content_digest


def test_another_seed_makes_another_set_from_the_same_base(smoke: SmokeJob, tmp_path: Path) -> None:
    job = new_job(
        tmp_path / "job",
        smoke.cache,
        seed=1,
        evaluate={"controls": False},
        label={"enabled": False},
    )
    result = finish(tmp_path / "job", job, smoke.cache)
    assert result.content_digest != smoke.result.content_digest
    cached = {stage.name for stage in result.stages if stage.was_cached}
    assert cached == {"prepare", "base", "encode"}
    data = read_bundle(result.bundle / BUNDLE)
    ours = read_bundle(smoke.result.bundle / BUNDLE)
    assert data.teacher_logits is None
    assert not set(data.seeds.tolist()) & set(ours.seeds.tolist())


def test_samples_that_are_not_faithful_are_replaced_and_an_unsound_proxy_selects_nothing(
    smoke: SmokeJob, tmp_path: Path
) -> None:
    job = new_job(
        tmp_path / "job", smoke.cache,
        generate={"fidelity_floor": 1.0}, proxy={"accuracy_floor": 100.0, "num_steps": 1},
        refine={"enabled": False}, evaluate={"controls": False}, label={"enabled": False},
    )  # fmt: skip
    result = finish(tmp_path / "job", job, smoke.cache)
    facts = {stage.name: stage.record["facts"] for stage in result.stages}
    assert facts["score"]["fallback"] and not facts["score"]["proxy_is_sound"]
    assert (
        "selects nothing" in next(s for s in result.stages if s.name == "score").record["summary"]
    )
    data = read_bundle(result.bundle / BUNDLE)
    assert data.metadata["start"] == "real" and data.origin == "real"
    assert set(data.seeds.tolist()) == {-1}  # no noise was drawn
    train, train_labels = Dataset.load(smoke.stage("prepare").folder).split("train")
    known = {image.tobytes(): label for image, label in zip(train, train_labels, strict=True)}
    assert [known[image.tobytes()] for image in data.images] == data.labels.tolist()
    report = read_json(result.bundle / "report.json")
    assert "real images were chosen instead" in report["fallback"]["reason"]
    assert "switched off" in report["fallback"]["reason"]
    assert report["fallback"]["origin"] == "real"
    assert "The images are real" in (result.bundle / "report.html").read_text()
    assert any("proxy was below its accuracy floor" in text for text in report["warnings"])


def test_an_unsound_proxy_leaves_the_first_candidates_of_each_class(
    smoke: SmokeJob, tmp_path: Path
) -> None:
    job = new_job(tmp_path / "job", smoke.cache, proxy={"accuracy_floor": 100.0, "num_steps": 1})

    def stop(stage: Finished) -> None:
        if stage.name == "score":
            raise Cancelled

    with pytest.raises(Cancelled):
        finish(tmp_path / "job", job, smoke.cache, on_stage=stop)
    (score,) = (tmp_path / "job" / "stages").glob("score-*")
    chosen, _ = read_tensors(score / "chosen.safetensors")
    (generate,) = (tmp_path / "job" / "stages").glob("generate-*")
    pool, _ = read_tensors(generate / "pool.safetensors")
    first = [np.flatnonzero(pool["labels"] == label)[:2] for label in range(10)]
    assert np.array_equal(chosen["seeds"], pool["seeds"][np.concatenate(first)])


def test_more_images_than_a_class_has_are_refused(smoke: SmokeJob, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"500 images per class were asked for, but the smallest"):
        new_job(tmp_path / "job", smoke.cache, images_per_class=500)
    assert not (tmp_path / "job").exists()
    # a plan that was made when the folder held more images
    (tmp_path / "job").mkdir()
    job = smoke.job | {"config": smoke.job["config"] | {"images_per_class": 500}}
    with pytest.raises(DataError, match="has only (9[0-9]) training images: use --ipc 9[0-9] or"):
        finish(tmp_path / "job", job, smoke.cache)


def test_the_smallest_class_is_named() -> None:
    check_images_per_class([5, 3], ["a", "b"], 3)
    with pytest.raises(DataError, match="4 images .* class 'b' has only 3 .* --ipc 3 or less"):
        check_images_per_class([5, 3], ["a", "b"], 4)
    with pytest.raises(DataError, match="class 'b' has no training images: add some, or remove"):
        check_images_per_class([5, 0], ["a", "b"], 1)


def test_a_folder_of_another_job_is_refused(smoke: SmokeJob) -> None:
    request = smoke.job["request"]
    assert stored_job(smoke.folder, request) == smoke.job
    before = sorted(smoke.folder.iterdir())
    with pytest.raises(
        JobError,
        match=r"holds another job \(dataset digits, ipc 2\), with seed 0 \(not 9\): name a new",
    ):
        stored_job(smoke.folder, {**request, "seed": 9})
    assert sorted(smoke.folder.iterdir()) == before


def test_the_same_job_in_other_words_goes_on(smoke: SmokeJob) -> None:
    request = smoke.job["request"]
    same = {**request, "seed": 0, "data": {"dataset": "digits"}, "channels": 1}
    assert stored_job(smoke.folder, same) == smoke.job  # with the request that it began with


def test_files_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(JobError, match="exists and holds no job: name a new folder with --out"):
        stored_job(tmp_path, REQUEST)
    with pytest.raises(JobError, match="is a file: name a new folder"):
        stored_job(tmp_path / "notes.txt", REQUEST)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_or_absent_folder_is_new(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()  # what a run that died at once leaves
    assert stored_job(tmp_path, REQUEST) is None
    assert stored_job(tmp_path / "absent", REQUEST) is None
    assert not (tmp_path / "absent").exists()


def test_a_job_that_runs_elsewhere_is_not_run_twice(smoke: SmokeJob, tmp_path: Path) -> None:
    job = new_job(tmp_path / "job", smoke.cache)
    refused: list[str] = []

    def stop(_: Finished) -> None:
        raise Cancelled

    def meanwhile(stage: Finished) -> None:
        with pytest.raises(JobError, match="another process is running the job in") as error:
            finish(tmp_path / "job", job, smoke.cache)
        refused.append(str(error.value))
        stop(stage)

    with pytest.raises(Cancelled):
        finish(tmp_path / "job", job, smoke.cache, on_stage=meanwhile)
    assert len(refused) == 1
    with pytest.raises(Cancelled):  # the lock was given back
        finish(tmp_path / "job", job, smoke.cache, on_stage=stop)


def test_a_bundle_that_was_taken_away_is_put_back(smoke: SmokeJob, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "job"
    shutil.copytree(smoke.folder, folder)
    shutil.rmtree(folder / "bundle")
    (folder / ".bundle.partial").mkdir()  # killed while it was put in its place
    again = run_job(folder, smoke.job, cache=smoke.cache, on_progress=lambda _: None)
    assert verify_folder(again.bundle) == []
    assert not (folder / ".bundle.partial").exists()


def test_requests_are_told_apart_by_content() -> None:
    assert request_digest({"a": 1, "b": 2}) == request_digest({"b": 2, "a": 1})
    assert request_digest({"a": 1}) != request_digest({"a": 2})


CHANGES = {
    "seed": ({"seed": 1}, {"finetune", "generate", "score", "refine", "label", "evaluate"}),
    "student": (
        {"evaluate": {"student": {"network": NETWORK, "num_steps": 9}}}, {"refine", "evaluate"},
    ),
    "images per class": (
        {"images_per_class": 1}, {"generate", "score", "refine", "evaluate"},
    ),
    "guidance": ({"generate": {"guidance_scale": 2.0}}, {"generate"}),
    "selection": ({"select": {"cvar_weight": 3.0}}, {"score"}),
    "refinement": ({"refine": {"learning_rate": 0.01}}, {"refine"}),
    "start": ({"refine": {"start": "auto"}}, {"refine"}),
    "fine-tuning": ({"finetune": {"diversity_weight": 1.0}}, {"finetune"}),
    "base": ({"base": {"pretrain": {"num_steps": 9}}}, {"base"}),
    "data": ({"data": {"split_seed": 1}}, {"prepare"}),
    "threads": (
        {"num_threads": 2},
        {"base", "finetune", "generate", "score", "refine", "label", "evaluate"},
    ),
}  # fmt: skip
"""A change of the request, and the stages whose own settings it touches (bundle: always)."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_stage_is_redone_where_its_settings_change_and_only_there(
    smoke: SmokeJob, tmp_path: Path, change: str
) -> None:
    from generator.config import from_dict

    changes, touched = CHANGES[change]
    changed = from_dict(new_job(tmp_path / "job", smoke.cache, **changes)["config"])
    before = from_dict(smoke.job["config"])
    done = {stage.name: stage for stage in smoke.result.stages}
    found = {
        stage.name for stage in STAGES
        if stage_key(stage, changed, done) != stage_key(stage, before, done)
    }  # fmt: skip
    assert found - {"bundle"} == touched


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.name)
def test_what_a_stage_wrote_changes_the_keys_of_those_that_read_it(stage, smoke: SmokeJob) -> None:
    from dataclasses import replace

    from generator.config import from_dict

    config = from_dict(smoke.job["config"])
    done = {finished.name: finished for finished in smoke.result.stages}
    key = stage_key(stage, config, done)
    for name in stage.reads:
        other = replace(done[name], record={**done[name].record, "digest": "other"})
        assert stage_key(stage, config, {**done, name: other}) != key
