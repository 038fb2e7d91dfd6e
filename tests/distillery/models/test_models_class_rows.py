"""Rows of classes: known ones by name, own ones in rows that nobody uses."""

import pytest
import torch

from distillery.errors import ModelError
from distillery.models.class_rows import imagenet_wnids, initialise_rows, map_classes
from distillery.models.config import PixelDiTConfig
from distillery.models.dit import build_pixel_dit, label_tables

IMAGENETTE = {
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip
IMAGEWOOF = {
    "n02086240": 155, "n02087394": 159, "n02088364": 162, "n02089973": 167, "n02093754": 182,
    "n02096294": 193, "n02099601": 207, "n02105641": 229, "n02111889": 258, "n02115641": 273,
}  # fmt: skip
LABELS = {0: "tench, Tinca tinca", 1: "crane", 2: "crane", 3: "golden retriever", 4: "A", 5: "a"}


@pytest.mark.parametrize("subset", [IMAGENETTE, IMAGEWOOF])
def test_wordnet_ids_find_the_rows_of_imagenet(subset: dict[str, int]) -> None:
    # in the sorted order of a listing, which is not the order of ImageNet's rows for B1 to return
    mapping = map_classes(sorted(subset), {0: "tench, Tinca tinca"}, 1000)
    assert mapping.rows == tuple(subset[name] for name in sorted(subset))
    assert set(mapping.origins) == {"known"}


def test_wordnet_ids_mean_nothing_to_other_bases() -> None:
    assert map_classes(["n01440764"], {0: "cat"}, 1000).origins == ("own",)
    assert map_classes(["n01440764"], {0: "tench"}, 10).origins == ("own",)


def test_table_of_wordnet_ids_is_whole() -> None:
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000 and list(wnids) == sorted(wnids)


@pytest.mark.parametrize(
    ("name", "row"),
    [("tench, Tinca tinca", 0), ("Tench", 0), ("tinca_tinca", 0), ("Golden_Retriever", 3),
     ("A", 4), ("a", 5)],
)  # fmt: skip
def test_names_find_their_label(name: str, row: int) -> None:
    mapping = map_classes([name], LABELS, 8)
    assert (mapping.rows, mapping.origins, mapping.initialised_from) == ((row,), ("known",), ((),))


def test_own_classes_take_unused_rows_in_order() -> None:
    mapping = map_classes(["mug", "tench", "cup"], LABELS, 8)
    assert mapping.rows == (1, 0, 2)
    assert mapping.origins == ("own", "known", "own")
    assert mapping.initialised_from == ((), (), ())
    assert map_classes(["mug", "tench"], LABELS, 8, similar_rows={0: [3, 4], 1: [5]}) == (
        map_classes(["mug", "tench"], LABELS, 8, similar_rows={0: [3, 4]})
    )
    assert map_classes(["mug"], LABELS, 8, similar_rows={0: [3, 4]}).initialised_from == ((3, 4),)


def test_ambiguous_name_starts_an_own_class_from_its_namesakes() -> None:
    mapping = map_classes(["crane"], LABELS, 8)
    assert (mapping.rows, mapping.origins) == ((0,), ("own",))
    assert mapping.initialised_from == ((1, 2),)


def test_two_spellings_of_one_class_do_not_share_a_row() -> None:
    mapping = map_classes(["TENCH", "tench, Tinca tinca"], LABELS, 8)
    assert mapping.rows == (1, 0)  # the exact name has the better claim
    assert mapping.initialised_from == ((0,), ())


def test_pixel_bases_know_their_own_classes() -> None:
    names = ["10", "2", "a,b", "B"]
    assert map_classes(names, dict(enumerate(names)), 4).rows == (0, 1, 2, 3)


def test_more_classes_than_rows_names_the_way_out() -> None:
    with pytest.raises(ModelError, match="rows for 2 classes, got 3"):
        map_classes(["a", "b", "c"], {}, 2)


def test_every_block_starts_own_rows_from_means() -> None:
    config = PixelDiTConfig(
        image_size=4, channels=1, num_classes=8, patch_size=2, num_layers=2, num_heads=1
    )
    network = build_pixel_dit(config, seed=0)
    before = [table.weight.detach().clone() for table in label_tables(network)]
    mapping = map_classes(["mug", "crane", "tench"], LABELS, 8)
    assert mapping.rows == (1, 2, 0)  # `crane` starts from rows 1 and 2, which are overwritten
    initialise_rows(network, mapping)
    for table, old in zip(label_tables(network), before, strict=True):
        torch.testing.assert_close(table.weight[1], old[:8].mean(0))
        torch.testing.assert_close(table.weight[2], old[1:3].mean(0))
        untouched = [0, 3, 4, 5, 6, 7, 8]
        assert torch.equal(table.weight[untouched], old[untouched])
        assert table.weight.requires_grad
