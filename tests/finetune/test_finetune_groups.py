"""Groups of classes: all of them once, in order, none larger than asked for."""

import pytest

from finetune.groups import class_groups


@pytest.mark.parametrize(
    ("num_classes", "sizes"), [(1, [1]), (10, [10]), (20, [20]), (21, [11, 10]), (50, [17, 17, 16])]
)
def test_sizes(num_classes: int, sizes: list[int]) -> None:
    assert [len(group) for group in class_groups(num_classes, 20)] == sizes


def test_every_class_is_in_one_group() -> None:
    for num_classes in range(1, 130):
        groups = class_groups(num_classes, 7)
        assert [k for group in groups for k in group] == list(range(num_classes))
        assert max(map(len, groups)) <= 7
        assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_nothing_to_group_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 20"):
        class_groups(0, 20)
