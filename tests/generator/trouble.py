"""Kills and requests to stop, one after the other, and what a job has written in spite of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generator_helpers import finish

from distillery.errors import Cancelled
from distillery.files import digest_file
from distillery.progress import Progress
from generator.pipeline import JobResult
from generator.stage import Finished


class Killed(BaseException):
    """What no handler sees coming, as a kill of the process."""


class Trouble:
    """Stops the work in each stage at a report, and at each boundary; once each."""

    def __init__(self, share: float, kinds: Iterator[type[BaseException]]) -> None:
        self.share, self.kinds = share, kinds
        self.stopped: list[str] = []

    def inside(self, progress: Progress) -> None:
        name = f"in {progress.phase}"
        if progress.step >= self.share * progress.total and name not in self.stopped:
            self.stopped.append(name)
            raise next(self.kinds)

    def after(self, stage: Finished) -> None:
        name = f"after {stage.name}"
        if name not in self.stopped:
            self.stopped.append(name)
            raise next(self.kinds)


def alternating() -> Iterator[type[BaseException]]:
    while True:
        yield Killed
        yield Cancelled


def run_through(job: Mapping[str, Any], folder: Path, trouble: Trouble) -> JobResult:
    """Start the job again until it is through, with a cache of its own."""
    (folder / "job").mkdir(parents=True)
    for _ in range(40):
        try:
            return finish(
                folder / "job", job, folder / "cache",
                on_progress=trouble.inside, on_stage=trouble.after,
            )  # fmt: skip
        except (Killed, Cancelled):
            continue
    raise AssertionError("the job never came to its end")


def written(result: JobResult) -> dict[str, str]:
    """Return the digests of everything that the stages wrote, but for times."""
    return {
        f"{stage.name}/{path.relative_to(stage.folder)}": digest_file(path)
        for stage in result.stages
        if stage.name != "bundle"
        for path in sorted(stage.folder.rglob("*"))
        if path.is_file() and path.name != "stage.json"
    }
