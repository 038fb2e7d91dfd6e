"""One protocol carried out on one distilled set: from `Work` to the rows of the result."""

from collections.abc import Callable, Mapping
from typing import Any

from distillery.errors import ConfigError
from distillery.evaluation.continual import continual_table
from distillery.evaluation.inputs import Work
from distillery.evaluation.setting import describe
from distillery.evaluation.tables import accuracy_table, ratio_table
from distillery.evaluation.transfer import fine_tuning_table, retrieval_table

SCHEMA = "distillery-evaluation/1"
Row = dict[str, Any]
RUNNERS: Mapping[str, Callable[[Work], list[Row]]] = {
    "accuracy": accuracy_table,
    "ratios": ratio_table,
    "retrieval": retrieval_table,
    "fine-tuning": fine_tuning_table,
    "continual": continual_table,
}
"""What carries out each kind of task."""


def run_protocol(work: Work) -> dict[str, Any]:
    """Return the result of a protocol: what was done, and its rows, hard and soft labels apart.

    Raises:
        ConfigError: If the protocol needs soft labels and there are neither a teacher nor logits.
        TrainingError: If a student's loss stops being finite.
    """
    protocol, inputs = work.setting.protocol, work.inputs
    if protocol.labels == "soft" and inputs.teacher is None:
        if inputs.distilled.teacher_logits is None:
            raise ConfigError(
                f"{protocol.name} needs soft labels, and this set has none: use --teacher train, "
                "which trains a teacher on the train split of --dataset"
            )
    rows = RUNNERS[protocol.task](work)
    return {
        "schema": SCHEMA,
        "protocol": describe(work.setting),
        "results": {kind: rows if kind == protocol.labels else [] for kind in ("hard", "soft")},
    }
