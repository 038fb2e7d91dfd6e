"""Services whose workers run stages without work (`fake_stage`), each in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fake_stage import settings_of

from app.jobs.records import JobRecord
from app.jobs.service import Service, open_service

FAKE_WORKER = Path(__file__).parent / "fake_stage.py"


class House:
    """A service, the workers that a test starts, and what its stages have written."""

    def __init__(self, data: Path, url: str | None, limit_s: float) -> None:
        self.data, self.limit_s = data, limit_s
        self.set_seconds(0.02)
        self.service: Service = open_service(settings_of(data, url, limit_s))
        self.processes: list[subprocess.Popen] = []

    def set_seconds(self, seconds: float) -> None:
        """Say how long every stage takes from now on."""
        (self.data / "seconds").write_text(str(seconds))

    def start_worker(self, name: str) -> subprocess.Popen:
        settings = self.service.settings
        arguments = [str(self.data), settings.database_url, name, str(self.limit_s)]
        process = subprocess.Popen(
            [sys.executable, str(FAKE_WORKER), *arguments], cwd=Path(__file__).parents[3]
        )
        self.processes.append(process)
        return process

    def submit(self, request: dict | None = None, **fields) -> JobRecord:
        job = self.service.store.create(request or {}, **fields)
        self.service.engine.submit(job)
        return job

    def wait(self, is_so: Callable[[], object], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.05)

    def wait_for(self, job: JobRecord, *statuses: str, phase: str | None = None) -> JobRecord:
        def is_there() -> bool:
            found = self.service.store.get(job.id)
            return found.status in statuses and phase in (None, found.phase)

        self.wait(is_there)
        return self.service.store.get(job.id)

    def lines(self, job: JobRecord, key: str) -> list[str]:
        """Return the names of the stages that began, or ended, in order."""
        path = self.service.job_folder(job.id) / "log.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row[key] for row in rows if key in row]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.service.close()
