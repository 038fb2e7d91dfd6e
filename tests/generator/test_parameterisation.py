"""What refinement moves: packed images and latents, from the request to bundle and evaluation."""

from pathlib import Path

import numpy as np
import pytest
from generator_helpers import MACHINE, REQUEST, SmokeJob, finish, new_job
from latent_helpers import run, write_dataset, write_pipeline

import distillery
from distillery.errors import ConfigError
from distillery.files import read_json
from distillery.tensorfile import read_tensors
from generator.config import from_dict
from generator.distilled_set import facts_of, open_distilled
from generator.plan import make_plan, merge
from generator.stages.refine import REFINED, refined_file
from generator.stages.score import CHOSEN


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, smoke: SmokeJob) -> SmokeJob:
    """A finished job whose images hold four pictures each."""
    root = tmp_path_factory.mktemp("packed")
    changes = {"refine": {"parameterisation": "multi_formation"}}
    job = new_job(root / "job", smoke.cache, **changes)
    return SmokeJob(root / "job", smoke.cache, job, finish(root / "job", job, smoke.cache))


def test_a_packed_job_chooses_one_candidate_for_each_picture(packed: SmokeJob) -> None:
    assert packed.job["config"]["generate"]["oversample"] >= 8
    chosen, _ = read_tensors(packed.stage("score").folder / CHOSEN)
    refined, _ = read_tensors(packed.stage("refine").folder / REFINED)
    assert len(chosen["labels"]) == 4 * len(refined["labels"]) == 4 * 20
    assert len(refined["images"]) == 20
    assert refined["labels"].tolist() == np.repeat(np.arange(10), 2).tolist()


def test_the_bundle_says_what_its_images_hold_and_most_controls_hold_one(packed: SmokeJob) -> None:
    bundle = packed.folder / "bundle"
    data = distillery.load(bundle)
    assert (len(data), data.images_per_class, data.pictures_per_image) == (20, 2, 4)
    assert data.teacher_logits is None
    chosen, _ = read_tensors(packed.stage("score").folder / CHOSEN)
    assert np.array_equal(data.seeds, chosen["seeds"][::4])
    report = read_json(bundle / "report.json")
    ours, *controls = report["results"]["hard"]
    assert ours["label"].endswith("4 pictures in each image") and controls
    several = [row["name"] for row in controls if "pictures" in row["label"]]
    assert several == ["real_refined"]  # which is packed alike
    assert any("every control has one picture" in text for text in report["warnings"])
    real, _ = read_tensors(packed.stage("refine").folder / refined_file("real"))
    assert real["images"].shape == data.images.shape
    assert report["results"]["soft"] == []


def test_evaluation_sees_the_pictures_and_counts_stored_images(packed: SmokeJob) -> None:
    opened = open_distilled(packed.folder)
    assert (opened.images_per_class, opened.fewest_per_class) == (2, 2)
    images, labels = distillery.load(packed.folder / "bundle").views()
    assert np.array_equal(opened.images, images) and np.array_equal(opened.labels, labels)
    facts = facts_of(opened)
    assert (facts["num_images"], facts["pictures_per_image"]) == (20, 4)


@pytest.mark.parametrize("objective", ["dm", "clusters"])
def test_latents_move_where_the_base_has_an_autoencoder(objective: str, tmp_path: Path) -> None:
    names = ["golden_retriever", "tench"]
    base = write_pipeline(
        tmp_path / "tiny-dit", image_size=16, id2label={0: "tench", 207: "golden retriever"}
    )
    dataset = write_dataset(tmp_path / "d.safetensors", names, size=16, channels=3, count=20)
    small = {"network": "convnet-d2-w8"}
    request = {
        "preset": "smoke", "images_per_class": 2, "num_threads": 1,
        "data": {"dataset": str(dataset)}, "base": {"reference": str(base)}, "proxy": small,
        "finetune": {"enabled": False}, "label": {"enabled": False},
        "refine": {"parameterisation": "latent", "objective": objective, "num_steps": 2,
                   "num_attempts": 1},
        "evaluate": {"student": small | {"num_steps": 5}, "controls": False},
    }  # fmt: skip
    result = run(request, tmp_path)
    done = {stage.name: stage for stage in result.stages}
    assert len(done["refine"].record["facts"]["set_scores"]) == 2  # start and refined set
    curve = read_json(done["refine"].folder / "curve.json")["loss"]
    kept = done["refine"].record["facts"]["kept"]
    assert len(curve) == (2 if kept else 0)


def test_what_cannot_be_had_is_refused_before_any_work(cache: Path) -> None:
    def plan(**changes):
        return make_plan(merge(REQUEST, changes), cache=cache, machine=MACHINE)

    with pytest.raises(ConfigError, match="latent needs a base with an autoencoder"):
        plan(refine={"parameterisation": "latent"})
    with pytest.raises(ConfigError, match="oversample must be 9 or more, got 4"):
        packed = {"parameterisation": "multi_formation", "formation_factor": 3}
        plan(refine=packed, generate={"oversample": 4})
    with pytest.raises(ConfigError, match="a real start takes 120 training images .* has 9"):
        real = {"parameterisation": "multi_formation", "start": "real"}
        plan(images_per_class=30, refine=real)
    with pytest.raises(ConfigError, match="soft labels, which packed images have none of"):
        plan(
            images_per_class=1,
            refine={"parameterisation": "multi_formation"},
            evaluate={"protocol": "soft-rded", "protocol_epochs": 1},
        )
    with pytest.raises(ConfigError, match=r"must be one of pixels, multi_formation, latent"):
        from_dict({"refine": {"parameterisation": "patches"}})
    with pytest.raises(ConfigError, match="formation_factor must be 2 or 3, got 4"):
        from_dict({"refine": {"formation_factor": 4}})
