"""Stages without work, and a worker that runs them: `python fake_stage.py DATA URL ID LIMIT`.

A stage writes a line when it begins and one when it ends, holds a file lock meanwhile (two at once
would show), and takes as long as the file `seconds` in the data folder says.
"""

import fcntl
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from app.settings import Settings, read_settings
from app.worker.main import run_worker
from app.worker.tasks import Hooks, StageOutcome, StageTask

PARTS = {"finetune": 3, "generate": 4}


def settings_of(data: Path, url: str | None = None, limit_s: float = 4.0) -> Settings:
    settings = read_settings({"HOME": str(data), "DISTILLERY_DATA": str(data)})
    return replace(
        settings, database_url=url or settings.database_url, dead_after_s=limit_s,
        cache=data / "cache",
    )  # fmt: skip


def make_fake(data: Path):
    def run(task: StageTask, hooks: Hooks) -> StageOutcome:
        task.folder.mkdir(parents=True, exist_ok=True)
        name = task.stage if task.group is None else f"{task.stage}-{task.group}"
        log = task.folder / "log.jsonl"
        # its one line is what completes a stage: between two marks a kill could come
        if log.exists() and f'{{"ended": "{name}"' in log.read_text():
            return StageOutcome(kind="done", facts=facts_of(task))
        with open(task.folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where two run at once
            write(log, {"began": name, "pid": os.getpid()})
            seconds = float((data / "seconds").read_text())
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                hooks.on_progress({"phase": name, "step": 1, "total": 2, "metrics": {"loss": 1.0}})
                if hooks.should_cancel():
                    return StageOutcome(kind="canceled")
                if hooks.should_stop():
                    return StageOutcome(kind="lost")
                time.sleep(0.02)
            if task.request.get("name") == "broken" and task.stage == "plan":
                raise RuntimeError("a bug")
            write(log, {"ended": name, "pid": os.getpid()})
        return StageOutcome(kind="done", facts=facts_of(task))

    return run


def facts_of(task: StageTask) -> dict:
    facts = {"seconds": 0.1, "summary": f"{task.stage} done", "cached": False}
    if task.stage == "plan":
        parts = PARTS if "parts" in task.request else {}
        facts |= {"config": {"seed": 0}, "decisions": [], "warnings": [], "num_parts": parts}
    if task.stage == "bundle":
        facts["result"] = {"content_digest": "abc"}
    return facts


def write(path: Path, line: dict) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    data, url, worker_id, limit = sys.argv[1:]
    run_worker(
        settings_of(Path(data), url, float(limit)), worker_id=worker_id, device="cpu",
        stop_with_parent=True, make_run_process=lambda *_: make_fake(Path(data)),
    )  # fmt: skip
