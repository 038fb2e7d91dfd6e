"""A stage alone, and class groups in processes of their own: the bytes of a run in one go."""

import multiprocessing
from pathlib import Path

import pytest
from filelock import FileLock
from generator_helpers import MACHINE, SmokeJob, finish
from latent_helpers import write_dataset

from distillery.errors import Cancelled
from distillery.files import digest_file, read_json, write_json
from distillery.progress import Progress, ignore_progress
from generator.notes import read_notes
from generator.one_stage import IN_USE, count_parts, run_one_part, run_one_stage
from generator.pipeline import STAGES, start_job
from generator.plan import make_plan
from generator.stage import WAITING
from generator.stage_names import STAGE_NAMES

GROUPS = {
    "preset": "smoke", "images_per_class": 2, "num_threads": 1, "refine": {"enabled": False},
    "label": {"enabled": False}, "proxy": {"network": "convnet-d1-w8", "num_steps": 4},
    "base": {"reference": "pixel", "pretrain": {"num_steps": 4, "warmup_steps": 2}},
    "finetune": {"num_steps": 12, "guard_interval": 0, "classes_per_group": 2, "batch_size": 8},
    "generate": {"num_steps": 2, "batch_size": 4, "guidance_scale": 1.0},
    "evaluate": {"student": {"network": "convnet-d1-w8", "num_steps": 2}},
}  # fmt: skip
"""Five classes in three groups."""


def test_the_names_of_the_stages_are_those_of_the_pipeline() -> None:
    assert tuple(stage.name for stage in STAGES) == STAGE_NAMES


def test_stages_one_by_one_end_as_the_whole_job_does(smoke: SmokeJob, tmp_path: Path) -> None:
    folder, cache = tmp_path / "job", tmp_path / "cache"
    folder.mkdir()
    for name in STAGE_NAMES:
        done = run_one_stage(
            folder, smoke.job, name, cache=cache, on_progress=ignore_progress
        )  # fmt: skip
        assert list(done)[-1] == name
        assert not done[name].was_cached and all(
            stage.was_cached for stage in done.values() if stage.name != name
        )
        again = run_one_stage(folder, smoke.job, name, cache=cache, on_progress=ignore_progress)
        assert again[name].was_cached
    assert done["bundle"].record["facts"]["content_digest"] == smoke.result.content_digest
    assert (folder / "bundle" / "distilled.safetensors").exists()
    # the report tells who did the work, however often the job was taken up again
    rows = read_json(folder / "bundle" / "report.json")["stages"]
    assert [row["cached"] for row in rows] == [False] * 9
    assert set(read_notes(folder)) == set(STAGE_NAMES)


def test_a_job_that_another_process_works_on_is_waited_for(smoke: SmokeJob, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    told: list[str] = []

    def stop(progress: Progress) -> None:
        told.append(progress.message)
        raise Cancelled

    with FileLock(folder / ".lock"), pytest.raises(Cancelled):
        run_one_stage(folder, smoke.job, "prepare", cache=tmp_path / "c", on_progress=stop)
    assert told == [IN_USE]


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> SmokeJob:
    """A job of three class groups, run in one go."""
    root = tmp_path_factory.mktemp("grouped")
    names = [f"class {number}" for number in range(5)]
    dataset = write_dataset(root / "d.safetensors", names, size=8, channels=1, count=16)
    request = GROUPS | {"data": {"dataset": str(dataset)}}
    job = start_job(
        root / "job", request, make_plan(request, cache=root / "cache", machine=MACHINE)
    )
    result = finish(root / "job", job, root / "cache")
    return SmokeJob(root / "job", root / "cache", job, result)


def _part(folder: Path, job: dict, name: str, number: int, cache: Path) -> None:
    run_one_part(folder, job, name, number, cache=cache, on_progress=ignore_progress)


def _written(folder: Path) -> dict[str, str]:
    return {
        path.name: digest_file(path) for path in sorted(folder.iterdir()) if path.suffix != ".json"
    }


def test_groups_in_parallel_processes_give_the_same_bytes(
    grouped: SmokeJob, tmp_path: Path
) -> None:
    folder, cache, job = tmp_path / "job", tmp_path / "cache", grouped.job
    folder.mkdir()
    run_one_stage(folder, job, "encode", cache=cache, on_progress=ignore_progress)
    assert count_parts(folder, job, "finetune", cache=cache) == 3
    other = multiprocessing.get_context("spawn").Process(
        target=_part, args=(folder, job, "finetune", 2, cache)
    )
    other.start()
    _part(folder, job, "finetune", 1, cache)
    other.join()
    assert other.exitcode == 0
    _gather(grouped, folder, "finetune", cache, cache, num_done=2)
    assert count_parts(folder, job, "generate", cache=cache) == 4
    for number in (3, 0):
        _part(folder, job, "generate", number, cache)
    _gather(grouped, folder, "generate", cache, folder / "stages", num_done=2)


def _gather(
    grouped: SmokeJob, folder: Path, name: str, cache: Path, root: Path, *, num_done: int
) -> None:
    """Run the stage itself: it does the parts that nobody has done, and gathers all."""
    assert len(list(root.glob(f"{name}-*.part-*/stage.json"))) == num_done
    done = run_one_stage(folder, grouped.job, name, cache=cache, on_progress=ignore_progress)
    assert _written(done[name].folder) == _written(grouped.stage(name).folder)
    assert done[name].record["digest"] == grouped.stage(name).record["digest"]
    assert not list(root.glob(f"{name}-*.part-*"))


def test_a_finished_stage_has_nothing_left_for_a_late_part(grouped: SmokeJob) -> None:
    _part(grouped.folder, grouped.job, "finetune", 1, grouped.cache)
    assert not list(grouped.cache.glob("finetune-*.part-*"))


def test_a_part_counts_its_steps_after_those_of_finished_parts(
    grouped: SmokeJob, tmp_path: Path
) -> None:
    folder, cache, job = tmp_path / "job", tmp_path / "cache", grouped.job
    folder.mkdir()
    run_one_stage(folder, job, "encode", cache=cache, on_progress=ignore_progress)
    told: list[Progress] = []
    for number in (1, 0):
        run_one_part(folder, job, "finetune", number, cache=cache, on_progress=told.append)
    assert {progress.total for progress in told} == {36}
    steps = [progress.step for progress in told]
    assert steps == sorted(steps) and steps[-1] == 24


def test_a_part_that_another_process_does_is_waited_for(grouped: SmokeJob, tmp_path: Path) -> None:
    folder, cache, job = tmp_path / "job", tmp_path / "cache", grouped.job
    folder.mkdir()
    done = run_one_stage(folder, job, "encode", cache=cache, on_progress=ignore_progress)
    name = grouped.stage("finetune").folder.name
    told: list[str] = []

    def stop(progress: Progress) -> None:
        told.append(progress.message)
        raise Cancelled

    with FileLock(done["encode"].folder.parent / f".{name}.part-0001.lock"):
        with pytest.raises(Cancelled):
            run_one_part(folder, job, "finetune", 1, cache=cache, on_progress=stop)
    assert told == [WAITING]


@pytest.mark.parametrize(("stage", "number"), [("finetune", 3), ("finetune", -1), ("score", 0)])
def test_a_part_that_is_not_there_is_refused(grouped: SmokeJob, stage: str, number: int) -> None:
    with pytest.raises(ValueError, match=f"stage {stage} has [03] parts, got number {number}"):
        _part(grouped.folder, grouped.job, stage, number, grouped.cache)


def test_a_job_with_one_group_has_no_parts_worth_a_process(smoke: SmokeJob) -> None:
    for name in ("finetune", "generate", "score"):
        assert count_parts(smoke.folder, smoke.job, name, cache=smoke.cache) == 0


def test_the_first_note_of_a_stage_stays(grouped: SmokeJob, tmp_path: Path) -> None:
    """A stage that another job did is told as such; one that this job did is not, ever after."""
    folder = tmp_path / "second"
    folder.mkdir()
    write_json(folder / "job.json", grouped.job)
    run_one_stage(
        folder, grouped.job, "encode", cache=grouped.cache, on_progress=ignore_progress
    )  # fmt: skip
    assert [note["cached"] for note in read_notes(folder).values()] == [True] * 3
    assert [note["cached"] for note in read_notes(grouped.folder).values()] == [False] * 10
