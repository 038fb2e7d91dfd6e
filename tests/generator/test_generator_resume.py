"""A job stopped anywhere, by request or without warning, ends with the digest of one that ran."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from generator_helpers import SmokeJob
from trouble import Trouble, alternating, run_through, written

from distillery.files import write_json

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_stopped_inside_and_after_every_stage(
    smoke: SmokeJob, tmp_path: Path, share: float
) -> None:
    trouble = Trouble(share, alternating())
    result = run_through(smoke.job, tmp_path, trouble)
    assert result.content_digest == smoke.result.content_digest
    assert written(result) == written(smoke.result)
    inside = {name.removeprefix("in ") for name in trouble.stopped if name.startswith("in ")}
    assert inside >= {
        "prepare", "base", "finetune", "generate", "score", "refine", "label", "evaluate",
    }  # fmt: skip
    assert len([name for name in trouble.stopped if name.startswith("after ")]) == 10


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from generator.pipeline import run_job
folder, cache = Path(sys.argv[1]), Path(sys.argv[2])
job = json.loads((folder / "job.json").read_text())
print("started", flush=True)
result = run_job(folder, job, cache=cache, on_progress=lambda p: print(p.phase, p.step, flush=True),
                 checkpoint_interval_s=0)
print("digest", result.content_digest, flush=True)
"""


@pytest.mark.slow
def test_a_real_kill_minus_nine(smoke: SmokeJob, tmp_path: Path) -> None:
    folder, cache = tmp_path / "job", tmp_path / "cache"
    folder.mkdir()
    write_json(folder / "job.json", smoke.job)
    command = [sys.executable, "-c", SCRIPT, str(folder), str(cache)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for wait_s in (0.3, 1.5, 0.8):  # after the first report of work
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() != "started":
                break
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == f"digest {smoke.result.content_digest}"
