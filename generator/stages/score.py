"""Stage score: scores of the candidates by a robust proxy of the real images, the chosen ones.

Where the generator's samples are not faithful, selected real images take their place. Where the
proxy is not sound, it selects nothing: the first candidates of each class are taken, and said so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillery.data.normalise import Images
from distillery.errors import ConfigError
from distillery.evaluation.training import inference_batch, predict_logits
from distillery.models.classifiers import Classifier
from distillery.models.features import normalise_features
from distillery.seeds import numpy_rng
from distillery.tensorfile import read_tensors, write_tensors
from generator.aside import finished, take
from generator.config import DistillConfig, to_dict
from generator.public_names import public_name
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import Reals, machine_settings, open_reals
from generator.stages.generate import POOL
from generator.stages.proxy import CLUSTERS, PROXY, clusters_in, trained_proxy
from generator.stages.proxy import STAGE as PROXY_STAGE
from generator.vision import OWN_FEATURES, load_vision_model, model_files
from robust.proxy import Proxy
from robust.scoring import SCORE_NAMES, candidate_scores
from robust.selection import select

Features = Callable[[np.ndarray], Tensor]
"""Raw images (N, C, H, W) -> features of length one (N, D), on the CPU."""
CHOSEN = "chosen.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what proxy, scores and choice depend on."""
    return {
        "proxy": to_dict(config.proxy),
        "select": to_dict(config.select),
        **model_files(config.select.features),
        "augmentation": config.evaluate.student.augmentation,
        "images_per_class": config.images_per_class,
        "pictures_per_image": config.refine.pictures_per_image,
        "seed": config.seed,
        **machine_settings(config),
    }


@dataclass(frozen=True, slots=True)
class Candidates:
    """Images to choose from, sorted by class."""

    images: np.ndarray
    labels: np.ndarray
    seeds: np.ndarray
    """Noise seeds, -1 of real images."""


def run(context: Context) -> StageOutput:
    """Take the proxy, score the candidates, choose."""
    reals = open_reals(context)
    aside = finished(context, PROXY_STAGE)
    take(context, aside, CLUSTERS, PROXY)
    proxy, clusters = trained_proxy(aside, reals, context.config), clusters_in(aside.folder)
    generated = context.facts("generate")
    fallback = not generated["is_faithful"]
    candidates = real_candidates(context, reals) if fallback else _pool(context)
    scores = scores_of(reals, proxy.network, candidates)
    features = selection_features(context, reals, proxy)
    chosen, cluster_ids = choose(
        context.config, reals, features, candidates, clusters, is_sound=_selects(context, proxy)
    )
    write_tensors(
        context.folder / CHOSEN,
        {
            "images": candidates.images[chosen],
            "labels": candidates.labels[chosen],
            "seeds": candidates.seeds[chosen],
            "scores": scores[chosen],
            "cluster_ids": cluster_ids.astype(np.int32),
        },
    )
    facts = {
        "fallback": fallback,
        "proxy_accuracy": proxy.validation_accuracy,
        "proxy_is_sound": proxy.is_sound,
        "score_names": list(SCORE_NAMES),
    }
    return StageOutput(_summary(context, proxy, fallback), facts)


def _summary(context: Context, proxy: Proxy, fallback: bool) -> str:
    """Return the line that says what was chosen from what."""
    text = f"proxy labels {100 * proxy.validation_accuracy:.1f} % of validation rightly; "
    if fallback:
        generated = context.facts("generate")
        text += (
            f"samples were not faithful ({100 * generated['fidelity']:.1f} % < "
            f"{100 * generated['floor']:.0f} %), so real images are chosen instead; "
        )
    if not _selects(context, proxy):
        return text + "that is below its floor, so it selects nothing: the first of each class stay"
    select = context.config.select
    by = "" if select.features == OWN_FEATURES else f" on {public_name(select.features)}"
    return text + f"{num_chosen(context.config)} a class by {select.method}{by}"


def _selects(context: Context, proxy: Proxy) -> bool:
    """Say whether the features are worth selecting by; a named vision model's always are."""
    return proxy.is_sound or context.config.select.features != OWN_FEATURES


def _pool(context: Context) -> Candidates:
    """Return the generated candidates."""
    arrays, _ = read_tensors(context.inputs["generate"] / POOL)
    return Candidates(arrays["images"], arrays["labels"], arrays["seeds"])


def real_candidates(context: Context, reals: Reals) -> Candidates:
    """Return up to a pool's worth of random real training images of each class."""
    config = context.config
    assert config.generate.oversample is not None
    images, labels = reals.dataset.split("train")
    count = max(config.images_per_class * config.generate.oversample, num_chosen(config), 50)
    picks = []
    for label in range(reals.num_classes):
        members = np.flatnonzero(labels == label)
        picks.append(numpy_rng(config.seed, "real-candidates", label).permutation(members)[:count])
    indices = np.concatenate(picks)
    return Candidates(images[indices], labels[indices], np.full(len(indices), -1, np.int64))


def scores_of(reals: Reals, network: Classifier, candidates: Candidates) -> np.ndarray:
    """Return the proxy's loss and margin of each candidate."""
    logits = predict_logits(network, reals.normalised(candidates.images)).cpu()
    return candidate_scores(logits, torch.from_numpy(candidates.labels)).numpy()


def unit_features(network: Classifier, images: Images) -> Tensor:
    """Return L2-normalised features (N, D) of normalised images, on the CPU."""
    size = inference_batch(images.shape[-1])
    with torch.inference_mode():
        features = torch.cat([network.features(part).cpu() for part in images.split(size)])
    return torch.nn.functional.normalize(features)


def selection_features(context: Context, reals: Reals, proxy: Proxy) -> Features:
    """Return what the selection compares images by: the proxy's features, or a named model's."""
    config = context.config
    if config.select.features == OWN_FEATURES:
        return lambda images: unit_features(proxy.network, reals.normalised(images))
    model = load_vision_model(
        config.select.features, allow_download=config.base.allow_download, device=reals.device
    )
    return lambda images: normalise_features(model(torch.from_numpy(images))).cpu()


def num_chosen(config: DistillConfig) -> int:
    """Return how many candidates of a class are chosen: one for each picture of the result."""
    return config.images_per_class * config.refine.pictures_per_image


def _more_room(config: DistillConfig, candidates: Candidates) -> str:
    """Return what else makes room for packed images, beside fewer of them."""
    ways = ["refine.formation_factor 2"] * (config.refine.factor > 2)
    if (candidates.seeds >= 0).all():  # samples; real images are as many as there are
        ways.append("a larger generate.oversample")
    return "".join(f" or {way}" for way in ways)


def choose(
    config: DistillConfig, reals: Reals, features_of: Features, candidates: Candidates,
    clusters: np.ndarray, *, is_sound: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return indices of the chosen candidates, class by class, and the cluster each stands for."""
    features = features_of(candidates.images)
    real_images, real_labels = reals.dataset.split("train")
    real_features = features_of(real_images)
    chosen, stands_for = [], []
    for label in range(reals.num_classes):
        own = np.flatnonzero(candidates.labels == label)
        members = np.flatnonzero(real_labels == label)
        rng = numpy_rng(config.seed, "select-reals", label)
        members = np.sort(rng.permutation(members)[: config.select.max_reals_per_class])
        mine, real = features[own], real_features[members]
        local = torch.from_numpy(clusters[members]) - label * config.proxy.num_clusters
        count = num_chosen(config)
        if len(own) < count:
            raise ConfigError(
                f"class {reals.dataset.class_names[label]!r} has {len(own)} candidates, but "
                f"{config.images_per_class} packed images take {count}: use fewer images per "
                f"class{_more_room(config, candidates)}"
            )
        picks = np.arange(count)
        if is_sound:
            picks = select(
                config.select, mine, real, local, count,
                num_clusters=config.proxy.num_clusters,
                rng=numpy_rng(config.seed, "select", label),
            )  # fmt: skip
        chosen.append(own[picks])
        nearest = torch.cdist(mine[picks], real).argmin(1).numpy()
        stands_for.append(clusters[members[nearest]])
    return np.concatenate(chosen), np.concatenate(stands_for)


STAGE = Stage("score", 1, ("prepare", "generate"), settings, run)
