"""Feature extractors: from images to vectors, and to a teacher's logits where there is a head.

All take uint8 images and do their own resizing and normalising in torch, so every caller sees the
same function. Shapes: N batch, C channels, H and W, D features, K classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from distillery.errors import ModelError
from distillery.models.classifiers import Classifier
from distillery.models.facts import read_facts

RESAMPLING = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as image processors store them, by torch's names."""
CLASS_TOKENS = ("cls_token", "class_embedding")
"""Names of the parameter that marks a transformer with a class token."""


class FeatureExtractor(Protocol):
    """A function from uint8 images (N, C, H, W) to float32 features (N, D), without gradient."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features."""


class ClassifierFeatures:
    """Features and logits of one of our classifiers."""

    def __init__(
        self,
        network: Classifier,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        batch_size: int = 256,
    ) -> None:
        """Take a trained network and the statistics of its inputs, one number per channel."""
        self.network = network
        self.batch_size = batch_size
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the input of the last layer, float32 (N, D), of uint8 images."""
        return self._apply(self.network.features, images)

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 logits (N, K) of uint8 images."""
        return self._apply(self.network, images)

    @torch.no_grad()
    def _apply(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        self.network.eval()
        device = self.network.head.weight.device
        parts = [
            function(_normalise(part.to(device).float() / 255, self.mean, self.std))
            for part in images.split(self.batch_size)
        ]
        return torch.cat(parts).float()


class VisionModelFeatures:
    """Features of a transformers vision model; logits where it was trained as a classifier.

    A transformer with a class token gives that token, any other network the mean over positions.
    """

    def __init__(self, folder: Path, *, batch_size: int = 64) -> None:
        """Load a model folder in float32 on the CPU; weights from safetensors, no code from it.

        Raises:
            ModelError: If the folder holds no vision model that transformers can load.
        """
        self.batch_size = batch_size
        self.has_head = _is_classifier(folder)
        self.model = _load_model(folder, self.has_head)
        body = self.model.base_model if self.has_head else self.model
        self.body = getattr(body, "vision_model", body)  # CLIP and its kin also hold a text model
        names = [name for name, _ in self.body.named_parameters()]
        self.has_class_token = any(name.endswith(CLASS_TOKENS) for name in names)
        self.preprocess = Preprocessing(folder)

    @property
    def id2label(self) -> dict[int, str]:
        """Names of the logits; empty where there is no classification head."""
        return dict(self.model.config.id2label) if self.has_head else {}

    def to(self, device: torch.device | str) -> "VisionModelFeatures":
        """Move the network to a device, and return this."""
        self.model.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 features (N, D) of uint8 images (N, C, H, W), gray or RGB."""
        return self._apply(self._pool, images)

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 logits (N, K) of uint8 images.

        Raises:
            ModelError: If the model has no classification head.
        """
        if not self.has_head:
            name = self.model.config.name_or_path
            raise ModelError(f"{name} has no classification head: name an image classifier instead")
        return self._apply(lambda x: self.model(pixel_values=x).logits, images)

    def _pool(self, x: Tensor) -> Tensor:
        hidden = self.body(pixel_values=x).last_hidden_state
        if hidden.ndim == 4:  # a feature map, (N, D, H', W')
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.has_class_token else hidden.mean(dim=1)

    @torch.no_grad()
    def _apply(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        device = self.model.device
        parts = [
            function(self.preprocess(part.to(device))) for part in images.split(self.batch_size)
        ]
        return torch.cat(parts).float()


class Preprocessing:
    """Resizing, cropping and normalising as a folder's `preprocessor_config.json` says."""

    def __init__(self, folder: Path) -> None:
        """Read the configuration.

        Raises:
            ModelError: If it is missing, or says something that we do not do.
        """
        path = folder / "preprocessor_config.json"
        config = read_facts(path)
        self.resize_to = _side(config.get("size"), path)
        crop = config.get("crop_size") if config.get("do_center_crop") else None
        self.crop_to = _side(crop, path) if crop is not None else self.resize_to
        self.mode = RESAMPLING.get(config.get("resample", 2), "bilinear")
        self.mean = torch.tensor(config.get("image_mean") or [0.0] * 3)
        self.std = torch.tensor(config.get("image_std") or [1.0] * 3)

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 network inputs (N, 3, crop, crop) of square uint8 images."""
        x = images.float() / 255
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if x.shape[-1] != self.resize_to:
            size = (self.resize_to, self.resize_to)
            smooth = self.mode != "nearest-exact"
            x = F.interpolate(x, size, mode=self.mode, antialias=smooth).clamp(0, 1)
        margin = (self.resize_to - self.crop_to) // 2
        if margin > 0:
            x = x[..., margin : margin + self.crop_to, margin : margin + self.crop_to]
        return _normalise(x, self.mean, self.std)


def normalise_features(features: Tensor) -> Tensor:
    """Return features (N, D) scaled to length one; a zero vector stays zero."""
    return F.normalize(features, dim=1)


def _normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (x - mean) / std, channel by channel."""
    return (x - mean.to(x.device).view(-1, 1, 1)) / std.to(x.device).view(-1, 1, 1)


def _side(size: Any, path: Path) -> int:
    """Return the side of the square that a processor's size means."""
    if isinstance(size, int):
        return size
    if isinstance(size, dict):
        for key in ("shortest_edge", "height"):
            if isinstance(size.get(key), int):
                return size[key]
    raise ModelError(f"{path} must give the image size as a number of pixels, got {size!r}")


def _is_classifier(folder: Path) -> bool:
    """Say whether a model folder holds an image classifier with its head."""
    architectures = read_facts(folder / "config.json").get("architectures") or []
    return any(str(name).endswith("ForImageClassification") for name in architectures)


def _load_model(folder: Path, as_classifier: bool) -> Any:
    """Load a transformers vision model, or explain in one sentence why not."""
    # here, because transformers takes seconds to import and most jobs need no such model
    from transformers import AutoModel, AutoModelForImageClassification

    kind = AutoModelForImageClassification if as_classifier else AutoModel
    try:
        model, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot load a vision model from {folder}: {first_line}") from error
    # poolers are often left out of published weights, and are not used here
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing:
        raise ModelError(f"weights are missing in {folder}, such as {missing[0]}: get them again")
    return model.float().eval().requires_grad_(False)
