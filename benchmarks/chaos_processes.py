"""The processes of the chaos test: API, workers, and children that leave witness of their stages.

A worker here is `run_worker` with one change: its children write a line with their process id and
the time when they begin and when they end a stage, so that two at one stage would be seen.

    python -m benchmarks.chaos_processes worker ID    (settings from the environment)
    python -m benchmarks.chaos_processes child
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

WITNESS = "witness.jsonl"
MODULE = "benchmarks.chaos_processes"


def write_witness(folder: Path, **line: Any) -> None:
    """Append a line; one write of this size is whole or absent."""
    text = json.dumps(line | {"pid": os.getpid(), "at": time.time()}) + "\n"
    handle = os.open(folder / WITNESS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, text.encode())
    os.close(handle)


def run_worker_process(worker_id: str) -> None:
    """Work as `distillery worker` does, with witnesses as children."""
    import logging

    from app.cli.local import start_local
    from app.settings import child_environment, read_settings
    from app.worker.main import run_worker
    from app.worker.spare import Children
    from app.worker.supervise import run_stage_process

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    start_local()

    def make(lock: int) -> Any:
        command = (sys.executable, "-m", MODULE, "child")
        children = Children(child_environment(), keep_open=(lock,), command=command)
        children.prepare()
        return partial(run_stage_process, children=children)

    run_worker(read_settings(), worker_id=worker_id, device="cpu", make_run_process=make)


def run_child_process() -> None:
    """Do stages as `app.worker.child` does, and leave witness."""
    from app.worker import child

    run_task = child.run_task

    def witnessed(task: Any, link: Any, stop: Any) -> int:
        data = task.folder.parent.parent
        name = task.stage if task.group is None else f"{task.stage}-{task.group}"
        write_witness(data, job=task.job_id, stage=name, kind="begin")
        code = run_task(task, link, stop)
        write_witness(data, job=task.job_id, stage=name, kind="end")
        return code

    child.run_task = witnessed
    child.main()


class Processes:
    """API and workers that are started again when they have been killed."""

    def __init__(self, data: Path, environment: dict[str, str], port: int) -> None:
        self.data, self.environment, self.port = data, environment, port
        self.api: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.num_ids = 0

    def start_api(self) -> None:
        """Start `distillery serve` without a worker."""
        command = ["-m", "app.cli.main", "serve", "--no-worker", "--port", str(self.port)]
        self.api = self._start("api", command)

    def start_worker(self, worker_id: str | None = None) -> None:
        """Start a worker, under a new id unless one is given."""
        if worker_id is None:
            worker_id = f"w{self.num_ids}"
            self.num_ids += 1
        self.workers[worker_id] = self._start(worker_id, ["-m", MODULE, "worker", worker_id])

    def _start(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        with open(self.data / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, *command], env=self.environment, stdout=log, stderr=log
            )

    def restart_dead(self, choose_id: Any) -> None:
        """Start again what has ended; `choose_id` gives the id of the next worker or None."""
        if self.api is not None and self.api.poll() is not None:
            self.start_api()
        for worker_id in [w for w, process in self.workers.items() if process.poll() is not None]:
            del self.workers[worker_id]
            self.start_worker(choose_id(worker_id))

    def children(self) -> list[psutil.Process]:
        """Return the children of all workers: at a stage, at rest or ahead."""
        found = []
        for process in self.workers.values():
            try:
                found += psutil.Process(process.pid).children()
            except psutil.NoSuchProcess:
                continue
        return found

    def stop(self) -> None:
        """End everything."""
        for process in [*self.workers.values(), *([self.api] if self.api else [])]:
            process.terminate()
        for process in [*self.workers.values(), *([self.api] if self.api else [])]:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Witnesses:
    """Reads what the children wrote, and finds two living ones at the same stage."""

    def __init__(self, data: Path) -> None:
        self.path, self.offset = data / WITNESS, 0
        self.open: dict[int, tuple[str, str]] = {}
        self.overlaps: list[dict[str, Any]] = []
        self.num_begun = 0

    def look(self) -> None:
        """Take in new lines; whoever began a stage that a living process has not ended is noted."""
        if not self.path.exists():
            return
        with open(self.path) as file:
            file.seek(self.offset)
            lines = file.readlines()
            self.offset = file.tell()
        for line in map(json.loads, lines):
            place = (line["job"], line["stage"])
            if line["kind"] == "end":
                self.open.pop(line["pid"], None)
                continue
            self.num_begun += 1
            for pid, other in list(self.open.items()):
                if other == place and pid != line["pid"] and is_alive(pid):
                    self.overlaps.append({"place": place, "pids": [pid, line["pid"]]})
            self.open[line["pid"]] = place
        for pid in [pid for pid in self.open if not is_alive(pid)]:
            del self.open[pid]

    def at_work(self) -> list[int]:
        """Return the ids of the processes that are at a stage."""
        return [pid for pid in self.open if is_alive(pid)]


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be buried does not."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    if sys.argv[1] == "child":
        run_child_process()
    else:
        run_worker_process(sys.argv[2])
