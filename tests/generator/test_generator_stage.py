"""A stage: its key, its folder, what a killed one leaves behind, and two at once."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.errors import Cancelled
from distillery.files import read_json, write_json
from distillery.progress import Progress, ignore_progress
from generator import stage as stage_module
from generator.config import DistillConfig
from generator.stage import RECORD, Context, Finished, Stage, StageOutput, run_stage, stage_key

CONFIG = DistillConfig()


class Killed(BaseException):
    """What no handler sees coming, as a kill of the process."""


def write_number(context: Context) -> StageOutput:
    write_json(context.folder / "number.json", context.config.seed)
    return StageOutput("wrote a number", {"number": context.config.seed})


def stage(run: Callable[[Context], StageOutput] = write_number, **changes: Any) -> Stage:
    first = Stage("numbers", 1, (), lambda config: {"seed": config.seed}, run)
    return replace(first, **changes)


def go(root: Path, what: Stage, config: DistillConfig = CONFIG, **options: Any) -> Finished:
    return run_stage(what, config, {}, root=root, **{"on_progress": ignore_progress, **options})


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def run(context: Context) -> StageOutput:
        calls.append(1)
        return write_number(context)

    first, second = go(tmp_path, stage(run)), go(tmp_path, stage(run))
    assert calls == [1]
    assert (first.was_cached, second.was_cached) == (False, True)
    assert first.folder == second.folder and first.record == second.record
    assert read_json(first.folder / "number.json") == 0


def test_the_record_says_what_it_came_from_and_what_it_wrote(tmp_path: Path) -> None:
    record = go(tmp_path, stage()).record
    assert (record["name"], record["version"], record["settings"]) == ("numbers", 1, {"seed": 0})
    assert record["facts"] == {"number": 0} and list(record["files"]) == ["number.json"]


def test_the_key_changes_with_settings_version_and_inputs_and_with_nothing_else() -> None:
    reads = stage(reads=("before",))

    def key(what: Stage, config: DistillConfig = CONFIG, digest: str = "a") -> str:
        before = Finished("before", Path(), {"digest": digest, "seconds": 1}, False)
        return stage_key(what, config, {"before": before})

    keys = {
        key(reads), key(reads, replace(CONFIG, seed=1)), key(replace(reads, version=2)),
        key(reads, digest="b"), key(replace(reads, name="other")),
    }  # fmt: skip
    assert len(keys) == 5
    assert key(reads, replace(CONFIG, images_per_class=3)) == key(reads)


def test_the_digest_sees_every_file_and_fact_and_no_time(tmp_path: Path) -> None:
    def other_file(context: Context) -> StageOutput:
        output = write_number(context)
        (context.folder / "below").mkdir()
        (context.folder / "below" / "more").write_bytes(b"x")
        return output

    def other_fact(context: Context) -> StageOutput:
        return replace(write_number(context), facts={"number": 1})

    def slow(context: Context) -> StageOutput:
        time.sleep(0.02)
        return replace(write_number(context), summary="wrote a number slowly")

    digests = [
        go(tmp_path / str(n), stage(run)).record["digest"]
        for n, run in enumerate((write_number, slow, other_file, other_fact))
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_stage_may_name_its_own_identity(tmp_path: Path) -> None:
    done = go(tmp_path, stage(lambda _: StageOutput("", digest="the same data elsewhere")))
    assert done.record["digest"] == "the same data elsewhere"


def counting_up(stop_after: int | None, kind: type[BaseException]) -> Callable:
    """A stage that counts to five with a checkpoint each step, and may be stopped on the way."""

    def run(context: Context) -> StageOutput:
        checkpoint = context.checkpoint()
        saved = checkpoint.load()
        values = list(saved[0]["values"]) if saved else []
        for step in range(len(values), 5):
            values.append(step * step)
            checkpoint.save({"values": np.array(values)}, {})
            context.on_progress(Progress("numbers", step + 1, 5))
            if step + 1 == stop_after:
                raise kind
        write_json(context.folder / "values.json", [int(v) for v in values])
        return StageOutput("counted")

    return run


@pytest.mark.parametrize("kind", [Cancelled, Killed])
@pytest.mark.parametrize("stop_after", [1, 4, 5])
def test_a_stage_that_was_stopped_goes_on_in_its_partial_folder(
    tmp_path: Path, stop_after: int, kind: type[BaseException]
) -> None:
    with pytest.raises(kind):
        go(tmp_path, stage(counting_up(stop_after, kind)))
    assert [p.suffix for p in tmp_path.iterdir() if p.is_dir()] == [".partial"]
    steps: list[int] = []
    done = go(tmp_path, stage(counting_up(None, kind)), on_progress=lambda p: steps.append(p.step))
    assert steps == list(range(stop_after + 1, 6))
    assert read_json(done.folder / "values.json") == [0, 1, 4, 9, 16]
    assert sorted(p.name for p in done.folder.iterdir()) == [RECORD, "values.json"]
    untouched = go(tmp_path / "other", stage(counting_up(None, kind)))
    assert untouched.record["digest"] == done.record["digest"]


@pytest.mark.parametrize("moment", ["digest_file", "write_json", "shutil.rmtree", "os.rename"])
def test_killed_at_the_very_end_it_neither_loses_its_work_nor_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def run(context: Context) -> StageOutput:
        (context.folder / "checkpoint-parts").mkdir(exist_ok=True)
        return counting_up(None, Killed)(context)

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"{stage_module.__name__}.{moment}", dies)
        with pytest.raises(Killed):
            go(tmp_path, stage(run))
    steps: list[int] = []
    done = go(tmp_path, stage(run), on_progress=lambda p: steps.append(p.step))
    assert steps == []  # nothing is computed again
    assert done.record["digest"] == go(tmp_path / "other", stage(run)).record["digest"]
    assert sorted(p.name for p in done.folder.iterdir()) == [RECORD, "values.json"]


def test_of_two_at_once_one_works_and_the_other_waits(tmp_path: Path) -> None:
    entered, may_finish, waiting = threading.Event(), threading.Event(), threading.Event()
    calls: list[int] = []

    def run(context: Context) -> StageOutput:
        calls.append(1)
        entered.set()
        assert may_finish.wait(20)
        return write_number(context)

    def note(progress: Progress) -> None:
        if "waiting" in progress.message:
            waiting.set()

    found: list[Finished] = []
    first = threading.Thread(target=lambda: found.append(go(tmp_path, stage(run))))
    second = threading.Thread(
        target=lambda: found.append(go(tmp_path, stage(run), on_progress=note))
    )
    first.start()
    assert entered.wait(20)
    second.start()
    assert waiting.wait(20)  # the other says so
    may_finish.set()
    first.join(20), second.join(20)
    assert calls == [1] and sorted(done.was_cached for done in found) == [False, True]


def test_a_wait_can_be_cancelled(tmp_path: Path) -> None:
    entered, may_finish = threading.Event(), threading.Event()

    def run(context: Context) -> StageOutput:
        entered.set()
        assert may_finish.wait(20)
        return write_number(context)

    def stop(_: Progress) -> None:
        raise Cancelled

    first = threading.Thread(target=go, args=(tmp_path, stage(run)))
    first.start()
    assert entered.wait(20)
    with pytest.raises(Cancelled):
        go(tmp_path, stage(run), on_progress=stop)
    may_finish.set()
    first.join(20)


def test_another_key_does_not_wait(tmp_path: Path) -> None:
    entered, may_finish = threading.Event(), threading.Event()

    def run(context: Context) -> StageOutput:
        entered.set()
        assert may_finish.wait(20)
        return write_number(context)

    first = threading.Thread(target=go, args=(tmp_path, stage(run)))
    first.start()
    assert entered.wait(20)
    assert not go(tmp_path, stage(), replace(CONFIG, seed=1)).was_cached
    may_finish.set()
    first.join(20)
