"""How long until `distillery serve` answers, and until a job that it is given is at work?

Each repeat starts a fresh service with its worker in an empty data folder, waits until the worker
is idle, posts a job on the digits with an empty cache, and follows it: to the status `running`, to
the first report, and to the first report of a stage's own work (`prepare`, after the plan).

    python -m benchmarks.service_start [--repeats N] [--settle S]

Targets: health under 3 s, `running` under 3 s, the first progress of a stage under 8 s. Writes
benchmarks/results/service_start.json.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.jobs import save

POLL_S = 0.02
LIMIT_S = 120.0
BODY = {"dataset": "digits", "ipc": 10}
TARGETS_S = {"health": 3.0, "running": 3.0, "first_stage_progress": 8.0}


class Service:
    """`distillery serve` in a folder of its own, on a free port."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        self.data = folder / "data"
        environment = {
            **os.environ, "DISTILLERY_DATA": str(self.data),
            "DISTILLERY_CACHE": str(folder / "cache"),
        }  # fmt: skip
        self.log = open(folder / "serve.log", "wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "serve", "--port", "0"],
            env=environment, stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to a request, None where nothing answers yet."""
        try:
            told = json.loads((self.data / "client.json").read_text())
        except (OSError, ValueError):
            return None
        request = urllib.request.Request(
            told["url"] + path, None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {told['api_key']}", "Content-Type": "application/json"},
            method=method,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def close(self) -> None:
        """End it, and its worker with it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)
        self.log.close()


def until(check: Any) -> float:
    """Wait for something to be so and return the time."""
    end = time.monotonic() + LIMIT_S
    while not check():
        if time.monotonic() > end:
            raise RuntimeError(f"it did not happen within {LIMIT_S:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic()


def measure(folder: Path, settle_s: float) -> dict[str, float]:
    """Return the seconds of one start and one job."""
    service = Service(folder)
    try:
        health = until(lambda: service.ask("GET", "/health/live")) - service.started
        until(lambda: service.ask("GET", "/health/ready")["checks"]["workers"]["ready"] == 1)
        ready = time.monotonic() - service.started
        time.sleep(settle_s)  # the worker's spare child imports torch: it is idle after that
        posted = time.monotonic()
        job_id = service.ask("POST", "/jobs", BODY)["id"]
        answered = time.monotonic()

        def job() -> Any:
            return service.ask("GET", f"/jobs/{job_id}")

        running = until(lambda: job()["status"] == "running")
        report = until(lambda: job()["progress"])
        stage = until(lambda: (job()["progress"] or {}).get("phase") in ("prepare", "base"))
        service.ask("POST", f"/jobs/{job_id}/cancel")
        until(lambda: job()["status"] == "canceled")
    finally:
        service.close()
    return {
        "health": health, "worker_ready": ready, "post_answered": answered - posted,
        "running": running - posted, "first_progress": report - posted,
        "first_stage_progress": stage - posted,
    }  # fmt: skip


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--settle", type=float, default=15.0)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    runs: list[dict[str, float]] = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory(prefix="service-start-") as name:
            runs.append(measure(Path(name), options.settle))
        print({key: round(value, 2) for key, value in runs[-1].items()}, flush=True)
    seconds = {
        name: {
            "median": round(statistics.median(run[name] for run in runs), 2),
            "max": round(max(run[name] for run in runs), 2),
        }
        for name in runs[0]
    }
    result = {
        "question": __doc__.splitlines()[0], "repeats": options.repeats, "seconds": seconds,
        "targets_s": TARGETS_S, "all_met": all(seconds[n]["max"] < t for n, t in TARGETS_S.items()),
        "load_average": {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)},
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    save(f"{Path(__file__).stem}.json", result)


if __name__ == "__main__":
    main()
