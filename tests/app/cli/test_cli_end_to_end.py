"""The real command on real digits: killed in the middle, run again, and the same bytes come out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import distillery

RUN = [sys.executable, "-m", "app.cli.main", "run", "--preset", "smoke", "--threads", "1"]
ROOT = Path(__file__).parents[3]


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {
        "DISTILLERY_CACHE": str(cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    env = environment(tmp_path / "cache")
    command = [*RUN, "--json", "--out", "killed"]
    running = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    seen = set()
    for line in running.stdout:  # kill it while it samples, or right after
        seen.add(json.loads(line).get("phase") or json.loads(line).get("name"))
        if "generate" in seen:
            break
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL and not (tmp_path / "killed/bundle").exists()

    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    events = [json.loads(line) for line in again.stdout.splitlines()]
    stages = {event["name"]: event for event in events if event["event"] == "stage"}
    assert list(stages)[-1] == "bundle" and len(stages) == 10
    assert stages["base"]["cached"] and stages["finetune"]["cached"]

    env = environment(tmp_path / "other-cache")  # so that every stage is done twice
    calm = subprocess.run(
        [*RUN, "--out", "calm"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert calm.returncode == 0, calm.stderr
    assert "bundle   calm/bundle/distilled.safetensors" in calm.stdout
    killed, undisturbed = (
        distillery.load(tmp_path / name / "bundle") for name in ("killed", "calm")
    )
    assert killed.content_digest == undisturbed.content_digest == events[-1]["content_digest"]
    assert len(killed) == 100


def test_a_closed_pipe_stops_the_run_quietly(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{' '.join(RUN)} --json --out job | head -c 10 > /dev/null; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=tmp_path, env=environment(tmp_path / "cache"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() in ("1", "130") and "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_one_sentence(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", "--version"],
            cwd=tmp_path, env=environment(tmp_path / "cache"), stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left on the disk")
    assert len(done.stderr.splitlines()) == 1
