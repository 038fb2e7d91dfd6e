"""Texts in addresses and bodies that a database may not take."""

import json
from dataclasses import replace

from starlette.testclient import TestClient

from app.api.app import build_api
from tests.app.api.conftest import BASE, Place, open_place

JSON = {"Content-Type": "application/json"}
JOB = "job_" + "0" * 26
NULS = [
    "/jobs?dataset=%00", "/jobs?metadata[a]=%00", "/jobs?after=%00", "/jobs/%00", "/datasets/%00",
    f"/jobs/{JOB}%00", f"/jobs/{JOB}/files/job.log%00.png", f"/jobs/{JOB}/metrics?names=%00",
    "/datasets?name=a%00b", "/login?token=%00", "/?after=%00", "/new?from=%00", "/ui/jobs/%00",
    "/ui/jobs/%00/result", "/ui/jobs/%00/strip.png", "/static/%00.css", "/health/live?%00",
]  # fmt: skip


def test_addresses_with_a_nul(place: Place) -> None:
    for address in NULS:
        refused = place.client.get(address)
        assert (refused.status_code, refused.json()["code"]) == (400, "malformed_request"), address
        page = place.client.get(address, headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["content-type"]) == (400, "text/html; charset=utf-8")
        assert "NUL character" in page.text


ODD = ["%00", "%FF", "%ED%A0%80", "%EF%BF%BF", "%5C0"]
PLACES = [
    "/jobs?dataset={}", "/jobs?metadata[a{0}]={0}", "/jobs?after={}", "/jobs/{}", "/datasets/{}",
    "/?after={}", "/?status={}", "/new?from={}", "/new?dataset={0}&set={0}={0}", "/ui/jobs/{}",
    "/ui/jobs/{}/result", "/ui/jobs/{}/classes/0", "/ui/jobs/{}/images/0.png",
]  # fmt: skip


def test_odd_texts_on_postgres(place: Place, postgres_url: str) -> None:
    """Postgres refuses texts that SQLite takes: no route may hand them on."""
    settings = replace(place.settings, database_url=postgres_url, max_requests_per_s=0)
    service, _ = open_place(settings)
    _, key = service.keys.create("test")
    try:
        with TestClient(
            build_api(settings, service), BASE, raise_server_exceptions=False
        ) as client:
            client.headers["Authorization"] = f"Bearer {key}"
            for address in [each.format(text) for each in PLACES for text in ODD]:
                assert client.get(address).status_code < 500, address
            for body in ({"name": "\ud800"}, {"metadata": {"a": "\0"}}, {"dataset": "a\0/b"}):
                answer = client.post("/jobs", content=json.dumps(body), headers=JSON)
                assert answer.status_code == 422, body
    finally:
        service.database.dispose()
