"""Requests: what is repeated, with which key and after how long; what a refusal says."""

import subprocess
import sys
from email.utils import format_datetime

import pytest
from service_double import Answer, Asked, ServiceDouble, problem, reply

import distillery
from distillery.client.client import Client
from distillery.errors import ConfigError, ServiceError, WaitTimeout

JOB = {"id": "job_1", "status": "queued", "progress": None, "phase": None}


def test_the_client_imports_no_torch_and_only_when_asked_for() -> None:
    script = (
        "import sys, distillery\n"
        "assert not {'numpy', 'httpx2'} & sys.modules.keys()\n"
        "distillery.Client()\n"
        "assert not {'torch', 'pandas', 'fastapi', 'app'} & sys.modules.keys(), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError):
        distillery.Clinet  # noqa: B018


def test_a_job_is_created_with_a_key_of_its_own(client: Client, service: ServiceDouble) -> None:
    service.script = [reply(JOB, 202), reply(JOB, 202)]
    job = client.jobs.create(dataset="digits", ipc=10, preset="smoke")
    client.jobs.create(dataset="digits")
    first, second = service.asked
    assert (first.method, first.path) == ("POST", "/jobs")
    assert first.body == b'{"dataset":"digits","ipc":10,"preset":"smoke"}'
    assert second.body == b'{"dataset":"digits"}'
    assert first.headers["authorization"] == "Bearer dst_key"
    assert len(first.headers["idempotency-key"]) == 36
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]
    assert job.status == "queued" and not job.is_finished and repr(job) == "<Job job_1: queued>"


def test_a_retry_repeats_the_same_key(
    client: Client, service: ServiceDouble, slept: list[float]
) -> None:
    service.script = [
        Answer(502, b"bad gateway"),
        problem(409, "idempotency_in_progress", "still working"),
        reply(JOB, 202),
    ]
    assert client.jobs.create("digits", 1).id == "job_1"
    assert len({asked.headers["idempotency-key"] for asked in service.asked}) == 1
    assert 0.3 < slept[0] <= 0.5 < slept[1] <= 1.0


def test_the_service_says_how_long_to_wait(
    client: Client, service: ServiceDouble, slept: list[float]
) -> None:
    from datetime import UTC, datetime, timedelta

    busy = problem(429, "rate_limited", "slow down")
    busy.headers["Retry-After"] = "7"
    dated = problem(503, "not_ready", "starting")
    dated.headers["Retry-After"] = format_datetime(datetime.now(UTC) + timedelta(seconds=20))
    odd = problem(503, "not_ready", "starting")
    odd.headers["Retry-After"] = "soon"
    service.script = [busy, dated, odd, reply(JOB)]
    client.jobs.get("job_1")
    assert slept[0] == 7 and 17 < slept[1] <= 20 and slept[2] <= 2


def test_longer_patience_than_a_minute_is_the_callers_own(
    client: Client, service: ServiceDouble, slept: list[float]
) -> None:
    full = problem(429, "queue_full", "100 jobs wait already")
    full.headers["Retry-After"] = "3600"
    service.script = [full]
    with pytest.raises(ServiceError, match="100 jobs wait already") as refused:
        client.jobs.create("digits", 1)
    assert refused.value.code == "queue_full" and refused.value.status == 429 and not slept


def test_a_refusal_is_one_sentence_with_its_fields(client: Client, service: ServiceDouble) -> None:
    fields = [{"pointer": "#/ipcc", "detail": "unknown field; did you mean 'ipc'?"}]
    service.script = [problem(422, "validation_failed", "1 field needs attention.", errors=fields)]
    with pytest.raises(ServiceError) as refused:
        client.jobs.create("digits", ipcc=1)
    error = refused.value
    assert str(error) == "1 field needs attention; ipcc: unknown field; did you mean 'ipc'?"
    assert (error.code, error.status, error.request_id) == ("validation_failed", 422, "req_1")
    assert len(service.asked) == 1  # it would be refused again


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(401, "unauthorized", "No key was given"), "DISTILLERY_API_KEY"),
        (Answer(404, b"<html>", {"Content-Type": "text/html"}), "not by a Distillery service"),
        (Answer(404, b"{", {"Content-Type": "application/problem+json"}), "answered 404"),
        (Answer(307, b"", {"Location": "http://elsewhere/"}), "'http://elsewhere/'"),
    ],
)
def test_refusals_say_what_to_do(
    client: Client, service: ServiceDouble, answer: Answer, words: str
) -> None:
    service.script = [answer]
    with pytest.raises(ServiceError, match="(?i)service|key") as refused:
        client.jobs.get("job_1")
    assert words in str(refused.value)


def test_nobody_at_the_address() -> None:
    double = ServiceDouble()
    double.close()
    client = Client(double.url, max_retries=1)
    client._transport.sleep = lambda _: None
    with pytest.raises(ServiceError, match="no service answers at .*distillery serve") as refused:
        client.jobs.get("job_1")
    assert refused.value.code == "unreachable" and refused.value.status is None


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://a:b@host"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        Client(url)


@pytest.mark.parametrize("key", ["", "two words", "clé", "line\nbreak"])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        Client(api_key=key)


def test_names_stay_names_in_a_path(client: Client, service: ServiceDouble) -> None:
    service.script = [reply(JOB)]
    client.jobs.get("../keys?x#y")
    assert service.asked[0].path == "/jobs/..%2Fkeys%3Fx%23y"


def test_a_list_goes_over_pages(client: Client, service: ServiceDouble) -> None:
    def page(asked: Asked) -> Answer:
        is_first = "after" not in asked.path
        data = [JOB | {"id": "a"}, JOB | {"id": "b"}] if is_first else [JOB | {"id": "c"}]
        return reply({"data": data, "has_more": is_first, "next": "b" if is_first else None})

    service.handler = page
    jobs = list(client.jobs.list(status="failed", metadata={"team": "x"}))
    assert [job.id for job in jobs] == ["a", "b", "c"]
    assert "status=failed" in service.asked[0].path and "metadata%5Bteam%5D=x" in (
        service.asked[0].path.replace("[", "%5B").replace("]", "%5D")
    )
    assert "after=b" in service.asked[1].path and "status=failed" in service.asked[1].path
    assert [job.id for job in client.jobs.list(limit=1)] == ["a"]


def test_waiting_holds_the_line_and_ends_with_the_job(
    client: Client, service: ServiceDouble
) -> None:
    held = reply(JOB | {"status": "running"}, Preference_Applied="wait=30")
    service.script = [
        held,
        reply(JOB | {"status": "failed", "error": {"message": "no", "hint": "h"}}),
    ]
    job = client.jobs.wait("job_1")
    assert job.status == "failed" and job.reason() == "it failed: no; h"
    assert service.asked[0].headers["prefer"] == "wait=30"


def test_waiting_has_an_end_of_its_own(client: Client, service: ServiceDouble) -> None:
    service.handler = lambda _: reply(JOB)
    with pytest.raises(WaitTimeout, match="still queued after 0 s"):
        client.jobs.wait("job_1", timeout_s=0)


def test_the_verbs_of_a_job(client: Client, service: ServiceDouble) -> None:
    service.handler = lambda asked: Answer(204) if asked.method == "DELETE" else reply(JOB)
    job = client.jobs.get("job_1").refresh().cancel().retry()
    job.delete()
    assert [f"{asked.method} {asked.path}" for asked in service.asked] == [
        "GET /jobs/job_1", "GET /jobs/job_1", "POST /jobs/job_1/cancel", "POST /jobs/job_1/retry",
        "DELETE /jobs/job_1",
    ]  # fmt: skip


def test_an_estimate_takes_what_a_job_takes(client: Client, service: ServiceDouble) -> None:
    service.script = [reply({"object": "estimate"})]
    assert client.estimate("digits", 1, preset="smoke") == {"object": "estimate"}
    assert service.asked[0].path == "/estimates" and repr(client) == f"Client('{service.url}')"
