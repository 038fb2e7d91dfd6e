"""What we export must sample with the stock diffusers pipeline, the null class where it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline

from distillery.errors import ModelError
from distillery.models.base import DiffusionBase, load_base, pixel_base
from distillery.models.class_rows import initialise_rows, map_classes
from distillery.models.config import PixelDiTConfig
from distillery.models.dit import build_pixel_dit, label_tables
from distillery.models.export import export_pipeline

NAMES = ["tench", "Bibi's mug, blue", "golden_retriever"]


def sample(folder: Path, rows: list[int], guidance_scale: float = 4.0) -> np.ndarray:
    """Images of the stock pipeline, (N, 8, 8, 3) in [0, 1]."""
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    return pipeline(
        rows, guidance_scale=guidance_scale, generator=rng, num_inference_steps=4, output_type="np"
    ).images


def test_unchanged_export_gives_equal_images(
    latent_base: DiffusionBase, pipeline_folder: Path, tmp_path: Path
) -> None:
    mapping = map_classes(["tench", "golden_retriever"], latent_base.id2label, 1000)
    export_pipeline(latent_base, latent_base.transformer, tmp_path / "out", NAMES[:2], mapping.rows)
    before, after = (sample(f, list(mapping.rows)) for f in (pipeline_folder, tmp_path / "out"))
    assert np.array_equal(before, after)
    # the comparison can fail: another class gives other images
    assert np.abs(sample(pipeline_folder, [3, 4]) - before).max() > 0.01


def test_own_classes_leave_known_and_null_class_alone(
    latent_base: DiffusionBase, pipeline_folder: Path, tmp_path: Path
) -> None:
    mapping = map_classes(NAMES, latent_base.id2label, 1000)
    assert mapping.origins == ("known", "own", "known")
    own = mapping.rows[1]
    before = [table.weight.detach().clone() for table in label_tables(latent_base.transformer)]
    initialise_rows(latent_base.transformer, mapping)
    export_pipeline(latent_base, latent_base.transformer, tmp_path / "out", NAMES, mapping.rows)

    # guidance mixes in the null class, row 1000 by number: a moved null row would show here
    known = [mapping.rows[0], mapping.rows[2]]
    assert np.array_equal(sample(tmp_path / "out", known), sample(pipeline_folder, known))
    assert not np.array_equal(sample(tmp_path / "out", [own]), sample(pipeline_folder, [own]))
    stock = DiTPipeline.from_pretrained(tmp_path / "out")
    for table, old in zip(label_tables(stock.transformer), before, strict=True):
        torch.testing.assert_close(table.weight[own], old[:1000].mean(0))
        assert torch.equal(table.weight[1000], old[1000])


def test_labels_of_the_stock_pipeline_are_the_users(
    latent_base: DiffusionBase, tmp_path: Path
) -> None:
    mapping = map_classes(NAMES, latent_base.id2label, 1000)
    export_pipeline(latent_base, latent_base.transformer, tmp_path / "out", NAMES, mapping.rows)
    stock = DiTPipeline.from_pretrained(tmp_path / "out")
    wanted = ["tench", "Tinca tinca", "Bibi's mug blue", "golden_retriever", "golden retriever"]
    assert stock.get_label_ids(wanted) == [0, 0, mapping.rows[1], 207, 207]
    # the class that gave its row away is no longer offered under its old name
    assert f"label {mapping.rows[1]}" not in stock.labels


def test_export_comes_back_with_its_origin(latent_base: DiffusionBase, tmp_path: Path) -> None:
    export_pipeline(latent_base, latent_base.transformer, tmp_path / "out", ["tench"], [0])
    loaded = load_base(tmp_path / "out")
    assert loaded.digest == latent_base.digest
    assert (loaded.reference, loaded.licence) == (latent_base.reference, latent_base.licence)


def test_licence_travels_with_the_export(pipeline_folder: Path, tmp_path: Path) -> None:
    base = load_base(pipeline_folder, reference="facebook/DiT-XL-2-256")
    export_pipeline(base, base.transformer, tmp_path / "out", ["tench"], [0])
    assert "license: cc-by-nc-4.0" in (tmp_path / "out" / "README.md").read_text()
    assert load_base(tmp_path / "out", reference="mine").licence == "cc-by-nc-4.0"


def test_pixel_export_loads_as_a_base(tmp_path: Path) -> None:
    config = PixelDiTConfig(image_size=4, channels=1, num_classes=2, patch_size=2, num_layers=1)
    base = pixel_base(build_pixel_dit(config, 0), config, ["a", "b"], reference="letters")
    tuned = build_pixel_dit(config, 1)
    export_pipeline(base, tuned, tmp_path / "out", ["a", "b"], [0, 1])
    loaded = load_base(tmp_path / "out")
    assert all(
        torch.equal(tensor, loaded.transformer.state_dict()[name])
        for name, tensor in tuned.state_dict().items()
    )


def test_what_a_stock_pipeline_could_not_load_is_refused(
    latent_base: DiffusionBase, tmp_path: Path
) -> None:
    def export(rows: list[int], names: list[str] = NAMES) -> None:
        export_pipeline(latent_base, latent_base.transformer, tmp_path / "out", names, rows)

    with pytest.raises(ValueError, match="row of its own"):
        export([0, 1, 1])
    with pytest.raises(ValueError, match="row of its own"):
        export([0, 1])
    with pytest.raises(ValueError, match=r"\[0, 1000\)"):  # 1000 is the null class
        export([0, 1, 1000])
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        export([0, 1, 2])
    latent_base.transformer.register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match="fold the adapter"):
        export([0, 1, 2])
