"""From an exception of a stage to the stable code that clients act on, a sentence and a hint.

Codes are part of the API: they are added to, never renamed. Tracebacks stay in files.
"""

import errno
from dataclasses import dataclass

from app.cli import failures
from distillery import errors


class DeviceLost(errors.DistilleryError):
    """The device that the job computes on is not there."""


class LicenceNotAccepted(errors.DistilleryError):
    """The plan chose a base with a licence that the job's sender has not acknowledged."""


@dataclass(frozen=True, slots=True)
class Code:
    """What a code tells a client."""

    hint: str
    """What to do."""
    is_retryable: bool = False
    """Whether the same job can succeed when it is run again."""


LOG = "the end of the job's log may say more"
CODES = {
    "config_invalid": Code("change the option that the message names and submit a new job"),
    "dataset_unsupported": Code("mend the dataset, or ask for what it holds; submit a new job"),
    "model_unavailable": Code("check the model's name and files, and that downloads are allowed"),
    "license_not_accepted": Code(
        "submit the job again with acknowledge_licence true, or with base.reference pixel"
    ),
    "bundle_invalid": Code("retry the job: the bundle is written again", True),
    "job_in_use": Code("wait until nothing else works in the job's folder, then retry", True),
    "loss_not_finite": Code("lower the learning rate that the message names, or use the defaults"),
    "gpu_out_of_memory": Code(
        "lower finetune.batch_size or generate.batch_size, or free the GPU and retry", True
    ),
    "out_of_memory": Code(
        "choose a smaller image_size or batch_size, or give the worker more memory and retry", True
    ),
    "gpu_lost": Code("see that the worker's GPU answers (distillery doctor), then retry", True),
    "disk_full": Code("free disk space on the worker, then retry: finished work is kept", True),
    "storage_failed": Code("mend the worker's data or cache folder, then retry", True),
    "stage_died": Code(
        "its process was killed again and again, most often for want of memory: choose a smaller "
        "image_size or batch_size, or give the worker more memory and retry", True,
    ),
    "internal_error": Code(f"retry the job; {LOG}", True),
}  # fmt: skip
"""Every code that `error.code` of a job can hold."""
BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (DeviceLost, "gpu_lost"),
    (LicenceNotAccepted, "license_not_accepted"),
    (errors.ConfigError, "config_invalid"),
    (errors.DataError, "dataset_unsupported"),
    (errors.ModelError, "model_unavailable"),
    (errors.BundleError, "bundle_invalid"),
    (errors.JobError, "job_in_use"),
    (errors.TrainingError, "loss_not_finite"),
)
LOST = ("CUDA error", "CUDA driver", "NVML", "device-side assert", "unspecified launch failure")


def code_of(error: BaseException) -> str:
    """Return the code of an exception."""
    for kind, code in BY_CLASS:
        if isinstance(error, kind):
            return code
    if failures.is_out_of_memory(error):
        return "gpu_out_of_memory" if "CUDA" in str(error) else "out_of_memory"
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return "disk_full" if full else "storage_failed"
    if isinstance(error, RuntimeError) and any(text in str(error) for text in LOST):
        return "gpu_lost"
    return "internal_error"


def sentence_of(error: BaseException) -> str:
    """Return what to tell a person; of an unexpected error its kind and first line."""
    code = code_of(error)
    if code == "gpu_out_of_memory":
        return "the GPU has not enough memory for this"
    if code == "out_of_memory":
        return "the worker has not enough memory for this"
    if code in ("gpu_lost", "internal_error") and not isinstance(error, errors.DistilleryError):
        first = str(error).strip().split("\n")[0][:200]
        return f"unexpected {type(error).__name__}: {first or 'no message'}"
    return failures.sentence(error) if failures.is_expected(error) else str(error)


def describe(code: str, message: str, *, phase: str, log_tail: str = "") -> dict[str, object]:
    """Return the error of a job as its record holds it."""
    entry = CODES[code]
    return {
        "code": code,
        "message": message,
        "hint": entry.hint,
        "phase": phase,
        "retryable": entry.is_retryable,
        "log_tail": log_tail,
    }
