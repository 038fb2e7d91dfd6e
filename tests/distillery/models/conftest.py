"""A tiny model in the published layout of a DiT pipeline: ImageNet's 1000 rows, 8x8 images."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from distillery.models.base import DiffusionBase, load_base
from distillery.models.initialise import seeded_weights

LABELS = {row: f"label {row}" for row in range(1000)}
LABELS |= {0: "tench, Tinca tinca", 134: "crane", 517: "crane", 207: "golden retriever"}


def write_pipeline(folder: Path) -> None:
    with seeded_weights(0):
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
            num_layers=2, sample_size=4, patch_size=2, num_embeds_ada_norm=1000,
        )  # fmt: skip
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=8,
        )  # fmt: skip
    # label embeddings start at 0.02; larger ones, so that a wrong row shows in the images
    for embedding in (m for m in transformer.modules() if isinstance(m, torch.nn.Embedding)):
        embedding.weight.data *= 50
    scheduler = DDIMScheduler(beta_schedule="linear", beta_end=0.02, clip_sample=False)
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(row): label for row, label in LABELS.items()}
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny-dit"
    write_pipeline(folder)
    return folder


@pytest.fixture
def latent_base(pipeline_folder: Path) -> DiffusionBase:
    return load_base(pipeline_folder)
