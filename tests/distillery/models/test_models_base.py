"""Bases: what a folder says, what comes back after saving, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from safetensors.torch import load_file

from distillery.errors import ModelError
from distillery.models.base import DiffusionBase, load_base, pixel_base, save_pixel_base
from distillery.models.codec import LatentCodec
from distillery.models.config import PixelDiTConfig
from distillery.models.dit import build_pixel_dit, denoise

CONFIG = PixelDiTConfig(
    image_size=4, channels=1, num_classes=2, patch_size=2, num_layers=1, num_heads=2, head_dim=8
)


@pytest.fixture
def base() -> DiffusionBase:
    return pixel_base(build_pixel_dit(CONFIG, seed=0), CONFIG, ["猫", "dog"], reference="pets")


@pytest.fixture
def copy(pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_folder, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_pixel_base_knows_its_shapes(base: DiffusionBase) -> None:
    assert base.latent_shape == (1, 4, 4)
    assert (base.num_rows, base.null_row) == (2, 2)
    assert base.id2label == {0: "猫", 1: "dog"}
    with pytest.raises(ValueError, match="2 class names"):
        pixel_base(base.transformer, CONFIG, ["one"], reference="pets")


def test_pixel_base_comes_back_as_it_was_saved(base: DiffusionBase, tmp_path: Path) -> None:
    save_pixel_base(base, tmp_path / "base")
    loaded = load_base(tmp_path / "base")
    for name in ("kind", "digest", "id2label", "reference", "licence", "image_size", "channels"):
        assert getattr(loaded, name) == getattr(base, name)
    assert torch.equal(loaded.alphas_cumprod, base.alphas_cumprod)
    x, timesteps, rows = torch.ones(2, 1, 4, 4), torch.tensor([1, 900]), torch.tensor([1, 2])
    # training mode, to see that label dropout is off after loading as well
    assert torch.equal(
        denoise(loaded.transformer.train(), x, timesteps, rows),
        denoise(base.transformer.train(), x, timesteps, rows),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["base"]  # no partial folder is left


def test_saving_never_overwrites(base: DiffusionBase, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="exists already"):
        save_pixel_base(base, tmp_path)


def test_base_without_labels_has_only_rows(copy: Path) -> None:
    edit(copy / "model_index.json", id2label=None)
    assert load_base(copy).id2label == {}


def test_digest_is_that_of_the_weights(base: DiffusionBase) -> None:
    again = pixel_base(build_pixel_dit(CONFIG, seed=0), CONFIG, ["a", "b"], reference="other")
    changed = pixel_base(build_pixel_dit(CONFIG, seed=1), CONFIG, ["猫", "dog"], reference="pets")
    assert base.digest == again.digest != changed.digest


def test_swapped_pixel_weights_are_noticed(base: DiffusionBase, tmp_path: Path) -> None:
    save_pixel_base(base, tmp_path / "base")
    other = build_pixel_dit(CONFIG, seed=1)
    other.save_pretrained(tmp_path / "base" / "transformer")  # type: ignore[operator]
    with pytest.raises(ModelError, match="not those that were saved"):
        load_base(tmp_path / "base")


def test_pipeline_folder_gives_a_latent_base(pipeline_folder: Path) -> None:
    base = load_base(pipeline_folder, reference="facebook/DiT-XL-2-256", revision="abc")
    assert (base.kind, base.image_size, base.channels) == ("latent", 8, 3)
    assert base.latent_shape == (4, 4, 4)
    assert (base.num_rows, base.null_row) == (1000, 1000)
    assert base.id2label[0] == "tench, Tinca tinca"
    assert (base.licence, base.revision) == ("cc-by-nc-4.0", "abc")
    stock = DiTPipeline.from_pretrained(pipeline_folder)
    torch.testing.assert_close(
        base.alphas_cumprod, stock.scheduler.alphas_cumprod.double(), rtol=1e-5, atol=0
    )
    assert all(
        torch.equal(tensor, base.transformer.state_dict()[name])
        for name, tensor in stock.transformer.state_dict().items()
    )


def test_licence_of_an_unknown_base_is_read_from_its_card(copy: Path) -> None:
    assert load_base(copy).licence is None
    (copy / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\nlicense: mit\n")
    assert load_base(copy).licence == "apache-2.0"


def test_the_published_configuration_of_2023_loads(copy: Path, pipeline_folder: Path) -> None:
    """facebook/DiT-XL-2-256 names an older class and options that diffusers has dropped."""
    dropped = {"attention_type": "default", "num_vector_embeds": None, "cross_attention_dim": None}
    edit(copy / "transformer/config.json", _class_name="Transformer2DModel", **dropped)
    assert load_base(copy).digest == load_base(pipeline_folder).digest


def test_pickled_weights_are_refused_with_the_way_out(copy: Path) -> None:
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="python -m distillery.models.convert"):
        load_base(copy)


def test_pickled_weights_beside_other_safetensors_are_refused_too(copy: Path) -> None:
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))  # diffusers would fall back to it
    weights.rename(weights.with_name("other.safetensors"))
    with pytest.raises(ModelError, match="cannot load the model"):
        load_base(copy)


def test_label_dropout_is_off_after_loading(latent_base: DiffusionBase) -> None:
    x, timesteps = torch.ones(1, 4, 4, 4).expand(200, -1, -1, -1), torch.full((200,), 5)
    rows = torch.full((200,), 3)
    output = denoise(latent_base.transformer.train(), x, timesteps, rows)
    torch.testing.assert_close(output, output[:1].expand_as(output))  # 20 of 200 would differ


def test_moving_a_base_moves_all_its_parts(latent_base: DiffusionBase) -> None:
    moved = latent_base.to("meta")
    assert isinstance(moved.codec, LatentCodec)
    assert moved.alphas_cumprod.device.type == moved.codec.vae.device.type == "meta"
    assert all(p.device.type == "meta" for p in moved.transformer.parameters())


def test_weights_of_another_size_or_cut_short_are_refused(copy: Path) -> None:
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_base(copy)
    weights.write_bytes(content)
    edit(copy / "transformer/config.json", attention_head_dim=8)
    with pytest.raises(ModelError, match="cannot load the model|do not fit"):
        load_base(copy)


def test_missing_and_surplus_weights_are_refused(copy: Path) -> None:
    for layers in (1, 3):  # the file holds two
        edit(copy / "transformer/config.json", num_layers=layers)
        with pytest.raises(ModelError, match="do not fit its config"):
            load_base(copy)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}),
        ("vae/config.json", {"scaling_factor": 0.9}),
        ("transformer/config.json", {"norm_eps": 1e-3}),
    ],
)
def test_settings_are_part_of_what_a_base_is(copy: Path, file: str, changes: dict) -> None:
    before = load_base(copy)
    edit(copy / file, **changes)
    after = load_base(copy)
    assert after.digest == before.digest and after.config_digest != before.config_digest


def test_a_base_is_the_same_in_another_folder(copy: Path, tmp_path: Path) -> None:
    before = load_base(copy).config_digest
    copy.rename(tmp_path / "elsewhere")
    assert load_base(tmp_path / "elsewhere").config_digest == before


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "v_prediction"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "scaled_linear"}, "scaled_linear"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "betas of its own"),
        ("scheduler/scheduler_config.json", {"clip_sample": True}, "asks for clip_sample"),
        ("scheduler/scheduler_config.json", {"thresholding": True}, "asks for thresholding"),
        ("model_index.json", {"id2label": {"tench": 0}}, "names by row numbers"),
        ("model_index.json", {"id2label": ["tench"]}, "names by row numbers"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "StableDiffusion"),
    ],
)
def test_models_that_we_cannot_sample_are_refused(
    copy: Path, file: str, changes: dict, message: str
) -> None:
    edit(copy / file, **changes)
    with pytest.raises(ModelError, match=message):
        load_base(copy)


def test_what_is_no_model_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no base model at"):
        load_base(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="model_index.json"):
        load_base(tmp_path)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(ModelError, match="JSON object"):
        load_base(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="must be a JSON file"):
        load_base(tmp_path)
