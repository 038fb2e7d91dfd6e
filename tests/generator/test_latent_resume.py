"""A job on a latent base that is stopped in every stage, while it encodes too, loses no byte."""

from pathlib import Path
from typing import Any

from generator_helpers import finish
from latent_helpers import plan_of, write_dataset, write_pipeline
from trouble import Trouble, alternating, run_through, written

from generator.pipeline import start_job

SMALL = {"network": "convnet-d1-w8"}
NAMES = ["mug", "tench"]


def test_stopped_while_it_encodes_and_after(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base", image_size=16, id2label={0: "tench"})
    dataset = write_dataset(tmp_path / "d.safetensors", NAMES, size=16, channels=3, count=40)
    request: dict[str, Any] = {
        "preset": "smoke", "images_per_class": 1, "num_threads": 1,
        "data": {"dataset": str(dataset)}, "base": {"reference": str(base)},
        "finetune": {"num_steps": 2, "guard_interval": 0}, "generate": {"num_steps": 1},
        "proxy": SMALL | {"num_steps": 5}, "label": {"enabled": False},
        "refine": {"num_steps": 2, "steps_per_proxy": 2, "proxy_steps": 2},
        "evaluate": {"controls": False, "student": SMALL | {"num_steps": 2}},
    }  # fmt: skip
    folder = tmp_path / "undisturbed"
    job = start_job(folder, request, plan_of(request, tmp_path / "cache"))
    whole = finish(folder, job, tmp_path / "cache")

    trouble = Trouble(0.4, alternating())
    result = run_through(job, tmp_path / "troubled", trouble)
    assert result.content_digest == whole.content_digest
    assert written(result) == written(whole)
    assert {"in encode", "after encode", "in finetune", "in refine"} <= set(trouble.stopped)
    assert any(name.startswith("encode/") for name in written(whole))
