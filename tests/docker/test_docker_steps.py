"""The images, built step by step on this machine, and what they start, as their user.

No container engine is needed: each stage is a copy-on-write view of this machine's root.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def can_mount(folder: Path) -> bool:
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("chroot"):
        return False
    for name in ("layers", "root"):
        (folder / name).mkdir()
    script = (
        f"mount -t tmpfs t {folder}/layers && mkdir {folder}/layers/u {folder}/layers/w && "
        f"mount -t overlay o -o lowerdir=/,upperdir={folder}/layers/u,workdir={folder}/layers/w "
        f"{folder}/root && /usr/sbin/chroot {folder}/root /usr/bin/python3 -m venv --help"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.slow
def test_both_images_build_and_run(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    if not can_mount(tmp_path / "probe"):
        pytest.skip("needs root, overlayfs and a system Python with venv")
    (tmp_path / "work").mkdir()
    script = Path(__file__).parent / "build_images.py"
    command = ["unshare", "-m", sys.executable, str(script), str(ROOT), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    packages = found["api packages"].lower()
    assert "fastapi" in packages and "distillery" in packages
    for heavy in ("torch", "diffusers", "transformers", "nvidia", "triton", "accelerate"):
        assert f"\n{heavy}" not in f"\n{packages}", f"the API image holds {heavy}"
    assert "No module named 'torch'" in found["api imports"]
    assert "torch==" in found["worker packages"] and not found["worker imports"]
    for name in ("api", "worker"):
        assert found[f"{name} user"] == "10001"
        assert found[f"{name} root"].count("Read-only file system") == 2
        assert found[name] == "well", found["logs"]
    assert "up to date" in found["migrate"]
    assert found["ended"].strip().endswith("succeeded"), (found["ended"], found["logs"])
    assert found["page"].strip() == "200"
    assert found["estimate"].strip() == "estimate"
    assert found["exit codes"] == [0, 0], found["logs"]
