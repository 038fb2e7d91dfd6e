"""What the tests of the pages share: hostile names, a small bundle, its report, a site of pages."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from app.jobs.phases import new_phases
from app.jobs.records import JobRecord
from app.jobs.service import Service
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.folder import write_bundle_folder

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u202egnp.exe 金魚"
CLASSES = ("2", "10", HOSTILE)


def make_dataset(classes: tuple[str, ...] = CLASSES, images_per_class: int = 4) -> DistilledDataset:
    rng = np.random.default_rng(0)
    num_images = len(classes) * images_per_class
    return DistilledDataset(
        images=rng.integers(0, 256, (num_images, 3, 8, 8), dtype=np.uint8),
        labels=np.repeat(np.arange(len(classes)), images_per_class),
        weights=np.ones(num_images, np.float32),
        cluster_ids=np.arange(num_images, dtype=np.int32) - 1,
        scores=rng.random((num_images, 1), dtype=np.float32),
        seeds=np.arange(num_images) * 7,
        teacher_logits=np.eye(len(classes), dtype=np.float16)[np.arange(num_images) % len(classes)],
        classes=classes,
        images_per_class=images_per_class,
        score_names=("proxy_loss",),
    )


def statistic(mean: float, std: float = 0.01) -> dict[str, Any]:
    return {"mean": mean, "std": std, "runs": [mean - std, mean, mean + std]}


def make_row(name: str, mean: float, **fields: Any) -> dict[str, Any]:
    groups = [
        {"id": "g0", "n_test": 60, "accuracy": mean - 0.2},
        {"id": "g1", "n_test": 3, "accuracy": None},
    ]
    return {
        "name": name, "label": f"{name} {HOSTILE}", "is_ours": name == "ours",
        "images_per_class": 4, "accuracy": statistic(mean), "cluster_min": statistic(mean - 0.2),
        "noise": statistic(mean - 0.05), "per_class": [mean, mean - 0.1, mean + 0.01],
        "groups": groups, **fields,
    }  # fmt: skip


def make_report(classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    hard = [make_row("ours", 0.9), make_row("random_real", 0.8), make_row("herding", 0.93)]
    return {
        "schema": "distillery-report/1",
        "title": HOSTILE,
        "dataset": {"class_names": list(classes), "num_classes": len(classes), "channels": 3,
                    "image_size": 8, "images_per_split": {"train": 900}, "fingerprint": "ab" * 32},
        "results": {"hard": hard, "soft": [make_row("ours", 0.91)]},
        "stage_effects": [{"stage": "selection", "gain": 0.03, "standard_error": 0.001,
                           "verdict": "+3.0 points: it helps"}],
        "warnings": [HOSTILE],
        "licences": [{"what": "base model", "licence": HOSTILE}],
        "protocol": {"student": "convnet", "name": "distillery", "num_seeds": 3},
        "full_data": make_row("full_data", 0.97),
        "start": {"kept": "real", "word": "real_by_validation", "origin": "refined",
                  "reason": "students of them did better"},
        "fallback": None,
    }  # fmt: skip


@dataclass
class NoEngine:
    """Stands where the queue would be; the pages never ask it."""

    def reconcile(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


@dataclass
class Site:
    """The pages, and the stores under them."""

    client: TestClient
    service: Service
    request: dict[str, Any] = field(default_factory=lambda: {"data": {"dataset": "digits"}})

    def create(self, *, name: str | None = None, **request: Any) -> JobRecord:
        return self.service.store.create({**self.request, **request}, name=name)

    def start(self, *, name: str | None = None, **fields: Any) -> JobRecord:
        job = self.create(name=name)
        found = self.service.store.change(
            job.id, expect={"queued"}, status="running", phase="finetune", phases=new_phases(),
            worker={"id": "w", "device": "CPU"}, **fields,
        )  # fmt: skip
        assert found is not None
        return found

    def finish(self, job: JobRecord, dataset: DistilledDataset | None = None) -> JobRecord:
        dataset = dataset or make_dataset()
        report = make_report(dataset.classes)
        folder = self.service.job_folder(job.id)
        folder.mkdir(parents=True)
        files = {"report.html": b"<p>report", "preview.png": b"png"}
        write_bundle_folder(folder / "bundle", dataset, report=report, files=files)
        result = {
            "content_digest": dataset.content_digest, "bundle_size_bytes": 12_345,
            "accuracy": 0.9, "controls": [{"label": HOSTILE, "accuracy": 0.93}],
        }  # fmt: skip
        found = self.service.store.change(
            job.id, expect={"running"}, status="succeeded", result=result
        )
        assert found is not None
        return found

    def page(self, path: str, status: int = 200) -> str:
        """Return a page after a look at what holds for all of them."""
        response = self.client.get(path, headers={"Accept": "text/html"})
        assert response.status_code == status, response.text[:500]
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        return response.text
