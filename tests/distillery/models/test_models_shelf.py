"""DiT pipelines on this machine: found by their files, described without their weights."""

from pathlib import Path

import pytest

from distillery.errors import ModelError
from distillery.models.shelf import check_whole, local_pipelines, pipeline_facts
from tests.pipeline_folder import write_folder


def snapshot(hub: Path, name: str, commit: str, class_name: str = "DiTPipeline") -> Path:
    place = hub / f"models--{name.replace('/', '--')}" / "snapshots" / commit
    return write_folder(place, class_name)


def test_pipelines_of_the_hub_and_of_the_folder_are_found_by_name(tmp_path: Path) -> None:
    hub, models = tmp_path / "hub", tmp_path / "models"
    snapshot(hub, "b/dit", "2" * 40)
    snapshot(hub, "a/dit--large", "1" * 40)
    snapshot(hub, "c/sd", "3" * 40, "StableDiffusionPipeline")
    write_folder(models / "mine")
    (models / "notes").mkdir()
    (models / "link").symlink_to(models / "mine")
    found = local_pipelines(hub, models)
    assert [each.name for each in found] == ["a/dit--large", "b/dit", "mine"]
    assert [each.revision for each in found] == ["1" * 40, "2" * 40, None]
    assert found[2].reference == str(models / "mine") and found[1].reference == "b/dit"
    assert local_pipelines(tmp_path / "none", None) == ()
    assert local_pipelines(tmp_path / "none", tmp_path / "neither") == ()


def test_of_several_snapshots_the_main_branch_counts(tmp_path: Path) -> None:
    snapshot(tmp_path, "a/dit", "1" * 40)
    snapshot(tmp_path, "a/dit", "2" * 40)
    assert local_pipelines(tmp_path, None)[0].revision == "2" * 40, "fetched by commit alone"
    refs = tmp_path / "models--a--dit" / "refs"
    refs.mkdir()
    (refs / "main").write_text("1" * 40)
    assert local_pipelines(tmp_path, None)[0].revision == "1" * 40


def test_the_files_say_size_rows_labels_and_licence(tmp_path: Path) -> None:
    facts = pipeline_facts(write_folder(tmp_path / "p"), "p")
    assert (facts.image_size, facts.num_rows, facts.licence) == (32, 5, "mit")
    assert facts.id2label == {0: "cat"}
    check_whole(tmp_path / "p")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("transformer/config.json", b"{", "'p' holds no base model"),
        ("vae/config.json", b"[]", "'p' holds no base model"),
        ("scheduler/scheduler_config.json", None, "scheduler_config.json is missing"),
        ("vae/model.safetensors", None, "vae/ has no weights"),
        ("vae/model.safetensors", b"short", "the weights in vae/ are not whole"),
        ("vae/model.safetensors", b"\xff" * 64, "the weights in vae/ are not whole"),
        ("model_index.json", b"\x00", "must be a JSON file"),
    ],
)
def test_a_broken_pipeline_is_found_and_says_what_is_wrong(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = write_folder(tmp_path / "models" / "p") / name
    path.unlink() if content is None else path.write_bytes(content)
    (found,) = local_pipelines(tmp_path / "hub", tmp_path / "models")
    with pytest.raises(ModelError, match=message):
        pipeline_facts(found.folder, found.name)
        check_whole(found.folder)


def test_weights_that_were_cut_off_are_seen(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "p") / "transformer" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not whole"):
        check_whole(tmp_path / "p")
