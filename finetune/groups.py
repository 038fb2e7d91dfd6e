"""Groups of classes that share an adapter: the method suits 10 to 20 classes at a time.

Source: Gu et al. (2024), whose authors fine-tune a model for every 20 classes (docs/method.md).
"""


def class_groups(num_classes: int, classes_per_group: int) -> list[range]:
    """Return ranges that cover 0..`num_classes` - 1 in order, of sizes as equal as they can be.

    Args:
        num_classes: Classes of the dataset, 1 or more.
        classes_per_group: The most that a group may hold, 1 or more.

    Raises:
        ValueError: If either number is less than 1.
    """
    if num_classes < 1 or classes_per_group < 1:
        raise ValueError(
            "num_classes and classes_per_group must be 1 or more, "
            f"got {num_classes} and {classes_per_group}"
        )
    num_groups = -(-num_classes // classes_per_group)
    size, larger = divmod(num_classes, num_groups)
    starts = [index * size + min(index, larger) for index in range(num_groups + 1)]
    return [range(start, end) for start, end in zip(starts, starts[1:], strict=False)]
