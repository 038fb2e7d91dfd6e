"""doctor, estimate, pretrain and the command itself."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli import doctor, local
from generator.config import from_dict
from generator.defaults import Situation, default_values

Command = Callable[..., tuple[int, str, str]]
SLIVER = ["--steps", "3", "--threads", "1"]
PIXEL = Situation(
    kind="pixel", preset="default", minimax_preset="default", image_size=8, channels=1,
    num_classes=2, num_train=100, images_per_class=1, num_threads=1,
)  # fmt: skip


def test_the_version_is_that_of_the_package(distillery: Command) -> None:
    from importlib.metadata import version

    assert distillery("--version") == (0, f"distillery {version('distillery')}\n", "")


def test_a_wrong_verb_gets_the_nearest_one(distillery: Command) -> None:
    code, _, err = distillery("rnu")
    assert code == 2 and "run" in err and err.startswith("error: ") and "--help" in err


def test_the_doctor_finds_a_machine_that_can_work(distillery: Command) -> None:
    code, out, _ = distillery("doctor", "--json")
    report = json.loads(out)
    checks = {check["name"]: check for check in report["checks"]}
    assert code == 0 and report["ok"]
    assert {"python", "torch", "cores", "memory", "disk here", "cache", "hub", "matmul",
            "allocator", "packages"} <= checks.keys()  # fmt: skip
    assert "GFLOP/s" in checks["matmul"]["text"] and "torch 2" in checks["packages"]["text"]
    assert not Path("cache").exists()  # looking leaves nothing behind


def test_the_doctor_says_what_to_mend(distillery: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STACK", ("numpy", "surely_not_installed"))
    monkeypatch.setenv("DISTILLERY_CACHE", "/proc/nowhere")
    monkeypatch.setattr(doctor, "memory_limit_bytes", lambda: 1e9)
    monkeypatch.setattr(doctor, "available_cores", lambda: 0)  # any load is too much for these
    code, out, err = distillery("doctor")
    assert code == 1
    assert "surely_not_installed" in out and "pip install 'distillery[local]'" in out
    assert "cannot be written" in out and "set DISTILLERY_CACHE" in out
    assert "warn  memory" in out
    assert err.startswith("error: jobs cannot run here yet: mend packages, ")


def test_the_doctor_names_another_folder_for_the_disk_that_is_full(
    distillery: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(doctor, "missing_packages", lambda: ["torch"])  # spares its timing
    checks = {one["name"]: one for one in json.loads(distillery("doctor", "--json")[1])["checks"]}
    assert checks["disk here"]["fix"] == "free some, or name a folder on another disk with --out"
    assert "set DISTILLERY_CACHE" in checks["disk of the cache"]["fix"]


def test_an_estimate_is_a_table_with_the_basis_of_each_figure(
    distillery: Command, tmp_path: Path
) -> None:
    code, out, err = distillery("estimate", "--preset", "smoke", "--threads", "1")
    assert code == 0 and not err
    assert "10 classes (0, 1, 2, ...)" in out
    assert "small pixel DiT, pretrained here at 8 px" in out and "together" in out
    assert "timed now on 1 thread" in out and "memory" in out and "disk" in out
    assert not Path("runs").exists() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "bundle", "out"], "missing option '--to'. choose from:"),
        (["show", "bundle", "--classes", "-1"], "greater than or equal to 1"),
    ],
)
def test_options_that_cannot_be_read_are_one_clean_sentence(
    distillery: Command, arguments: list[str], says: str
) -> None:
    code, out, err = distillery(*arguments)
    assert code == 2 and not out and says in err.lower()
    assert "\t" not in err and len(err.splitlines()) == 1


def test_estimate_and_run_take_the_same_options(distillery: Command) -> None:
    def options(verb: str) -> set[str]:
        out = distillery(verb, "--help")[1]
        return {word.rstrip(",") for word in out.split() if word.startswith("--")}

    assert options("run") - options("estimate") == {"--yes", "--base."} - options("estimate")


def test_pretraining_leaves_a_base_that_a_run_finds(
    distillery: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    monkeypatch.setattr("generator.pipeline.use_device", devices.append)
    target = tmp_path / "base"
    code, out, err = distillery("pretrain", "digits", *SLIVER, "--out", target)
    assert code == 0, err
    assert (target / "distillery.json").is_file() and (target / "transformer").is_dir()
    assert f"--base {target}" in out and "base: " in err
    assert "Pretraining on digits: 1797 images, 10 classes" in err and "base seed 0" in err
    assert "Distilling" not in err and "guidance" not in err
    assert devices == ["cpu"]  # on a GPU its ordered operations: a shared key promises equal bytes

    code, out, _ = distillery("pretrain", "digits", *SLIVER, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert all(event["cached"] for event in events if event["event"] == "stage")
    assert Path(events[-1]["base"]).is_relative_to(tmp_path / "cache")

    # however short it was, because somebody asked for it
    code, out, _ = distillery("estimate", "--threads", "1", "--json")
    stages = {stage["name"]: stage for stage in json.loads(out)["estimate"]["stages"]}
    assert stages["base"]["basis"].startswith("cached")


def test_the_help_of_pretraining_says_the_steps_that_are_taken(distillery: Command) -> None:
    steps = [
        from_dict(default_values(replace(PIXEL, image_size=size))).base.pretrain.num_steps
        for size in (16, 17)
    ]
    _, out, _ = distillery("pretrain", "--help")
    assert "Default: {} to 16 px, else {}.".format(*steps) in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digits", "--steps", "0"], "--steps must be 1 or more"),
        (["digits", *SLIVER, "--out", "."], "exists already"),
        (["nothing-here", *SLIVER], "no dataset 'nothing-here'"),
        ([], "dataset"),
    ],
)
def test_bad_input_for_pretraining_is_refused(
    distillery: Command, arguments: list[str], says: str
) -> None:
    code, out, err = distillery("pretrain", *arguments)
    assert code == 2 and not out and says in err.lower()
    assert len(err.splitlines()) == 1
