"""Random requests, right and wrong, against the OpenAPI document: nothing undocumented comes."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.api.problems import Problem
from tests.app.api.conftest import Place

CHECKS: list[Any] = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_headers_conformance, response_schema_conformance, unsupported_method,
]  # fmt: skip
FACTS = {
    "classes": 2, "class_names": ["a", "b"], "images": 9, "smallest_class": 3, "image_size": 8,
    "is_gray": True, "bad_images": 0, "images_looked_at": 9,
}  # fmt: skip
OPERATIONS = [
    "POST /jobs", "GET /jobs", "GET /jobs/{job_id}", "POST /jobs/{job_id}/cancel",
    "POST /jobs/{job_id}/retry", "DELETE /jobs/{job_id}", "GET /jobs/{job_id}/events",
    "GET /jobs/{job_id}/metrics", "GET /jobs/{job_id}/files", "GET /jobs/{job_id}/files/{path}",
    "HEAD /jobs/{job_id}/files/{path}", "GET /jobs/{job_id}/bundle", "HEAD /jobs/{job_id}/bundle",
    "GET /jobs/{job_id}/report", "GET /jobs/{job_id}/logs", "POST /estimates", "GET /datasets",
    "POST /datasets", "GET /datasets/{name}", "DELETE /datasets/{name}", "GET /models",
    "GET /workers", "GET /metrics", "GET /health/live", "GET /health/ready", "POST /login",
    "POST /logout",
]  # fmt: skip


@pytest.fixture
def changes() -> dict[str, Any]:
    return {
        "is_auth_on": False,
        "max_requests_per_s": 0.0,
        "max_queued": 10**6,
        "allowed_hosts": ("*",),
    }


@pytest.fixture
def schema(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def ask(task: dict[str, Any], **_: Any) -> dict[str, Any]:
        if task["kind"] == "dataset":
            return dict(FACTS)
        raise Problem("dataset_unsupported", "not in this test")

    app: Any = place.client.app
    monkeypatch.setattr(type(app.state.api.children), "ask", lambda self, task, **k: ask(task))
    yield schemathesis.openapi.from_asgi("/openapi.json", app)


def call_many(place: Place, schema: Any, label: str, count: int) -> None:
    """Send `count` random requests of both kinds to an operation, half of them about real jobs."""
    method, _, path = label.partition(" ")
    operation = schema[path][method]
    ended, waiting = place.make(), place.make()
    place.finish(ended)
    jobs = [ended] if path.endswith(("/events", "{job_id}")) else [ended, waiting]
    strategies = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
    cases = st.one_of(strategies)

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases, job_id=st.sampled_from([None, *jobs]))
    def send(case: Case, job_id: str | None) -> None:
        if job_id is not None and "job_id" in (case.path_parameters or {}):
            case.path_parameters["job_id"] = job_id
            if place.store.get(job_id) is None:
                return  # deleted by an earlier example
        case.call_and_validate(checks=CHECKS)

    send()


@pytest.mark.parametrize("label", OPERATIONS)
def test_random_requests(place: Place, schema: Any, label: str) -> None:
    call_many(place, schema, label, 4)


@pytest.mark.slow
@pytest.mark.parametrize("label", OPERATIONS)
def test_many_random_requests(place: Place, schema: Any, label: str) -> None:
    call_many(place, schema, label, 400)


def test_no_operation_is_left_out(schema: Any) -> None:
    labels = {operation.ok().label for operation in schema.get_all_operations()}
    assert labels == set(OPERATIONS)
