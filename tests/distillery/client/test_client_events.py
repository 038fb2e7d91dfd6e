"""Events come once each and in order, whatever happens to the connection."""

import pytest
from service_double import Answer, ServiceDouble, problem

from distillery.client import events
from distillery.client.client import Client
from distillery.errors import ServiceError


def frames(*rows: tuple[int, str, str]) -> bytes:
    return "".join(f"id: {n}\nevent: {kind}\ndata: {data}\n\n" for n, kind, data in rows).encode()


def stream(body: bytes, cut_after: int | None = None) -> Answer:
    return Answer(200, body, {"Content-Type": "text/event-stream"}, cut_after)


def test_a_broken_stream_goes_on_behind_the_last_event(
    client: Client, service: ServiceDouble, slept: list[float]
) -> None:
    first = b"retry: 3000\n: ping\n\n" + frames(
        (0, "snapshot", '{"status": "running"}'), (1, "status", '{"status": "queued"}'),
        (2, "status", '{"status": "running"}'), (3, "progress", '{"progress": {}}'),
    )  # fmt: skip
    second = frames(
        (2, "snapshot", '{"status": "running"}'), (2, "status", "{}"), (3, "done", "{}"),
        (4, "log", '{"message": "h\\u00e9"}'), (5, "done", "{}"),
    )  # fmt: skip
    service.script = [stream(first, len(first) - 10), stream(second)]
    seen = [(event.seq, event.kind) for event in client.jobs.events("job_1", after=0)]
    assert seen == [
        (0, "snapshot"), (1, "status"), (2, "status"), (2, "snapshot"), (3, "done"), (4, "log"),
        (5, "done"),
    ]  # fmt: skip
    assert service.asked[0].headers["last-event-id"] == "0"
    assert service.asked[1].headers["last-event-id"] == "2"
    assert service.asked[1].headers["accept"] == "text/event-stream"
    assert len(slept) == 1


def test_a_job_that_ended_long_ago_has_no_more_events(
    client: Client, service: ServiceDouble
) -> None:
    service.script = [Answer(204)]
    assert list(client.jobs.events("job_1", after=9)) == []
    assert service.asked[0].headers["last-event-id"] == "9"


def test_from_now_on(client: Client, service: ServiceDouble) -> None:
    first = frames((7, "snapshot", "{}"))
    service.script = [stream(first + b"id: 8", len(first)), stream(frames((7, "done", "{}")))]
    assert [event.kind for event in client.jobs.events("job_1")] == ["snapshot", "done"]
    assert "last-event-id" not in service.asked[0].headers
    assert service.asked[1].headers["last-event-id"] == "7"


def test_a_restarted_service_is_waited_for(
    client: Client, service: ServiceDouble, slept: list[float]
) -> None:
    service.script = [
        problem(503, "not_ready", "starting"), problem(429, "too_many_streams", "200 are open"),
        stream(frames((1, "done", "{}"))),
    ]  # fmt: skip
    assert [event.kind for event in client.jobs.events("job_1")] == ["done"]
    assert len(slept) == 2


def test_patience_ends(
    client: Client, service: ServiceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PATIENCE_S", -1.0)
    service.handler = lambda _: problem(503, "not_ready", "starting")
    with pytest.raises(ServiceError, match="starting"):
        list(client.jobs.events("job_1"))
    service.close()
    with pytest.raises(ServiceError, match="no service answers"), Client(service.url) as late:
        list(late.jobs.events("job_1"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(404, "not_found", "no job job_1"), "no job job_1"),
        (stream(b"id: 1\nevent: log\ndata: {broken\n\n"), "not JSON"),
    ],
)
def test_what_no_patience_mends(
    client: Client, service: ServiceDouble, answer: Answer, words: str
) -> None:
    service.script = [answer]
    with pytest.raises(ServiceError, match=words):
        list(client.jobs.events("job_1"))
    assert len(service.asked) == 1
