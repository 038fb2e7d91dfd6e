"""A teacher for soft labels: the student's own network, trained on the real train split.

The soft-label protocol takes a published teacher for ImageNet; for other data none exists, so one
is trained here: SGD, batch 128, 50 epochs with DSA, x 0.1 at half.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from distillery.evaluation.harness import ImageSet
from distillery.evaluation.inputs import Split, Work
from distillery.evaluation.protocols import Recipe
from distillery.evaluation.student import Teacher, train_student
from distillery.progress import Progress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors

TEACHER_RECIPE = Recipe(num_epochs=50, batch_size=128, augmentation="dsa")


def own_teacher(work: Work, train: Split, network: str, num_epochs: int, path: Path) -> Teacher:
    """Return a trained teacher; `path` keeps its weights for the next call.

    Args:
        work: What it is for; told of the progress.
        train: The real train split.
        network: Its architecture.
        num_epochs: How long it is trained.
        path: File of its weights, safetensors.
    """
    teacher = work.new_network(network, work.inputs.num_classes, "teacher", network)
    if path.exists():
        arrays, _ = read_tensors(path)
        teacher.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
    else:
        recipe = replace(TEACHER_RECIPE, num_epochs=num_epochs)

        def tell(epoch: int) -> None:
            work.on_progress(Progress("teacher", epoch, num_epochs, f"training {network}"))

        train_student(
            teacher, work.training_set(ImageSet(*train)), recipe,
            seed=derive_seed(work.seed, "protocol", "teacher"), flip=work.setting.flip,
            on_epoch=tell,
        )  # fmt: skip
        state = teacher.state_dict()
        write_tensors(path, {name: value.cpu().numpy() for name, value in state.items()})
    teacher.eval().requires_grad_(False)

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return teacher(images)

    return logits
