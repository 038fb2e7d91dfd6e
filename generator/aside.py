"""Work aside: what a job computes from its real images alone, as stages within its own stages.

Each reads stage prepare and others aside, never the generator. The stage that needs one asks for it
here and does it where nobody has; another process can have done it before, while the generator was
trained (`generator.ahead`). Its folder, key, lock and record are those of any stage.
"""

import shutil
from pathlib import Path

from distillery.files import read_json
from distillery.progress import OnProgress
from generator.config import DistillConfig
from generator.entries import RECORD
from generator.stage import Context, Finished, Stage, run_stage


def finished(context: Context, stage: Stage) -> Finished:
    """Return a stage aside that another stage needs, doing its work where nobody has.

    Args:
        context: Of the stage that needs it and is told of its progress; it reads stage prepare.
        stage: Aside.
    """
    folder = context.inputs["prepare"]
    return finish(
        stage, context.config, Finished("prepare", folder, read_json(folder / RECORD), True),
        root=context.folder.parent, on_progress=context.on_progress,
        checkpoint_interval_s=context.checkpoint_interval_s,
        phase=context.folder.name.partition("-")[0],
    )  # fmt: skip


def finish(
    stage: Stage, config: DistillConfig, prepared: Finished, *, root: Path, on_progress: OnProgress,
    checkpoint_interval_s: float = 10.0, phase: str | None = None,
) -> Finished:  # fmt: skip
    """Return a stage aside, doing or finishing its work and that of those it reads.

    Args:
        stage: Aside.
        config: Resolved.
        prepared: Stage prepare.
        root: Folder of the job's own stages.
        on_progress: Told of the work and of waiting; may raise `Cancelled`.
        checkpoint_interval_s: Seconds between two checkpoints.
        phase: What waiting is told as; None: the stage's name.
    """

    def done(one: Stage) -> Finished:
        return run_stage(
            one, config, {"prepare": prepared} | {read.name: done(read) for read in one.aside},
            root=root, on_progress=on_progress, checkpoint_interval_s=checkpoint_interval_s,
            phase=phase,
        )  # fmt: skip

    return done(stage)


def take(context: Context, done: Finished, *names: str) -> None:
    """Copy files of a stage aside into the folder of the stage that needs them."""
    for name in names:
        shutil.copyfile(done.folder / name, context.folder / name)
