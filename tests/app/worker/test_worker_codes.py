"""Errors become stable codes, and nothing of a traceback or of the worker's folders gets out."""

import errno
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.settings import child_environment
from app.worker.child import LOG_FILE, TRACEBACK_FILE, failure
from app.worker.codes import BY_CLASS, CODES, code_of, describe, sentence_of
from app.worker.tasks import StageTask, hide_paths
from app.worker.wire import task_from_dict, task_to_dict
from distillery import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), "config_invalid"),
        (errors.DataError("x"), "dataset_unsupported"),
        (errors.ModelError("x"), "model_unavailable"),
        (errors.BundleError("x"), "bundle_invalid"),
        (errors.JobError("x"), "job_in_use"),
        (errors.TrainingError("x"), "loss_not_finite"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), "gpu_out_of_memory"),
        (RuntimeError("CUDA error: an illegal memory access"), "gpu_lost"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "storage_failed"),
        (ZeroDivisionError("division by zero"), "internal_error"),
    ],
)
def test_each_error_has_its_code(error: Exception, code: str) -> None:
    assert code_of(error) == code
    assert sentence_of(error)


def test_every_code_has_a_hint_and_every_error_of_ours_a_code() -> None:
    assert {code for _, code in BY_CLASS} <= set(CODES)
    assert all(code.hint for code in CODES.values())
    ours = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    of_clients = {"ServiceError", "WaitTimeout"}
    without = ours - {kind.__name__ for kind, _ in BY_CLASS} - of_clients
    assert without == {"DistilleryError", "Cancelled"}
    assert describe("disk_full", "m", phase="base") == {
        "code": "disk_full", "message": "m", "hint": CODES["disk_full"].hint, "phase": "base",
        "retryable": True, "log_tail": "",
    }  # fmt: skip


def test_a_failure_tells_no_folder_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = StageTask(
        job_id="job_1", folder=tmp_path / "jobs" / "1", cache=tmp_path / "cache", stage="base"
    )
    task.folder.mkdir(parents=True)
    try:
        raise ValueError(f"bad shape in {task.cache}/base and {task.folder}/stages")
    except ValueError as error:
        with caplog.at_level(logging.ERROR):
            told = failure(error, task)
    assert told["message"] == (
        "unexpected ValueError: bad shape in the cache/base and the job's folder/stages"
    )
    assert str(tmp_path) not in str(told) + caplog.text.replace(__file__, "")
    assert "Traceback" not in str(told) + caplog.text
    assert "Traceback" in (task.folder / TRACEBACK_FILE).read_text()
    assert not (task.folder / LOG_FILE).exists()


def test_a_message_names_a_dataset_and_not_its_place() -> None:
    task = StageTask(
        job_id="job_1", folder=Path("/data/jobs/1"), cache=Path("/data/cache"), stage="plan",
        datasets=(Path("/data/uploads"), Path("/mnt/sets")), models=Path("/mnt/models"),
    )  # fmt: skip
    assert hide_paths("no weights in /mnt/models/dit/vae", task) == "no weights in dit/vae"
    upload = f"/data/uploads/{'0f' * 16}/photos.zip"
    told = hide_paths(f"no dataset '{upload}' was found; see /mnt/sets/birds, /mnt/sets", task)
    assert told == "no dataset 'photos.zip' was found; see birds, the folder of datasets"


def test_children_see_no_secret_of_the_service() -> None:
    given = {
        "PATH": "/bin", "LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "1", "HF_HOME": "/hub",
        "DISTILLERY_API_KEY": "dst_1", "DISTILLERY_DATABASE_URL": "postgresql://u:pw@db",
        "PGPASSWORD": "pw", "AWS_SECRET_ACCESS_KEY": "k", "OMP_WAIT_POLICY": "ACTIVE",
    }  # fmt: skip
    assert child_environment(given) == {
        "PATH": "/bin", "LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "1", "HF_HOME": "/hub",
        "OMP_WAIT_POLICY": "ACTIVE",
    }  # fmt: skip
    assert child_environment({}) == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_a_task_survives_the_wire(tmp_path: Path) -> None:
    task = StageTask(
        job_id="job_1", folder=tmp_path, cache=tmp_path / "c", stage="finetune", group=3,
        device="cuda", request={"data": {"dataset": "digits"}}, datasets=(tmp_path / "u",),
    )  # fmt: skip
    assert task_from_dict(task_to_dict(task)) == task
    task = replace(task, models=tmp_path / "m")
    assert task_from_dict(task_to_dict(task)) == task
