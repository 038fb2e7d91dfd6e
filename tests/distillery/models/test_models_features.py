"""Features: our classifiers' and those of transformers models, saved and loaded locally."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from distillery.errors import ModelError
from distillery.models.classifiers import build_classifier
from distillery.models.features import (
    ClassifierFeatures,
    Preprocessing,
    VisionModelFeatures,
    normalise_features,
)
from distillery.models.initialise import seeded_weights

VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    image_size=16, patch_size=8, num_labels=3, id2label={0: "cat", 1: "dog", 2: "emu"},
)  # fmt: skip


@pytest.fixture
def images() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 16, 16), generator=rng, dtype=torch.uint8)


def save(model: torch.nn.Module, folder: Path, **processor: object) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    size = {"height": 16, "width": 16}
    config = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def classifier_folder(tmp_path: Path) -> Path:
    with seeded_weights(0):
        return save(ViTForImageClassification(VIT), tmp_path / "vit")


def test_vit_gives_its_class_token_and_its_logits(
    classifier_folder: Path, images: torch.Tensor
) -> None:
    extractor = VisionModelFeatures(classifier_folder, batch_size=2)
    model = ViTForImageClassification.from_pretrained(classifier_folder).eval()
    with torch.no_grad():
        output = model((images / 255 - 0.5) / 0.25, output_hidden_states=True)
    # the head of ViT is a linear layer on the class token
    torch.testing.assert_close(model.classifier(extractor(images)), output.logits)
    torch.testing.assert_close(extractor.logits(images), output.logits)
    assert extractor.id2label == {0: "cat", 1: "dog", 2: "emu"}
    assert not extractor(images).requires_grad


def test_gray_images_count_as_rgb(classifier_folder: Path, images: torch.Tensor) -> None:
    extractor = VisionModelFeatures(classifier_folder)
    gray = images[:, :1]
    torch.testing.assert_close(extractor(gray), extractor(gray.repeat(1, 3, 1, 1)))


def test_backbone_has_features_and_no_logits(tmp_path: Path, images: torch.Tensor) -> None:
    extractor = VisionModelFeatures(save(ViTModel(VIT), tmp_path / "vit"))
    assert extractor(images).shape == (5, 16)
    assert extractor.id2label == {}
    with pytest.raises(ModelError, match="no classification head"):
        extractor.logits(images)


def test_convolutional_network_gives_the_mean_of_its_map(
    tmp_path: Path, images: torch.Tensor
) -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    folder = save(ResNetModel(config), tmp_path / "resnet")
    model = ResNetModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model((images / 255 - 0.5) / 0.25).pooler_output.flatten(1)
    torch.testing.assert_close(VisionModelFeatures(folder)(images), expected)


def test_preprocessing_is_that_of_the_models_own_processor(tmp_path: Path) -> None:
    noise = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))[None]
    smooth = torch.nn.functional.interpolate(noise, (40, 40), mode="bicubic").clamp(0, 1)
    image = (smooth * 255).to(torch.uint8)
    for resample, size in ((2, 16), (3, 16), (2, 64)):
        processor = ViTImageProcessor(
            size={"height": size, "width": size}, resample=resample, image_mean=[0.4, 0.5, 0.6]
        )
        processor.save_pretrained(tmp_path)
        picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
        theirs = processor(picture, return_tensors="pt")["pixel_values"]
        ours = Preprocessing(tmp_path)(image)
        # Pillow rounds to whole grey levels, 2 / 255 in these units, and we do not
        assert (ours - theirs).abs().max() < 4 / 255


def test_centre_is_cropped_after_resizing(tmp_path: Path) -> None:
    config = {"size": {"shortest_edge": 8}, "do_center_crop": True, "crop_size": {"height": 4}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[..., 2:6, 2:6] = 255
    assert torch.equal(Preprocessing(tmp_path)(image), torch.ones(1, 3, 4, 4))


def test_classifier_features_are_the_input_of_its_head(images: torch.Tensor) -> None:
    network = build_classifier("convnet-d2-w8", 3, 16, 4, seed=0)
    extractor = ClassifierFeatures(network, [0.5] * 3, [0.25] * 3, batch_size=2)
    x = (images / 255 - 0.5) / 0.25
    torch.testing.assert_close(extractor(images), network.features(x).detach())
    torch.testing.assert_close(extractor.logits(images), network(x).detach())


def test_normalised_features_have_length_one() -> None:
    features = normalise_features(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(features, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_broken_folders_say_what_is_wrong(classifier_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json"):
        VisionModelFeatures(tmp_path / "nowhere")
    (classifier_folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="preprocessor_config.json"):
        VisionModelFeatures(classifier_folder)
    weights = classifier_folder / "model.safetensors"
    torch.save({}, classifier_folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="cannot load a vision model"):
        VisionModelFeatures(classifier_folder)


def test_head_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    folder = save(ViTModel(VIT, add_pooling_layer=False), tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["ViTForImageClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="weights are missing"):
        VisionModelFeatures(folder)
