"""Sizes and costs of diffusion transformers, and what is known of published ones.

No torch here: the API process validates requests and estimates their cost with this file.
Costs follow the layout of diffusers' DiT, where every block owns a timestep MLP and a label table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from distillery.errors import ConfigError

NoiseSchedule = Literal["squaredcos_cap_v2", "linear"]
"""Shapes of the noise over time, by the names that diffusers uses."""

FREQUENCIES = 256
"""Sinusoids that describe a timestep: the input width of timestep MLPs, fixed in diffusers."""


CLASSIFIER_WIDTHS = {
    "alexnet": 128, "vgg11": 64, "resnet10": 64, "resnet18": 64, "resnetap10": 64, "vit": 192,
}  # fmt: skip
"""Published width of each family beside the ConvNet, whose name always says it."""
MAX_CLASSIFIER_WIDTH = 2048
_CONVNET = re.compile(r"(convnet)-d(\d{1,2})-w(\d{1,5})(-group)?(-max)?")
_OTHERS = re.compile(rf"({'|'.join(CLASSIFIER_WIDTHS)})(?:-w(\d{{1,5}}))?")
CLASSIFIER_NAMES = (
    "convnet-d3-w128 (depth, width; with -group for group norm and -max for max pooling, in this "
    f"order), {', '.join(CLASSIFIER_WIDTHS)} (all with a width where wanted: resnet18-w32)"
)
"""The names that `classifiers.build_classifier` understands, for messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierName:
    """What the name of a classifier says."""

    family: str
    """`convnet` or a key of `CLASSIFIER_WIDTHS`."""
    width: int
    """Channels of the first layer; features of a token."""
    depth: int = 0
    """Blocks of a ConvNet."""
    is_group_norm: bool = False
    is_max_pooled: bool = False


def parse_classifier_name(name: str) -> ClassifierName:
    """Return what a name says.

    Raises:
        ConfigError: If it is no classifier that can be built; the choices are listed.
    """
    if match := _CONVNET.fullmatch(name):
        parsed = ClassifierName(
            family="convnet", depth=int(match[2]), width=int(match[3]),
            is_group_norm=bool(match[4]), is_max_pooled=bool(match[5]),
        )  # fmt: skip
    elif match := _OTHERS.fullmatch(name):
        width = int(match[2] or CLASSIFIER_WIDTHS[match[1]])
        parsed = ClassifierName(family=match[1], width=width)
    else:
        raise ConfigError(f"network must be one of {CLASSIFIER_NAMES}; got {name!r}")
    if not 1 <= parsed.width <= MAX_CLASSIFIER_WIDTH:
        raise ConfigError(
            f"the width of a network must be 1 to {MAX_CLASSIFIER_WIDTH}, got {name!r}"
        )
    if parsed.family == "convnet" and parsed.depth < 1:
        raise ConfigError(f"a ConvNet needs a depth of 1 or more, got {name!r}")
    if parsed.family == "vit" and parsed.width % 32:
        raise ConfigError(f"the width of a vit must be a multiple of 32, got {name!r}")
    return parsed


def check_classifier_name(name: str) -> None:
    """Raise ConfigError unless `name` is a classifier that can be built."""
    parse_classifier_name(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelDiTConfig:
    """A small DiT that works on pixels, pretrained on the user's own images."""

    image_size: int
    """Height and width in pixels."""
    channels: int
    """1 for gray, 3 for RGB."""
    num_classes: int
    """Classes; the label tables have one more row, the null class."""
    patch_size: int
    """Height and width of the square of pixels that is one token."""
    num_layers: int = 4
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads."""
    head_dim: int = 24
    """Features of a head; the width is `num_heads * head_dim`."""
    noise_schedule: NoiseSchedule = "squaredcos_cap_v2"
    """The cosine schedule is much better on small images (docs/method.md)."""
    num_timesteps: int = 1000
    """Length of the diffusion."""

    def __post_init__(self) -> None:
        """Refuse sizes that no network has."""
        positive = (self.num_classes, self.patch_size, self.num_layers, self.num_heads)
        if self.channels not in (1, 3) or min(*positive, self.image_size, self.head_dim) < 1:
            raise ConfigError(
                "a pixel DiT needs 1 or 3 channels and sizes of at least 1, "
                f"got {self.channels} channels, {self.image_size} pixels, {positive}"
            )
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size must be a multiple of the patch size {self.patch_size}, "
                f"got {self.image_size}: use {nearest_multiple(self.image_size, self.patch_size)}"
            )
        if self.noise_schedule not in ("squaredcos_cap_v2", "linear"):
            raise ConfigError(
                f"noise_schedule must be squaredcos_cap_v2 or linear, got {self.noise_schedule!r}"
            )

    @classmethod
    def for_images(cls, image_size: int, channels: int, num_classes: int) -> "PixelDiTConfig":
        """Return the network that we pretrain for images of this size.

        Raises:
            ConfigError: If `image_size` is not a multiple of the patch (2 up to 16 px, else 4).
        """
        layers, heads, head_dim = 4, 4, 24
        if channels == 3:  # more to say per token, so more width
            layers, heads, head_dim = 6, 6, 32
        elif image_size > 16:
            head_dim = 32
        return cls(
            image_size=image_size,
            channels=channels,
            num_classes=num_classes,
            patch_size=2 if image_size <= 16 else 4,
            num_layers=layers,
            num_heads=heads,
            head_dim=head_dim,
        )

    @classmethod
    def of_transformer(cls, values: Mapping[str, Any]) -> "PixelDiTConfig":
        """Return the network that `transformer_config` described, or a base's `config.json` does.

        Its diffusion is not part of that, so schedule and length are the default ones.
        """
        return cls(
            image_size=values["sample_size"],
            channels=values["in_channels"],
            num_classes=values["num_embeds_ada_norm"],
            patch_size=values["patch_size"],
            num_layers=values["num_layers"],
            num_heads=values["num_attention_heads"],
            head_dim=values["attention_head_dim"],
        )

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.num_heads * self.head_dim

    def transformer_config(self) -> dict[str, Any]:
        """Return the arguments of diffusers' `DiTTransformer2DModel`."""
        return {
            "num_attention_heads": self.num_heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.channels,
            "out_channels": self.channels,
            "num_layers": self.num_layers,
            "sample_size": self.image_size,
            "patch_size": self.patch_size,
            "num_embeds_ada_norm": self.num_classes,
        }

    def num_parameters(self) -> int:
        """Return the number of weights."""
        return dit_num_parameters(self.transformer_config())

    def flops_per_image(self) -> int:
        """Return the floating-point operations of one forward pass of one image."""
        return dit_flops_per_image(self.transformer_config())


def nearest_multiple(value: int, of: int) -> int:
    """Return the multiple of `of` that is nearest to `value`, and not zero."""
    return max(of, round(value / of) * of)


@dataclass(frozen=True, slots=True)
class _Dims:
    """The numbers in a DiT configuration that its cost depends on."""

    width: int
    layers: int
    tokens: int
    patch_in: int
    patch_out: int
    rows: int
    attention_bias: int


def _dims(config: Mapping[str, Any]) -> _Dims:
    """Read a diffusers configuration, filling in the defaults of `DiTTransformer2DModel`."""
    activation = config.get("activation_fn", "gelu-approximate")
    if activation not in ("gelu-approximate", "gelu"):
        raise ConfigError(f"the cost of a DiT is known for gelu activations, got {activation!r}")
    patch = config.get("patch_size", 2)
    channels = config.get("in_channels", 4)
    return _Dims(
        width=config.get("num_attention_heads", 16) * config.get("attention_head_dim", 72),
        layers=config.get("num_layers", 28),
        tokens=(config.get("sample_size", 32) // patch) ** 2,
        patch_in=patch * patch * channels,
        patch_out=patch * patch * (config.get("out_channels") or channels),
        rows=config.get("num_embeds_ada_norm", 1000) + 1,
        attention_bias=int(config.get("attention_bias", True)),
    )


def dit_num_parameters(config: Mapping[str, Any]) -> int:
    """Return the number of weights of a diffusers DiT with this configuration."""
    d = _dims(config)
    square = d.width * d.width
    timestep_mlp = FREQUENCIES * d.width + d.width + square + d.width
    modulation = 6 * square + 6 * d.width
    # diffusers leaves the query, key and value biases out where attention_bias is off
    attention = 4 * square + d.width + 3 * d.width * d.attention_bias
    feed_forward = 8 * square + 5 * d.width
    block = timestep_mlp + d.rows * d.width + modulation + attention + feed_forward
    patch_embed = d.patch_in * d.width + d.width
    output = 2 * square + 2 * d.width + (d.width + 1) * d.patch_out
    return patch_embed + d.layers * block + output


def dit_flops_per_image(config: Mapping[str, Any]) -> int:
    """Return the floating-point operations of a forward pass of one image: 2 per multiplication.

    Matrix products only; norms, softmax and activations are a few per cent on top. A training step
    of DiffFit costs about twice this, of full training three times.
    """
    d = _dims(config)
    square = d.width * d.width
    timestep_mlp = FREQUENCIES * d.width + square
    per_token = 12 * square + 2 * d.tokens * d.width  # projections and MLP; scores and mixing
    block = timestep_mlp + 6 * square + d.tokens * per_token
    patch_embed = d.tokens * d.patch_in * d.width
    output = timestep_mlp + 2 * square + d.tokens * d.width * d.patch_out
    return 2 * (patch_embed + d.layers * block + output)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedBase:
    """What a request can be told about a published base before it is downloaded."""

    transformer: Mapping[str, Any]
    """Configuration of its DiT, as far as it differs from diffusers' defaults."""
    image_size: int
    """Pixels of the images that it makes."""
    licence: str
    """Licence of the weights, as an SPDX-like lower-case name."""
    non_commercial: bool
    """Whether the licence forbids commercial use, which the user must acknowledge."""


PUBLISHED_BASES: Mapping[str, PublishedBase] = {
    f"facebook/DiT-XL-2-{size}": PublishedBase(
        transformer={"in_channels": 4, "out_channels": 8, "sample_size": size // 8},
        image_size=size,
        licence="cc-by-nc-4.0",
        non_commercial=True,
    )
    for size in (256, 512)
}
"""Published bases by Hub id (Peebles & Xie 2023, trained on ImageNet-1K)."""
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial")


def forbids_commercial_use(reference: str, licence: str | None) -> bool:
    """Say whether a base may not be used commercially, by what we know or its licence's name.

    Args:
        reference: Hub id or folder of the base.
        licence: As its model card names it, such as `cc-by-nc-4.0`; None where it says nothing.
    """
    published = PUBLISHED_BASES.get(reference)
    if published is not None:
        return published.non_commercial
    return NON_COMMERCIAL.search((licence or "").lower()) is not None


VAE_NUM_PARAMETERS = 83_653_863
"""Weights of the autoencoder of Stable Diffusion, which published DiTs use."""


def vae_flops_per_image(image_size: int) -> tuple[int, int]:
    """Return the floating-point operations of (encoding, decoding) one image with that autoencoder.

    Convolutions grow with the pixels, the one attention layer with their square.
    """
    pixels = image_size**2
    tokens, width = (image_size // 8) ** 2, 512
    attention = 4 * tokens**2 * width
    return 4_128_642 * pixels + attention, 18_922_113 * pixels // 2 + attention
