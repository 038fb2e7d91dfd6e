"""The short form of `benchmarks.chaos`: a few kills, on both databases."""

import pytest

from benchmarks import chaos

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_few_kills_lose_nothing(database: str) -> None:
    result = chaos.run(database, preset="smoke", num_jobs=2, num_kills=6, num_cancels=0, seed=1)
    assert result["wrong"] == [] and result["overlaps"] == []
    assert result["statuses"] == {"succeeded": 2}
    assert sum(result["kills"].values()) >= 1


def test_two_living_processes_at_one_stage_would_be_seen(tmp_path, monkeypatch) -> None:
    import os

    from benchmarks import chaos_processes

    witnesses = chaos_processes.Witnesses(tmp_path)
    chaos_processes.write_witness(tmp_path, job="a", stage="base", kind="begin")
    witnesses.look()
    assert witnesses.at_work() == [os.getpid()] and witnesses.overlaps == []
    monkeypatch.setattr(os, "getpid", os.getppid)  # another process, which lives
    chaos_processes.write_witness(tmp_path, job="a", stage="base", kind="begin")
    witnesses.look()
    assert len(witnesses.overlaps) == 1
    chaos_processes.write_witness(tmp_path, job="a", stage="base", kind="end")
    witnesses.look()
    assert len(witnesses.at_work()) == 1
