"""Many independent trainings, several at a time, each one's figures kept as they come.

Threads, because a student of small images uses one core. Each trial draws from seeds of its own,
so the number of workers changes no figure; a killed run goes on at the next trial.
"""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.errors import Cancelled, JobError
from distillery.files import write_json
from distillery.progress import OnProgress, Progress

Figures = dict[str, Any]
Run = Callable[[Callable[[int], None]], Figures]
"""Does the work of a trial; is given `on_step`, to call with the number of steps done."""
POLL_S = 0.5
"""How long a cancel may wait."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training whose figures are wanted."""

    key: str
    """Unique name; figures are kept under it."""
    num_steps: int
    """Steps that it will report, for the progress."""
    message: str
    """What it does, for a person."""
    run: Run


def run_trials(
    trials: Sequence[Trial],
    *,
    store: Path | None,
    num_workers: int,
    phase: str,
    on_progress: OnProgress,
) -> dict[str, Figures]:
    """Return the figures of every trial by key, training only those that `store` does not hold.

    Args:
        trials: What to do.
        store: JSON file of finished trials, replaced whole after each; None: nothing is kept.
        num_workers: Trials at a time.
        phase: Name of the work in reports.
        on_progress: Told of steps done; may raise `Cancelled`, which ends all at their next step.

    Raises:
        JobError: If the store is damaged.
    """
    done = {} if store is None else read_store(store)
    counts = {t.key: t.num_steps * (t.key in done) for t in trials}
    total = sum(trial.num_steps for trial in trials)
    waiting = [trial for trial in trials if trial.key not in done]
    stop = threading.Event()

    def start(trial: Trial) -> Figures:
        def on_step(step: int) -> None:
            counts[trial.key] = min(step, trial.num_steps)
            if stop.is_set():
                raise Cancelled

        return trial.run(on_step)

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        try:
            open_trials = {pool.submit(start, trial): trial for trial in waiting}
            while open_trials:
                finished = wait(open_trials, POLL_S, FIRST_COMPLETED).done
                message = next(iter(open_trials.values())).message
                for future in finished:
                    trial = open_trials.pop(future)
                    done[trial.key] = future.result()
                    counts[trial.key] = trial.num_steps
                if finished and store is not None:
                    write_json(store, done)
                on_progress(Progress(phase, sum(counts.values()), total, message))
        except BaseException:
            stop.set()  # the others end at their next step
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {trial.key: done[trial.key] for trial in trials}


def read_store(store: Path) -> dict[str, Figures]:
    """Return the figures that earlier runs left."""
    if not store.exists():
        return {}
    try:
        return dict(json.loads(store.read_bytes()))
    except ValueError as error:
        raise JobError(f"{store} is damaged: remove it and repeat the command") from error
