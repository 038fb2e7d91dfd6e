"""`distillery run` around a pipeline that is pretended: what it says, writes and returns."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from app.cli import running
from distillery import errors
from distillery.files import read_json, write_json
from distillery.progress import Progress
from generator.stage import Finished

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, write_bundle: Callable[[Path], Path]) -> list[Any]:
    """Return the list of what the pretended pipeline does at each report, empty at first."""
    actions: list[Any] = []

    def run_job(folder: Path, job: Any, *, on_progress: Any, on_stage: Any, **_: Any) -> None:
        on_progress(Progress("prepare", 1, 2, "decoding"))
        for action in actions:
            action()
        on_progress(Progress("prepare", 2, 2, "decoding"))
        on_stage(Finished("prepare", folder, {"seconds": 0.1, "summary": "4 images"}, False))
        write_bundle(folder / "bundle")

    monkeypatch.setattr("generator.pipeline.run_job", run_job)
    return actions


def raises(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_a_run_says_plan_progress_and_result(distillery: Command, work: list[Any]) -> None:
    code, out, err = distillery("run", "--preset", "smoke", "--threads", "1")
    assert code == 0
    assert "Distilling digits to 10 images per class: 1797 images, 10 classes" in err
    assert "no base trained on these images is in the cache" in err and "none attached" in err
    assert "prepare: 0.1 s; 4 images" in err
    rows = [line.split() for line in out.splitlines()]
    assert ["▸", "Distillery", "90.0", "±", "1.0", "50.0"] in rows  # hard labels
    assert ["▸", "Distillery", "70.0", "±", "1.0", "50.0"] in rows  # soft ones, apart
    assert "worst group: not enough data" in out
    assert "+10.0 ± 1.0  refinement: it helps" in out
    assert "the samples were noise" in out
    bundle = Path("runs/digits-ipc10-smoke-seed0/bundle")
    assert f"distillery.load('{bundle}/distilled.safetensors')" in out
    assert f"{bundle}/preview.png" in out and f"{bundle}/report.html" in out
    assert "\x1b" not in out + err


def test_the_same_command_shows_a_finished_job_again(distillery: Command, work: list[Any]) -> None:
    first = distillery("run", "--preset", "smoke", "--threads", "1")[1]
    work.append(raises(AssertionError("a finished job is not run")))
    code, out, err = distillery("run", "--preset", "smoke", "--threads", "1")
    assert (code, out) == (0, first) and "is complete" in err


def test_another_job_is_not_overwritten(distillery: Command, work: list[Any]) -> None:
    assert distillery("run", "--preset", "smoke", "--threads", 1, "--out", "job")[0] == 0
    code, _, err = distillery("run", "--preset", "smoke", "--seed", "1", "--out", "job")
    assert code == 2 and err.startswith("error: job holds another job") and "--out" in err
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("important")
    code, _, err = distillery("run", "--preset", "smoke", "--out", "mine")
    assert code == 2 and "holds no job" in err and Path("mine/thesis.txt").exists()


def test_defaults_and_paths_in_other_words_show_the_same_job(
    distillery: Command, work: list[Any], tmp_path: Path
) -> None:
    assert distillery("run", "--preset", "smoke", "--threads", 1, "--out", "job")[0] == 0
    work.append(raises(AssertionError("a finished job is not run")))
    same = ("digits", "--preset", "smoke", "--threads", 1, "--seed", 0, "--ipc", 10)
    code, _, err = distillery("run", *same, "--out", "job")
    assert code == 0 and "is complete" in err
    code, _, err = distillery("run", *same, "--seed", 1, "--students", 2, "--out", "job")
    assert code == 2 and "with evaluate.num_seeds 1 (not 2), seed 0 (not 1): name a new" in err


def test_a_job_that_did_nothing_of_its_own_makes_room(distillery: Command, work: list[Any]) -> None:
    work.append(raises(errors.DataError("every class needs 10 training images")))
    assert distillery("run", "--preset", "smoke", "--threads", 1, "--out", "job")[0] == 2
    same = ("run", "--preset", "smoke", "--threads", 1, "--seed", 1, "--out", "job")
    lock = FileLock("job/.lock")
    with lock:  # a process works on it
        assert "holds another job" in distillery(*same)[2]
    stage = Path("job/stages/generate-0/stage.json")
    stage.parent.mkdir(parents=True)
    stage.touch()
    assert "holds another job" in distillery(*same)[2]
    stage.unlink()
    work.clear()
    assert distillery(*same)[0] == 0 and read_json(Path("job/job.json"))["request"]["seed"] == 1


def test_a_finished_job_whose_files_are_gone_is_worked_on_again(
    distillery: Command, work: list[Any], tmp_path: Path
) -> None:
    same = ("run", "--preset", "smoke", "--threads", 1, "--out", "~nosuchuser-job")
    folder = Path("~nosuchuser-job")
    assert distillery(*same)[0] == 0
    work.append(raises(errors.DataError("it worked")))
    write_json(folder / "stages.json", {"prepare": {"key": "0" * 64}})
    code, out, err = distillery(*same)
    assert code == 0 and "images are gone or have changed since" in err and "90.0" in out
    write_json(folder / "stages.json", {"base": {"key": "0" * 64}})
    code, _, err = distillery(*same)
    assert code == 2 and "the cache has lost base" in err and "it worked" in err
    (folder / "stages.json").unlink()
    (folder / "bundle" / "preview.png").unlink()
    code, _, err = distillery(*same)
    assert code == 2 and "its bundle lacks files" in err and "it worked" in err


def test_a_home_in_the_name_of_the_folder_is_found(
    distillery: Command, work: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert distillery("run", "--preset", "smoke", "--threads", 1, "--out=~/job")[0] == 0
    assert (tmp_path / "job" / "bundle").is_dir() and not Path("~").exists()


def test_json_is_one_object_a_line_and_nothing_else(distillery: Command, work: list[Any]) -> None:
    code, out, err = distillery("run", "--preset", "smoke", "--threads", 1, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events]
    assert code == 0 and not err
    assert kinds == ["plan", "progress", "progress", "stage", "result"]
    assert events[0]["estimate"]["seconds"] > 0
    assert events[0]["config"]["preset"] == "smoke"
    assert len(events[-1]["content_digest"]) == 64
    assert Path(events[-1]["files"]["bundle"]).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_safe_point(
    distillery: Command, work: list[Any], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    work.append(lambda: os.kill(os.getpid(), number))
    code, out, err = distillery("run", "--preset", "smoke", "--threads", "1")
    assert code == 130 and not out
    assert err.splitlines()[-1] == "stopped; what is done is kept: repeat the same command to go on"
    assert signal.getsignal(number) == before
    work.clear()
    code, out, err = distillery("run", "--preset", "smoke", "--threads", "1")
    assert code == 0 and "goes on" in err


def test_a_second_signal_stops_at_once(distillery: Command, work: list[Any]) -> None:
    reached = []
    work.append(lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    work.append(lambda: reached.append(True))
    code, *_ = distillery("run", "--preset", "smoke", "--threads", "1")
    assert code == 130 and not reached


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (errors.DataError("no images"), 2, "error: no images"),
        (errors.TrainingError("the loss became nan"), 1, "error: the loss became nan"),
        (OSError(errno.ENOSPC, "full", "/x"), 1, "no space left on the disk (/x)"),
        (PermissionError(errno.EACCES, "denied", "/y"), 2, "no permission to use (/y)"),
        (MemoryError(), 1, "not enough memory"),
    ],
)  # fmt: skip
def test_expected_errors_are_one_sentence(
    distillery: Command, work: list[Any], error: Exception, code: int, says: str
) -> None:
    work.append(raises(error))
    got, out, err = distillery("run", "--preset", "smoke", "--threads", "1", "--json")
    assert got == code and says in err.splitlines()[-1] and "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "error" and last["message"] in err.splitlines()[-1]


def test_an_unexpected_error_leaves_its_traceback_in_the_job(
    distillery: Command, work: list[Any]
) -> None:
    work.append(raises(ZeroDivisionError("of all things\nsecond line")))
    code, _, err = distillery("run", "--preset", "smoke", "--threads", "1")
    log = Path("runs/digits-ipc10-smoke-seed0/error.log")
    assert code == 1
    assert err.splitlines()[-1] == (
        f"error: unexpected ZeroDivisionError: of all things; the details are in {log}"
    )
    assert "Traceback" in log.read_text() and "second line" in log.read_text()
    work.clear()
    assert distillery("run", "--preset", "smoke", "--threads", "1")[0] == 0  # and it goes on


def test_a_reader_that_goes_away_stops_the_run(
    distillery: Command, work: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(running.Lines, "on_progress", closed)
    code, _, err = distillery("run", "--preset", "smoke", "--threads", "1")
    assert code == 130 and "the output was closed" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere/at/all.zip"], "no dataset 'nowhere/at/all.zip'"),
        (["nowhere/photos"], "no file or folder 'nowhere/photos'"),
        (["--ipc", "0"], "must be 1 to 1000, got 0"),
        (["--ipc", "5000"], "must be 1 to 1000, got 5000"),
        (["--ipc", "900"], "only"),
        (["--ipc", "ten"], "valid integer"),
        (["--icp", "3"], "--ipc"),
        (["--minimax", "mine"], "reference"),
        (["--set", "refine.num_stps=3"], "did you mean 'num_steps'"),
        (["--set", "refine.num_steps=many"], "refine.num_steps must be int"),
        (["--base", "no/such-model"], "no/such-model"),
        (["--image-size", "9", "--base", "pixel"], "image_size must be a multiple"),
        (["a", "b"], "unexpected"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    distillery: Command, arguments: list[str], says: str
) -> None:
    code, out, err = distillery("run", *arguments)
    assert code == 2 and not out and says in err
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    assert not Path("runs").exists()


@pytest.mark.parametrize("verb", ["run", "estimate"])
@pytest.mark.parametrize(
    ("option", "says"), [("d/ne/x", "no dataset 'd/ne/x'"), ("--ipc=0", "must be 1 to 1000, got 0")]
)
def test_what_is_plainly_wrong_is_refused_before_torch_is_imported(
    tmp_path: Path, verb: str, option: str, says: str
) -> None:
    script = (
        "import sys\n"
        "from app.cli.main import run_command\n"
        f"code = run_command([{verb!r}, {option!r}])\n"
        "sys.exit(code if not {'torch', 'diffusers', 'sklearn'} & sys.modules.keys() else 99)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DISTILLERY_CACHE": str(tmp_path / "c")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_disk_that_is_too_small_is_refused_before_the_start(
    distillery: Command, work: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    code, _, err = distillery("run", "--preset", "smoke", "--threads", "1")
    assert code == 2 and "GB free" in err and not Path("runs").exists()


def test_a_non_commercial_base_is_accepted_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    from app.cli.planning import confirm
    from app.settings import read_settings

    settings = read_settings({"HOME": str(tmp_path), "DISTILLERY_CACHE": str(tmp_path / "cache")})
    config = SimpleNamespace(base=SimpleNamespace(reference="facebook/DiT-XL-2-256"))
    plan: Any = SimpleNamespace(config=config, licence="cc-by-nc-4.0")
    short: Any = SimpleNamespace(seconds=1.0)
    with pytest.raises(errors.ConfigError, match="forbids commercial use"):
        confirm(plan, short, settings, yes=False)
    confirm(plan, short, settings, yes=True)
    assert read_json(settings.cache / "accepted-licences.json") == ["facebook/DiT-XL-2-256"]
    confirm(plan, short, settings, yes=False)
    write_json(settings.cache / "accepted-licences.json", [])
    with pytest.raises(errors.ConfigError):
        confirm(plan, short, settings, yes=False)
