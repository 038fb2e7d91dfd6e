"""What the pages list beside jobs: workers, datasets, models, disks and files of a bundle."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from app.api.models import base_models
from app.api.names import mounted
from app.page import text

if TYPE_CHECKING:
    from app.jobs.records import DatasetRecord, WorkerRecord
    from app.settings import Settings

FILES: dict[str, tuple[str, bool]] = {
    "distilled.safetensors": ("the product: images, labels, weights, scores, soft labels", False),
    "data/train-00000-of-00001.parquet": ("the same for Hugging Face datasets", False),
    "report.html": ("the whole report as one page", True),
    "report.json": ("every figure of it", False),
    "preview.png": ("a picture of the images", True),
    "README.md": ("dataset card", False),
    "croissant.json": ("the dataset described for machines (Croissant)", False),
    "manifest.json": ("configuration, provenance, classes", False),
    "SHA256SUMS": ("checksums of all files", False),
}
"""What each file of a bundle is, and whether a browser shows it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker as the pages show it."""

    id: str
    device: str
    state: str
    tone: str
    doing: str
    """What it does, for the line above the jobs."""
    job: str | None
    job_title: str
    stage: str
    memory: str
    beat: str


def workers(
    records: Iterable["WorkerRecord"], dead_after_s: float, titles: Mapping[str, str]
) -> list[Worker]:
    """Return the workers that have not ended in good order.

    Args:
        records: Of the store.
        dead_after_s: Seconds without a beat after which one counts as dead.
        titles: Of jobs, by id.
    """
    return [_worker(r, dead_after_s, titles) for r in records if r.stopped_at is None]


def _worker(record: "WorkerRecord", dead_after_s: float, titles: Mapping[str, str]) -> Worker:
    """Return one worker."""
    facts = record.facts
    job = facts.get("job")
    title = titles.get(job or "", "")
    device = str(facts.get("gpu") or facts.get("device") or record.executor_id)
    is_lost = record.age_s > dead_after_s
    state, tone = ("lost", "bad") if is_lost else ("busy", "live") if job else ("idle", "good")
    doing = f"gave no sign of life for {text.duration(record.age_s)}" if is_lost else state
    return Worker(
        id=record.executor_id,
        device="CPU" if device == "cpu" else device,
        state=state,
        tone=tone,
        doing=f"busy with {title}" if title and not is_lost else doing,
        job=job,
        job_title=title,
        stage=str(facts.get("stage") or ""),
        memory=_memory(facts),
        beat=f"{text.duration(max(record.age_s, 0.0))} ago",
    )


def _memory(facts: Mapping[str, Any]) -> str:
    """Return the memory that matters: the GPU's, else the machine's."""
    used, total = facts.get("gpu_memory_used_bytes"), facts.get("gpu_memory_bytes")
    if total:
        return f"{text.size(used)} of {text.size(total)}" if used is not None else text.size(total)
    memory = facts.get("memory_bytes")
    return text.size(memory) if memory else text.DASH


def datasets(settings: "Settings", uploads: Iterable["DatasetRecord"]) -> list[dict[str, str]]:
    """Return the datasets that a job can name, built-in first."""
    found = [{"name": "digits", "about": "built in: 1,797 handwritten digits, 8 × 8 pixels"}]
    for record in uploads:
        about = upload_text(record.facts) if record.status == "ready" else record.status
        found.append({"name": record.name, "about": about})
    return found + [{"name": name, "about": "mounted folder"} for name in mounted(settings)]


def upload_text(facts: Mapping[str, Any]) -> str:
    """Return what is known of an uploaded dataset."""
    numbers = ((facts.get("classes"), "class"), (facts.get("images"), "image"))
    known = [text.count(number, noun) for number, noun in numbers if isinstance(number, int)]
    return ", ".join(["uploaded", *known])


def models(settings: "Settings") -> list[dict[str, str]]:
    """Return the bases that the form offers."""
    return [
        {"value": "auto", "about": "what fits the images"},
        {"value": "pixel", "about": "a small one, trained here"},
        *(
            {"value": each["id"], "about": each["licence"] or "on this machine"}
            for each in base_models(settings)
            if each["id"] != "pixel"
        ),
    ]


def disks(settings: "Settings") -> list[dict[str, Any]]:
    """Return the disks of jobs and cache; one where both are on the same."""
    found: list[dict[str, Any]] = []
    for name, path in (("jobs", settings.data), ("cache", settings.cache)):
        try:
            usage = shutil.disk_usage(path)
            device = path.stat().st_dev
        except OSError:  # not made yet, so nothing of it is in use
            continue
        if found and found[0]["device"] == device:
            found[0]["name"] += " and cache"
            continue
        share = usage.used / usage.total if usage.total else 0.0
        found.append({"name": name, "path": str(path), "device": device, "share": share,
                      "free": usage.free, "total": usage.total})  # fmt: skip
    return found


def bundle_files(folder: Path, job_url: str) -> list[dict[str, Any]]:
    """Return the files of a bundle's folder, the product first, with size and SHA-256."""
    sums = {}
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    order = [name for name in FILES if name in names] + [n for n in names if n not in FILES]
    rows = []
    for name in order:
        about, opens = FILES.get(name, ("", False))
        rows.append({"name": name, "size": names[name].stat().st_size, "sha256": sums.get(name),
                     "about": about, "opens": opens, "url": _address(job_url, name)})  # fmt: skip
    return rows


def _address(job_url: str, name: str) -> str:
    """Return where a file is; the report as a page has a place of its own."""
    return f"{job_url}/report" if name == "report.html" else f"{job_url}/files/{quote(name)}"
