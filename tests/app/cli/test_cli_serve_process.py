"""`distillery serve` as a process: its start, its files, its end, and the fate of its worker."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import distillery
from distillery.errors import ServiceError

ROOT = Path(__file__).parents[3]


def eventually(check: Callable[[], object], limit_s: float) -> object:
    end = time.monotonic() + limit_s
    while not (found := check()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


@contextmanager
def serving(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Run serve on a free port; it is ended, and its worker with it, whatever happens."""
    env = os.environ | {
        "DISTILLERY_DATA": str(folder / "data"), "DISTILLERY_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "app.cli.main", "serve", "--port", "0", *options]
    with open(folder / "serve.log", "a") as log:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stderr=log, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def client_of(folder: Path) -> Iterator[distillery.Client]:
    told = json.loads((folder / "data" / "client.json").read_text())
    with distillery.Client(told["url"], api_key=told["api_key"], max_retries=0) as client:
        yield client


def is_live(folder: Path) -> bool:
    try:
        told = json.loads((folder / "data" / "client.json").read_text())
        with urllib.request.urlopen(told["url"] + "/health/live", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_serve_starts_prints_a_link_and_ends(tmp_path: Path) -> None:
    with serving(tmp_path, "--no-worker") as process:
        eventually(lambda: is_live(tmp_path), 60)
        with client_of(tmp_path) as client:
            job_id = use(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    text = (tmp_path / "serve.log").read_text()
    link = re.search(rf"works once\): ({re.escape(client.url)}/login\?token=[\w-]+)", text)
    assert link and "Traceback" not in text
    assert text.startswith(f"Distillery serves on {client.url}\nLog in"), "nothing comes before it"
    logged = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert any(line.get("job_id") == job_id and line["request_id"] for line in logged)
    assert stat.S_IMODE((tmp_path / "data" / "client.json").stat().st_mode) == 0o600
    with serving(tmp_path, "--no-worker"):  # the key stays good, and no second link is printed
        eventually(lambda: "serves on" in (tmp_path / "serve.log").read_text()[len(text) :], 60)
        eventually(lambda: is_live(tmp_path), 60)
        with client_of(tmp_path) as client:
            assert list(client.jobs.list()) == []
        assert "works once" not in (tmp_path / "serve.log").read_text()[len(text) :]


def use(client: distillery.Client) -> str:
    """Do everything that needs no worker; return the id of a job that was there."""
    job = client.jobs.create("digits", 1, preset="smoke", name="queued for ever")
    assert job.status == "queued" and job.record["queue_position"] == 1
    with closing(job.events(after=0)) as events:
        assert next(events).kind == "snapshot"
    assert [each.id for each in client.jobs.list(status="queued")] == [job.id]
    with distillery.Client(client.url) as stranger:
        with pytest.raises(ServiceError, match="DISTILLERY_API_KEY"):
            stranger.jobs.get(job.id)
    with pytest.raises(ServiceError, match="no job"):
        client.jobs.get("job_1")
    assert job.cancel().status == "canceled"
    assert [event.kind for event in job.events(after=0)][-1] == "done"
    job.delete()
    return job.id


def worker_pids(folder: Path) -> list[int]:
    mark = str(folder / "data").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"worker" in words and mark in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_job_outlives_its_worker_and_its_service(tmp_path: Path) -> None:
    with serving(tmp_path, "--device", "cpu") as process:
        eventually(lambda: is_live(tmp_path), 60)
        with client_of(tmp_path) as client:
            job = client.jobs.create("digits", 1, preset="smoke", num_threads=1)
            eventually(lambda: job.refresh().status == "running", 60)
            first = eventually(lambda: worker_pids(tmp_path), 10)
            assert isinstance(first, list)
            os.kill(first[0], signal.SIGKILL)
            eventually(lambda: worker_pids(tmp_path) and worker_pids(tmp_path) != first, 60)
            eventually(lambda: job.refresh().phase not in (None, "plan", "prepare"), 120)
        process.send_signal(signal.SIGTERM)  # a checkpoint, then an end without an error
        assert process.wait(60) == 0 and not worker_pids(tmp_path)
    with serving(tmp_path, "--device", "cpu") as process:
        eventually(lambda: is_live(tmp_path), 60)
        with client_of(tmp_path) as client:
            done = client.jobs.wait(job.id, timeout_s=600)
            assert done.status == "succeeded", done.reason()
            data = done.download(tmp_path / "out")
        assert data.content_digest == done.record["result"]["content_digest"]
        process.kill()  # not asked: the worker ends with its pipe
        eventually(lambda: not worker_pids(tmp_path), 60)
