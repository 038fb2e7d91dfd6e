"""Which DiT pipeline a job takes when none was named: what is known, what fits, what is whole."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from latent_helpers import MACHINE, write_dataset, write_pipeline
from PIL import Image

from distillery.machine import Machine
from generator.plan import make_plan
from generator.planned import Plan
from generator.pretrained import PUBLISHED

LABELS = {0: "ant", 1: "bee", 2: "cow"}
GPU = replace(MACHINE, gpu="a GPU", gpu_memory_bytes=13 * 2**30)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an empty Hub cache, a folder of models and photos of ants and bees."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 255, (72, 72, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a DiT pipeline of 64 px that knows nothing by name."""
    return write_pipeline(tmp_path_factory.mktemp("p") / "dit", image_size=64, id2label={})


def add(pipeline: Path, folder: Path, labels: dict[int, str], licence: str | None = None) -> None:
    """Put a pipeline that knows these labels into a folder."""
    shutil.copytree(pipeline, folder)
    index = folder / "model_index.json"
    names = ", ".join(f'"{row}": "{name}"' for row, name in labels.items())
    text = index.read_text()
    index.write_text(text.replace('"id2label": {}', f'"id2label": {{{names}}}'))
    assert not labels or index.read_text() != text
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")


def add_to_hub(pipeline: Path, here: Path, name: str, labels: dict[int, str]) -> None:
    place = here / "hub" / f"models--{name.replace('/', '--')}"
    add(pipeline, place / "snapshots" / ("a" * 40), labels)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)


def plan_of(here: Path, machine: Machine = MACHINE, **request: Any) -> Plan:
    data = {"data": {"dataset": str(here / "photos"), "min_images_per_class": 1}}
    request = {"images_per_class": 1} | data | request
    return make_plan(request, cache=here / "cache", machine=machine, models=here / "models")


def base_of(plan: Plan) -> tuple[str, str]:
    """Return the base of a plan, and the decision's words on it."""
    decision = next(each for each in plan.decisions if each.what == "base model")
    return plan.config.base.reference, f"{decision.choice}: {decision.reason}"


def test_the_pipeline_that_knows_the_classes_is_taken(here: Path, pipeline: Path) -> None:
    add(pipeline, here / "models" / "a-other", {})
    add(pipeline, here / "models" / "b-insects", {0: "ant", 1: "bee"}, "cc-by-nc-4.0")
    add_to_hub(pipeline, here, "org/half", {0: "ant"})
    plan = plan_of(here)
    reference, words = base_of(plan)
    assert reference == str(here / "models" / "b-insects")
    assert words.startswith("b-insects: images of 72 px; it is here, knows 2 of 2 classes,")
    assert plan.licence == "cc-by-nc-4.0" and plan.config.image_size == 64
    assert "b-insects may not be used commercially (cc-by-nc-4.0)" in plan.warnings


def test_a_pipeline_of_the_hubs_cache_is_taken_at_its_commit(here: Path, pipeline: Path) -> None:
    add(pipeline, here / "models" / "a-other", {})
    add_to_hub(pipeline, here, "org/half", {0: "ant"})
    plan = plan_of(here)
    assert (plan.config.base.reference, plan.config.base.revision) == ("org/half", "a" * 40)


def test_equals_are_taken_the_published_first_then_by_name(here: Path, pipeline: Path) -> None:
    for name in ("z", "b"):
        add(pipeline, here / "models" / name, {})
    assert base_of(plan_of(here))[0].endswith("/b")
    add_to_hub(pipeline, here, PUBLISHED, {})
    assert base_of(plan_of(here))[0] == PUBLISHED


def test_images_that_need_no_large_base_keep_the_small_one(here: Path, pipeline: Path) -> None:
    add(pipeline, here / "models" / "dit", {0: "a", 1: "b"})
    small = write_dataset(here / "d.safetensors", ["a", "b"], size=32, channels=3, count=20)
    for dataset in (str(small), "digits"):
        reference, words = base_of(plan_of(here, data={"dataset": dataset}))
        assert reference == "pixel" and "need no large one" in words


def test_without_a_pipeline_the_reason_says_what_would_help(here: Path) -> None:
    reference, words = base_of(plan_of(here))
    assert reference == "pixel" and f"and {PUBLISHED} needs about" in words
    words = base_of(plan_of(here, machine=GPU))[1]
    assert f"no DiT pipeline is here (--download allows to fetch {PUBLISHED})" in words


@pytest.mark.parametrize(
    ("machine", "request_", "why"),
    [
        (replace(MACHINE, memory_bytes=2**29), {}, "of memory, 0.5 GB are for it"),
        (replace(GPU, memory_bytes=2**28), {}, "of memory, 0.2 GB are for it"),
        (replace(GPU, gpu_memory_bytes=2**20), {}, "of GPU memory, 0.0 GB are for it"),
        (MACHINE, {"finetune": {"num_steps": 10**7}}, "at most 2 hours are for it"),
        (MACHINE, {"image_size": 32}, "dit makes images of 64 px, not 32"),
    ],
)
def test_what_does_not_fit_is_passed_over(
    here: Path, pipeline: Path, machine: Machine, request_: dict[str, Any], why: str
) -> None:
    add(pipeline, here / "models" / "dit", LABELS)
    reference, words = base_of(plan_of(here, machine=machine, **request_))
    assert reference == "pixel" and why in words


def test_the_next_is_taken_and_the_reason_tells_of_the_first(here: Path, pipeline: Path) -> None:
    add(pipeline, here / "models" / "next", {0: "ant"})
    toy = write_pipeline(here / "toy", image_size=16, id2label=LABELS)
    shutil.move(toy, here / "models" / "toy")
    reference, words = base_of(plan_of(here))
    assert reference == str(here / "models" / "next")
    assert words.endswith("; toy makes images of only 16 px")


def test_a_broken_pipeline_is_skipped_with_a_note(here: Path, pipeline: Path) -> None:
    add(pipeline, here / "models" / "broken", LABELS)
    weights = next((here / "models" / "broken" / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    add(pipeline, here / "models" / "whole", {})
    plan = plan_of(here)
    assert base_of(plan)[0] == str(here / "models" / "whole")
    note = (
        "the DiT pipeline broken that is here is passed over: the weights in transformer/ are not "
        "whole"
    )
    assert note in plan.warnings
    shutil.rmtree(here / "models" / "whole")
    plan = plan_of(here)
    assert base_of(plan)[0] == "pixel" and note in plan.warnings


def test_nothing_is_fetched_without_permission(
    here: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def fetch(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id} | options)
        raise OSError("no network here")

    monkeypatch.setattr("distillery.models.hub.snapshot_download", fetch)
    assert base_of(plan_of(here, machine=GPU))[0] == "pixel" and not calls
    plan = plan_of(here, machine=GPU, base={"allow_download": True})
    assert base_of(plan)[0] == "pixel"
    assert [(each["repo_id"], each["local_files_only"]) for each in calls] == [(PUBLISHED, False)]
    assert any("no network here" in note for note in plan.warnings)
    add(pipeline, here / "models" / "knows", {0: "ant"})  # one that is here comes before a fetch
    plan = plan_of(here, machine=GPU, base={"allow_download": True})
    assert base_of(plan)[0] == str(here / "models" / "knows") and len(calls) == 1


def test_a_smoke_run_on_a_cpu_stays_a_matter_of_seconds(here: Path, pipeline: Path) -> None:
    add(pipeline, here / "models" / "dit", LABELS)
    config = here / "models" / "dit" / "transformer" / "config.json"
    text = config.read_text()
    assert '"num_layers": 2' in text
    config.write_text(text.replace('"num_layers": 2', '"num_layers": 7000'))
    reference, words = base_of(plan_of(here, preset="smoke"))
    assert reference == "pixel" and "at most 15 seconds are for it" in words
