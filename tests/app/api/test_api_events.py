import asyncio
import json
import threading
import time
from dataclasses import dataclass

import pytest
from starlette.testclient import TestClient

from app.api.app import build_api
from app.api.hub import KEPT_EVENTS, EventHub
from app.api.series import thin
from tests.app.api.conftest import BASE, Place

STREAM = {"Accept": "text/event-stream"}


@dataclass
class Frame:
    seq: int | None
    kind: str
    data: dict


def frames(text: str) -> list[Frame]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if "event" in fields:
            seq = int(fields["id"]) if "id" in fields else None
            found.append(Frame(seq, fields["event"], json.loads(fields["data"])))
    return found


def run_job(place: Place, job_id: str, losses: int = 3, status: str = "succeeded") -> None:
    place.store.change(job_id, expect={"queued"}, status="running", phase="plan")
    for step in range(losses):
        values = {"phase": "finetune", "step": step, "values": {"loss": 1.0 / (step + 1)}}
        place.store.add_event(job_id, "metric", values)
    place.store.change(job_id, expect={"running"}, status=status)  # type: ignore[arg-type]


def later(place: Place, job_id: str, **how: object) -> None:
    threading.Timer(0.3, run_job, (place, job_id), how).start()  # type: ignore[arg-type]


def test_a_stream_tells_everything_once_and_ends(place: Place) -> None:
    job_id = place.make()
    later(place, job_id)
    answer = place.client.get(f"/jobs/{job_id}/events", headers=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    found = frames(answer.text)
    assert [frame.kind for frame in found] == [
        "snapshot", "status", "metric", "metric", "metric", "status", "done"
    ]  # fmt: skip
    assert [frame.seq for frame in found] == [1, 2, 3, 4, 5, 6, 7]
    assert found[0].data["id"] == job_id and found[0].data["queue_position"] == 1
    assert found[2].data == {"phase": "finetune", "step": 0, "values": {"loss": 1.0}}


def test_a_stream_goes_on_where_it_was_left(place: Place) -> None:
    job_id = place.make()
    run_job(place, job_id)
    answer = place.client.get(f"/jobs/{job_id}/events", headers=STREAM | {"Last-Event-ID": "3"})
    found = frames(answer.text)
    assert [(f.kind, f.seq) for f in found] == [
        ("snapshot", 3), ("metric", 4), ("metric", 5), ("status", 6), ("done", 7)
    ]  # fmt: skip
    after = place.client.get(f"/jobs/{job_id}/events?after=5", headers=STREAM)
    assert [f.seq for f in frames(after.text)] == [5, 6, 7]


def test_events_are_replayed_by_another_process(place: Place) -> None:
    job_id = place.make()
    run_job(place, job_id)
    again = build_api(place.settings, place.service)
    with TestClient(again, base_url=BASE, headers=dict(place.client.headers)) as client:
        answer = client.get(f"/jobs/{job_id}/events", headers=STREAM | {"Last-Event-ID": "5"})
        assert [f.seq for f in frames(answer.text)] == [5, 6, 7]


def test_after_the_end_there_is_no_content(place: Place) -> None:
    job_id = place.make()
    run_job(place, job_id, losses=1)
    first = frames(place.client.get(f"/jobs/{job_id}/events", headers=STREAM).text)
    assert [frame.kind for frame in first] == ["snapshot", "done"]
    headers = STREAM | {"Last-Event-ID": str(first[-1].seq)}
    assert place.client.get(f"/jobs/{job_id}/events", headers=headers).status_code == 204
    headers["Last-Event-ID"] = "nonsense"  # like none at all
    assert place.client.get(f"/jobs/{job_id}/events", headers=headers).status_code == 200


def test_a_retried_job_has_a_stream_again(place: Place) -> None:
    job_id = place.make()
    run_job(place, job_id, losses=1, status="failed")
    place.client.post(f"/jobs/{job_id}/retry")
    later(place, job_id, losses=1)
    answer = place.client.get(f"/jobs/{job_id}/events?after=2", headers=STREAM)
    kinds = [frame.kind for frame in frames(answer.text)]
    assert kinds == [
        "snapshot", "metric", "status", "done", "status", "status", "metric", "status", "done"
    ]  # fmt: skip


def test_long_histories_come_whole(place: Place) -> None:
    job_id = place.make()
    run_job(place, job_id, losses=KEPT_EVENTS * 3)
    answer = place.client.get(f"/jobs/{job_id}/events?after=0", headers=STREAM)
    seqs = [frame.seq for frame in frames(answer.text)]
    record = place.store.get(job_id)
    assert record is not None and seqs == list(range(record.revision + 1))


def test_a_list_has_pages(place: Place) -> None:
    job_id = place.make()
    run_job(place, job_id, losses=600)
    page = place.client.get(f"/jobs/{job_id}/events").json()
    assert len(page["data"]) == 500 and page["has_more"] and page["next"] == "500"
    rest = place.client.get(f"/jobs/{job_id}/events", params={"after": page["next"]}).json()
    assert [event["seq"] for event in rest["data"]] == list(range(501, 605))
    assert set(rest["data"][-1]) == {"seq", "kind", "at", "data"}
    assert not rest["has_more"]


@pytest.mark.parametrize(("accept", "status"), [("text/html", 406), ("*/*", 200), ("image/*", 406)])
def test_other_forms_are_refused(place: Place, accept: str, status: int) -> None:
    job_id = place.make()
    answer = place.client.get(f"/jobs/{job_id}/events", headers={"Accept": accept})
    assert answer.status_code == status


@pytest.mark.parametrize("changes", [{"max_streams": 0}])
def test_streams_are_limited(place: Place) -> None:
    answer = place.client.get(f"/jobs/{place.make()}/events", headers=STREAM)
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_streams")


def test_one_poll_serves_all_streams(place: Place) -> None:
    """Thirty streams of three jobs: the store is asked as often as for one."""
    jobs = [place.make() for _ in range(3)]
    asked: list[int] = []
    original = place.store.changed_since
    place.store.changed_since = lambda seen, **k: asked.append(len(seen)) or original(seen, **k)  # type: ignore
    texts: list[str] = []

    def follow(job_id: str) -> None:
        texts.append(place.client.get(f"/jobs/{job_id}/events", headers=STREAM).text)

    threads = [threading.Thread(target=follow, args=(jobs[n % 3],)) for n in range(30)]
    for thread in threads:
        thread.start()
    api = place.client.app.state.api  # type: ignore[attr-defined]
    until = time.monotonic() + 20
    while api.hub.num_streams < 30 and time.monotonic() < until:
        time.sleep(0.02)
    started, before = time.monotonic(), len(asked)
    time.sleep(0.5)
    polls, took = len(asked) - before, time.monotonic() - started
    assert polls <= took / api.hub.interval_s + 2
    for job_id in jobs:
        run_job(place, job_id)
    for thread in threads:
        thread.join(20)
    assert len(texts) == 30 and max(asked) == 3
    assert {tuple(f.seq for f in frames(text)) for text in texts} == {tuple(range(1, 8))}
    assert api.hub.num_streams == 0


def test_the_poll_survives_a_busy_database_and_stops_without_watchers(place: Place) -> None:
    job_id = place.make()

    async def watch() -> int:
        hub = EventHub(place.store, interval_s=0.01)
        calls = 0
        original = place.store.changed_since

        def flaky(seen: dict[str, int], **k: int) -> object:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("database is locked")
            return original(seen, **k)

        place.store.changed_since = flaky  # type: ignore
        async with hub.watch(job_id, 1) as channel:
            changed = channel.changed
            place.store.add_event(job_id, "log", {"level": "info", "message": "x"})
            await asyncio.wait_for(changed.wait(), 5)
            assert [frame.kind for frame in channel.frames] == ["log"]
        await asyncio.sleep(0.1)
        before = calls
        await asyncio.sleep(0.1)
        return calls - before

    assert asyncio.run(watch()) == 0


@pytest.mark.parametrize("kind", ["key", "session"])
def test_a_stream_ends_with_its_key(
    place: Place, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("app.api.routes.events.CHECK_S", 0.05)
    monkeypatch.setattr("app.api.routes.events.PING_S", 0.05)
    record, secret = place.service.keys.create("other")
    job_id = place.make()
    place.client.headers["Authorization"] = f"Bearer {secret}"
    if kind == "session":
        place.client.post("/login", json={"key": secret}, headers={"Origin": BASE})
        del place.client.headers["Authorization"]
    threading.Timer(0.3, place.service.keys.revoke, (record.id,)).start()
    threading.Timer(1.0, run_job, (place, job_id)).start()
    answer = place.client.get(f"/jobs/{job_id}/events", headers=STREAM)
    assert [frame.kind for frame in frames(answer.text)] == ["snapshot"] and "ping" in answer.text


def test_streams_end_when_the_service_does(place: Place) -> None:
    job_id = place.make()
    hub = place.client.app.state.api.hub  # type: ignore[attr-defined]
    portal = place.client.portal
    assert portal is not None
    threading.Timer(0.3, lambda: portal.call(hub.close)).start()
    answer = place.client.get(f"/jobs/{job_id}/events", headers=STREAM)
    assert [frame.kind for frame in frames(answer.text)] == ["snapshot"]


def test_curves_are_columns(place: Place) -> None:
    job_id = place.make()
    run_job(place, job_id, losses=4)
    place.store.add_event(
        job_id, "metric", {"phase": "refine", "step": 1, "values": {"a": 2, "b": "x"}}
    )
    series = place.client.get(f"/jobs/{job_id}/metrics").json()["series"]
    assert series[0] == {
        "phase": "finetune", "group": None, "name": "loss", "steps": [0, 1, 2, 3],
        "values": [1.0, 0.5, pytest.approx(1 / 3), 0.25],
    }  # fmt: skip
    assert [each["name"] for each in series] == ["loss", "a"]
    only = place.client.get(f"/jobs/{job_id}/metrics?names=a&max_points=2").json()["series"]
    assert [each["name"] for each in only] == ["a"]


def test_thinning_keeps_spikes() -> None:
    points = [(float(n), 1.0) for n in range(1000)]
    points[437] = (437.0, 99.0)
    kept = thin(points, 20)
    assert len(kept) <= 20 and (437.0, 99.0) in kept and kept == sorted(kept)
    assert thin(points, 1000) == points
