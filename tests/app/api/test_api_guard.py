import io
import json
import logging
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.app import MAX_BODY_BYTES, build_api
from app.api.logs import JsonLines, log_json
from app.api.views import worker_json
from tests.app.api.conftest import BASE, Place

HEADERS = {
    "x-content-type-options": "nosniff", "x-frame-options": "DENY",
    "referrer-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
}  # fmt: skip
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", ["/", "/jobs", "/nothing", "/health/live", "/docs", "/login"])
def test_every_answer_has_the_headers_of_security(place: Place, path: str) -> None:
    answer = place.client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
    assert "access-control-allow-origin" not in answer.headers and "server" not in answer.headers


def test_requests_have_ids(place: Place) -> None:
    given = place.client.get("/jobs", headers={"X-Request-Id": "my-request-1"})
    assert given.headers["x-request-id"] == "my-request-1"
    for odd in ("x", "a b c d e f g h", "<script>alert(1)", "a" * 65):
        made = place.client.get("/nothing", headers={"X-Request-Id": odd})
        assert made.headers["x-request-id"].startswith("req_")
        assert made.json()["request_id"] == made.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("GET", "/jobs/", {}, 404, "not_found"),
        ("PUT", "/jobs", {}, 405, "method_not_allowed"),
        ("TRACE", "/jobs", {}, 405, "method_not_allowed"),
        ("OPTIONS", "/jobs", {}, 405, "method_not_allowed"),
        ("DELETE", "/jobs", {}, 405, "method_not_allowed"),
        ("POST", "/jobs", {"content": b"{", "headers": JSON}, 400, "malformed_json"),
        ("POST", "/jobs", {"content": b"\xff\xfe", "headers": JSON}, 400, "malformed_json"),
        ("POST", "/jobs", {"content": b"[" * 60_000, "headers": JSON}, 400, "malformed_json"),
        ("POST", "/jobs", {"content": b"9" * 5_000, "headers": JSON}, 400, "malformed_json"),
        ("POST", "/jobs", {"content": b"", "headers": JSON}, 422, "validation_failed"),
        ("POST", "/jobs", {"content": b"null", "headers": JSON}, 422, "validation_failed"),
        ("POST", "/jobs", {"content": b"[]", "headers": JSON}, 422, "validation_failed"),
        ("POST", "/jobs", {"content": b'"x"', "headers": JSON}, 422, "validation_failed"),
        ("POST", "/jobs", {"content": b'{"refine": {"learning_rate": NaN}}', "headers": JSON},
         422, "validation_failed"),
        ("POST", "/jobs", {"content": b'{"name": "\\ud800"}', "headers": JSON},
         422, "validation_failed"),
        ("POST", "/jobs", {"content": b"{}"}, 415, "unsupported_media_type"),
        ("POST", "/jobs", {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
         415, "unsupported_media_type"),
        ("POST", "/jobs", {"data": {"ipc": "3"}}, 415, "unsupported_media_type"),
        ("POST", "/jobs", {"content": b" " * (MAX_BODY_BYTES + 1), "headers": JSON},
         413, "payload_too_large"),
        ("POST", "/jobs", {"json": {}, "headers": {"Content-Length": "x"}},
         400, "malformed_request"),
        ("POST", "/jobs", {"json": {}, "headers": {"Content-Length": "9" * 30}},
         413, "payload_too_large"),
        ("POST", "/jobs", {"json": {}, "headers": {"Idempotency-Key": "x" * 65}},
         422, "validation_failed"),
        ("POST", "/jobs", {"json": {}, "headers": {"Idempotency-Key": "a b"}},
         422, "validation_failed"),
        ("GET", "/jobs?after=1%27%20OR%201=1", {}, 422, "validation_failed"),
        ("GET", "/jobs?limit=0", {}, 422, "validation_failed"),
        ("GET", "/jobs?limit=1e9", {}, 422, "validation_failed"),
        ("GET", "/static/../app.py", {}, 404, "not_found"),
        ("GET", "/static/%2e%2e/%2e%2e/app/settings.py", {}, 404, "not_found"),
        ("POST", "/login", {"json": {"key": "x" * 201}}, 422, "validation_failed"),
    ],
)  # fmt: skip
def test_refusals_have_one_form(
    place: Place, method: str, path: str, sent: Any, status: int, code: str
) -> None:
    answer = place.client.request(method, path, **sent)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["type"] == f"urn:distillery:problem:{code}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["detail"] and "Traceback" not in answer.text
    if status == 405:
        assert answer.headers["allow"] == "GET, HEAD, POST"


def test_a_body_without_a_length_is_limited_too(place: Place) -> None:
    blocks = (b" " * 1000 for _ in range(MAX_BODY_BYTES // 1000 + 2))
    answer = place.client.post("/jobs", content=blocks, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


def test_a_crash_tells_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"secret {place.settings.data}")

    place.store.num_queued = crash  # type: ignore[method-assign,assignment]
    place.store.counts = crash  # type: ignore[method-assign,assignment]
    with caplog.at_level(logging.ERROR):
        answer = place.client.post("/jobs", json={})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert "secret" in caplog.text  # the operator sees it
    ready = place.client.get("/health/ready")
    assert ready.status_code == 503 and "secret" not in ready.text


def test_browsers_get_a_page_to_log_in(place: Place) -> None:
    answer = place.anonymous().get("/", headers={"Accept": "text/html"})
    assert answer.status_code == 401 and "text/html" in answer.headers["content-type"]
    assert "Log in" in answer.text


def test_figures_for_prometheus(place: Place) -> None:
    done, _ = place.make(), place.make()
    place.store.change(done, expect={"queued"}, status="running")
    phases = [
        {"name": "base", "seconds": 4.0, "cached": False},
        {"name": "prepare", "seconds": 9.0, "cached": True},
    ]
    place.store.change(done, expect={"running"}, status="succeeded", phases=phases)
    place.service.workers.start("w1", "b", {"gpu_memory_used_bytes": 5})
    for _ in range(2):  # the second look counts nothing twice
        text = place.client.get("/metrics").text
    for line in (
        "distillery_queue_depth 1.0", 'distillery_jobs{status="succeeded"} 1.0',
        'distillery_stage_duration_seconds_count{stage="base"} 1.0',
        'distillery_gpu_memory_used_bytes{worker="w1"} 5.0',
        'distillery_jobs_ended_total{status="succeeded"} 1.0',
    ):  # fmt: skip
        assert line in text, line
    assert 'stage="prepare"' not in text
    assert 'route="/jobs",status="202"' in text
    assert "distillery_worker_last_heartbeat_timestamp_seconds" in text
    assert done not in text  # no label grows with the jobs


def test_workers_are_told_with_their_state(place: Place) -> None:
    place.service.workers.start("idle", "b", {"job": None})
    place.service.workers.start("busy", "b", {"job": "job_x"})
    place.service.workers.start("gone", "b", {})
    place.service.workers.stop("gone", "b")
    found = {w["id"]: w["status"] for w in place.client.get("/workers").json()["data"]}
    assert found == {"idle": "ready", "busy": "busy", "gone": "stopped"}
    busy = place.service.workers.get("busy")
    assert busy is not None and worker_json(busy, dead_after_s=-1.0)["status"] == "lost"


def test_logs_are_json_lines_with_ids_and_no_secrets(place: Place) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        log_json(stream)
        job_id = place.make(name="x")
        place.client.get(f"/jobs/{job_id}", headers={"X-Request-Id": "my-request-1"})
        place.client.get(f"/nothing?token={place.key}")
    finally:
        root.handlers[:], root.level = before
        logging.getLogger("uvicorn.access").disabled = False
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert any(
        line.get("request_id") == "my-request-1" and line.get("job_id") == job_id for line in lines
    )
    assert place.key not in stream.getvalue()


def test_the_formatter_hides_keys_and_keeps_one_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "key dst_%s\nnext", ("a" * 40,), None)
    line = JsonLines().format(record)
    assert "\n" not in line and "aaaa" not in line and json.loads(line)["message"].endswith("next")


def test_two_applications_are_apart(place: Place, settings: Any) -> None:
    other = build_api(settings, place.service)
    with TestClient(other, base_url=BASE, headers=dict(place.client.headers)) as client:
        assert client.get("/jobs").status_code == 200
    assert place.client.get("/jobs").status_code == 200
