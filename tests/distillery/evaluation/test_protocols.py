"""Protocols are what was published, and say so wherever they are not."""

import subprocess
import sys

import pytest

from distillery.errors import ConfigError
from distillery.evaluation.protocols import (
    PROTOCOLS,
    Case,
    find_protocol,
    published_convnet,
)
from distillery.evaluation.setting import Overrides, Setting, describe, resolve


def case(ipc: int = 10, classes: int = 10, size: int = 32, channels: int = 3) -> Case:
    return Case(images_per_class=ipc, num_classes=classes, image_size=size, channels=channels)


def fitted(name: str, of: Case | None = None, **overrides: object) -> Setting:
    return resolve(find_protocol(name), of or case(), Overrides(**overrides))  # type: ignore[arg-type]


def test_an_unknown_protocol_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="dc-small.*hard-idc.*soft-rded.*robust-rdd.*'best'"):
        find_protocol("best")


@pytest.mark.parametrize(
    ("ipc", "classes", "epochs"),
    [(1, 10, 3000), (10, 10, 2000), (11, 10, 1500), (50, 10, 1500), (200, 10, 1000),
     (500, 10, 500), (501, 10, 300), (10, 100, 1300), (50, 100, 1000), (10, 1000, 2000)],
)  # fmt: skip
def test_epochs_of_the_hard_protocol(ipc: int, classes: int, epochs: int) -> None:
    """methods.md 2.8: by images per class; for exactly 100 classes two thirds, in hundreds."""
    recipe = fitted("hard-idc", case(ipc, classes)).recipes["resnetap10"]
    assert recipe.num_epochs == epochs and recipe.cutmix
    assert recipe.learning_rate == (0.1 if classes > 100 else 0.01)


def test_the_soft_protocol_defines_three_sizes() -> None:
    batches = {
        (ipc, classes): fitted("soft-rded", case(ipc, classes)).recipes["resnet18"].batch_size
        for ipc, classes in ((1, 10), (10, 10), (50, 10), (10, 100), (50, 1000))
    }
    assert list(batches.values()) == [10, 50, 100, 100, 200]
    with pytest.raises(ConfigError, match="1, 10 and 50 images per class, this set has 15"):
        fitted("soft-rded", case(15))
    setting = fitted("soft-rded", case(15), batch_size=40)
    assert setting.recipes["resnet18"].batch_size == 40
    assert "no batch is published for 15 images per class" in setting.deviations
    assert fitted("soft-rded", networks=("vgg11",)).recipes["vgg11"].learning_rate == 5e-4


def test_nothing_deviates_where_nothing_was_changed() -> None:
    for name in set(PROTOCOLS) - {"hard-idc"}:
        assert fitted(name, case(ipc=50)).deviations == ()
    assert fitted("hard-idc", case(size=224)).deviations == ()
    assert fitted("hard-idc", case(size=256)).case.image_size == 224
    assert fitted("dc-small", case(channels=1, size=28)).deviations == ()
    assert fitted("dc-small", num_epochs=1000, num_repeats=20).deviations == ()


def test_every_change_is_said() -> None:
    setting = fitted("dc-small", num_epochs=5, num_repeats=2, batch_size=8, networks=("alexnet",))
    assert setting.deviations == (
        "5 epochs in place of 1000",
        "8 images a batch in place of 256",
        "alexnet in place of convnet-d3-w128",
        "2 students a network in place of 20",
    )
    assert not describe(setting)["is_published"]
    gray = fitted("hard-idc", case(size=28, channels=1))
    assert gray.deviations == ("images of 28 px where 224 are published", "no mirroring")
    tuned = fitted("fine-tuning", num_epochs=5)
    assert "5 epochs of fine-tuning in place of 50" in tuned.deviations
    assert "10 images a class in the buffer, not 20" in fitted("continual").deviations


def test_the_published_convnet_has_a_block_more_for_each_doubling() -> None:
    depths = {size: published_convnet(size) for size in (8, 28, 32, 64, 128, 224, 256, 4)}
    numbers = [name.split("-")[1] for name in depths.values()]
    assert numbers == ["d3", "d3", "d3", "d4", "d5", "d6", "d6", "d2"]


def test_the_soft_protocol_crops_test_images() -> None:
    sizes = {size: fitted("soft-rded", case(size=size)).test_size for size in (8, 28, 32, 64, 224)}
    assert sizes == {8: 8, 28: 32, 32: 32, 64: 72, 224: 256}  # size // 7 * 8, as RDED resizes
    assert fitted("soft-rded", case(size=5)).test_size == 5
    assert fitted("dc-small").test_size == 32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"num_repeats": -1}, "repeats must be 1 or more"),
        ({"networks": ("lenet",)}, "network must be one of"),
        ({"networks": ("vit", "vit")}, "each network can be named once"),
    ],
)
def test_overrides_that_no_student_can_use(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Overrides(**values)


def test_protocols_need_no_torch() -> None:
    script = "import sys; import distillery.evaluation.setting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
