"""What a hostile caller may send, and the refusal that each gets: never a crash, never a secret."""

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api import inspect as child
from app.api.app import build_api
from app.settings import read_settings
from distillery.errors import DistilleryError
from tests.app.api.conftest import BASE, Place, open_place
from tests.app.api.hostile_files import REFUSED

ZIP, JSON = {"Content-Type": "application/zip"}, {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service that many attacks share: it must bear them all."""
    root = tmp_path_factory.mktemp("hostile")
    mounted = root / "mounted"
    (mounted / "pets" / "cat").mkdir(parents=True)
    (mounted / "planted").symlink_to("/etc")
    settings = read_settings({
        "HOME": str(root), "DISTILLERY_DATA": str(root / "data"), "PATH": "/usr/bin:/bin",
        "DISTILLERY_DATASETS": str(mounted), "DISTILLERY_DISK_FLOOR_BYTES": "1000",
    })  # fmt: skip
    settings = replace(settings, max_requests_per_s=0, max_queued=1000, max_upload_bytes=2**22)
    service, _ = open_place(settings)
    _, key = service.keys.create("test")
    app = build_api(service.settings, service)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield Place(client, service, key)
    service.database.dispose()


def check(answer: Any, status: int, code: str | None, place: Place) -> None:
    """Assert a refusal's form: problem document, code, and nothing of this machine in it."""
    assert answer.status_code == status, (answer.status_code, answer.text[:300])
    root = str(place.settings.data.parent)
    told = answer.text.lower()
    assert root not in answer.text and "traceback" not in told and place.key not in answer.text
    assert "site-packages" not in told and "sqlalchemy" not in told and "root:x:" not in told
    if code is not None:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["code"] == code and problem["status"] == status and problem["detail"]
        assert problem["request_id"] == answer.headers["x-request-id"]


V, J, D = (422, "validation_failed"), (400, "malformed_json"), (422, "dataset_not_found")
R, N, U = (400, "malformed_request"), (404, "not_found"), (415, "unsupported_media_type")
BODIES: list[tuple[bytes, tuple[int, str]]] = [
    (b"", V), (b"{", J), (b"[]", V), (b"null", V), (b'"digits"', V), (b"\xff\xfe{}", J),
    (b'{"ipc": NaN}', V), (b'{"ipc": 1e999}', V), (b"[" * 20_000, J), (b'{"a":' * 5_000, J),
    (b'{"ipc": 0}', V), (b'{"ipc": -1}', V), (b'{"ipc": 1000000000}', V), (b'{"ipc": "10"}', V),
    (b'{"ipc": 10.5}', V), (b'{"ipc": true}', V), (b'{"ipc": [1]}', V),
    (b'{"ipcc": 10}', V), (b'{"status": "succeeded"}', V), (b'{"id": "job_x"}', V),
    (b'{"result": {}}', V), (b'{"refine": {"num_stepz": 1}}', V), (b'{"refine": []}', V),
    (b'{"seed": 100000000000000000000}', V), (b'{"num_threads": 1000000}', V),
    (b'{"priority": 0}', V), (b'{"priority": 10}', V), (b'{"name": "a\\nb"}', V),
    (b'{"name": "\\u001b[2J"}', V), (json.dumps({"name": "x" * 201}).encode(), V),
    (json.dumps({"metadata": {str(n): "" for n in range(17)}}).encode(), V),
    (json.dumps({"metadata": {"k" * 65: ""}}).encode(), V), (b'{"metadata": {"k": 1}}', V),
    (b'{"base": {"reference": "/etc/passwd"}}', (422, "model_unsupported")),
    (b'{"base": {"reference": "../../model"}}', (422, "model_unsupported")),
    (b'{"base": {"reference": "http://169.254.169.254/latest"}}', (422, "model_unsupported")),
    (b'{"label": {"teacher": "file:///etc/passwd"}}', (422, "model_unsupported")),
    (b'{"base": {"allow_download": true}}', (422, "download_not_allowed")),
    (b'{"data": {"dataset": "/etc"}}', V),
    (b'{"webhook": {"url": "http://127.0.0.1"}}', V),
    (b" " * 70_000, (413, "payload_too_large")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "refusal"), BODIES, ids=[f"{n}-{body[:24]!r}" for n, (body, _) in enumerate(BODIES)]
)
def test_bodies(place: Place, body: bytes, refusal: tuple[int, str]) -> None:
    for path in ("/jobs", "/estimates"):  # an estimate fails exactly where the job would
        answer = place.client.post(path, content=body, headers=JSON)
        check(answer, *refusal, place)
    assert place.store.counts()["queued"] == 0


NAMES = [
    "../etc", "..", ".", "/etc/passwd", "pets/../../etc", "%2e%2e%2fetc", "..\\etc",
    "C:\\windows", "file:///etc/passwd", "http://169.254.169.254/", "pets\u2044cat",
    "\uff0e\uff0e/etc",
    "planted", "pets ", "-rf", "~root", "$HOME", "'; DROP TABLE jobs; --",
    "owner/name@../../x", "a--b/c", "owner/../name",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_datasets(place: Place, name: str) -> None:
    for dataset in (name, {"type": "folder", "id": name}, {"type": "upload", "id": name}):
        check(place.client.post("/jobs", json={"dataset": dataset}), *D, place)
    assert place.store.counts()["queued"] == 0


@pytest.mark.parametrize("dataset", [
    "", "x" * 301, "a\x00b", "a\nb", 7, None, [], {"type": "url", "id": "http://x"}, {"id": "x"},
    {"type": "hub", "id": "a/b", "revision": "../../main?x"},
    {"type": "folder", "id": "pets", "path": "/etc"},
])  # fmt: skip
def test_forms_of_datasets(place: Place, dataset: Any) -> None:
    answer = place.client.post("/jobs", json={"dataset": dataset})
    if dataset is None:  # the same as not named
        assert answer.status_code in (202, 422)
        for job in place.store.list(status="queued")[0]:
            place.store.change(job.id, expect={"queued"}, status="canceled")
        return
    check(answer, *V, place)


HEADERS: list[tuple[str, str, dict[str, str], tuple[int, str | None]]] = [
    ("GET", "/jobs", {"Host": "evil.example"}, (400, "invalid_host")),
    ("GET", "/jobs", {"Host": "localhost.evil.example"}, (400, "invalid_host")),
    ("GET", "/jobs", {"Host": "localhost:80:80"}, (400, "invalid_host")),
    ("GET", "/jobs", {"Host": "local host"}, (400, "invalid_host")),
    ("GET", "/jobs", {"Host": ""}, (400, "invalid_host")),
    ("GET", "/health/live", {"Host": "rebound.example"}, (400, "invalid_host")),
    ("POST", "/jobs", {"Origin": "https://evil.example"}, (403, "cross_origin")),
    ("POST", "/jobs", {"Origin": "null"}, (403, "cross_origin")),
    ("POST", "/jobs", {"Origin": "http://localhost:1"}, (403, "cross_origin")),
    ("POST", "/jobs", {"Origin": "http://[bad"}, (403, "cross_origin")),
    ("POST", "/jobs", {"Content-Type": "text/plain"}, U),
    ("POST", "/jobs", {"Content-Type": "application/x-www-form-urlencoded"}, U),
    ("POST", "/jobs", {"Content-Type": "multipart/form-data; boundary=x"}, U),
    ("POST", "/jobs", {**JSON, "Idempotency-Key": "k" * 65}, V),
    ("POST", "/jobs", {**JSON, "Idempotency-Key": ""}, V),
    ("POST", "/jobs", {**JSON, "Content-Length": "1e3"}, R),
    ("POST", "/jobs", {**JSON, "Content-Length": "-1"}, R),
    ("POST", "/jobs", {**JSON, "Content-Length": "9" * 20}, (413, "payload_too_large")),
    ("PUT", "/jobs", {}, (405, "method_not_allowed")),
    ("TRACE", "/jobs", {}, (405, "method_not_allowed")),
    ("PATCH", "/health/live", {}, (405, "method_not_allowed")),
    ("GET", "/jobs?limit=0", {}, V), ("GET", "/jobs?limit=101", {}, V),
    ("GET", "/jobs?limit=ten", {}, V), ("GET", "/jobs?status=bogus", {}, V),
    ("GET", "/jobs?after=' OR 1=1", {}, V),
    ("GET", "/jobs/job_1", {}, N), ("GET", "/jobs/%27%20OR%201=1", {}, N),
    ("GET", "/jobs/" + "x" * 5_000, {}, N),
    ("GET", "/jobs/..%2f..%2fetc%2fpasswd", {}, N),
    ("GET", "/jobs/job_00000000000000000000000000", {}, N),
    ("GET", "/static/..%2f..%2fapi%2fauth.py", {}, N),
    ("GET", "/static/%2e%2e/%2e%2e/settings.py", {}, N),
    ("GET", "/datasets/..%2f..", {}, N),
    ("GET", "/datasets/planted", {}, N),
    ("DELETE", "/datasets/digits", {}, (403, "forbidden")),
    ("DELETE", "/datasets/pets", {}, (403, "forbidden")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "headers", "refusal"), HEADERS,
    ids=[f"{n}-{row[0]}-{row[1][:30]}" for n, row in enumerate(HEADERS)],
)  # fmt: skip
def test_headers_methods_and_addresses(
    place: Place, method: str, path: str, headers: dict[str, str], refusal: tuple[int, str | None]
) -> None:
    content = b"{}" if method == "POST" else None
    check(place.client.request(method, path, headers=headers, content=content), *refusal, place)


def test_tokens(place: Place) -> None:
    record, revoked = place.service.keys.create("gone")
    place.service.keys.revoke(record.id)
    import hashlib

    hashed = hashlib.sha256(place.key.encode()).hexdigest()
    wrong: list[dict[str, Any]] = [
        {}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
        {"Authorization": place.key}, {"Authorization": f"Basic {place.key}"},
        {"Authorization": f"Bearer {place.key}x"}, {"Authorization": f"Bearer {place.key[:-1]}"},
        {"Authorization": f"Bearer {place.key.upper()}"}, {"Authorization": f"Bearer {revoked}"},
        {"Authorization": f"Bearer {hashed}"}, {"Authorization": "Bearer dst_' OR '1'='1"},
        {"Authorization": b"Bearer dst_\xff\xfe"}, {"Authorization": "Bearer dst_" + "x" * 5_000},
        {"Cookie": "distillery_session=9999999999.x.0000"}, {"Cookie": "distillery_session="},
        {"Cookie": f"distillery_session={place.key}"},
    ]  # fmt: skip
    anonymous = TestClient(place.client.app, base_url=BASE, raise_server_exceptions=False)
    for headers in wrong:
        answer = anonymous.get("/jobs", headers=headers)
        check(answer, 401, "unauthorized", place)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert anonymous.get("/jobs", params={"key": place.key}).status_code == 401
    assert place.client.get("/jobs").status_code == 200  # a good key is not shut out by bad ones


def test_wrong_keys_cannot_be_tried_for_ever(place: Place) -> None:
    anonymous = TestClient(place.client.app, base_url=BASE, client=("198.51.100.7", 1))
    codes = [
        anonymous.get("/jobs", headers={"Authorization": f"Bearer dst_{n}"}).status_code
        for n in range(40)
    ]
    assert codes[0] == 401 and codes[-1] == 429


def test_a_login_link_works_once_and_only_as_it_was_printed(place: Place) -> None:
    from app.api.auth import new_login_token

    token = new_login_token(place.settings.data)
    address = ("10.1.2.3", 50_000)  # one that has not guessed keys before
    browser = TestClient(place.client.app, BASE, follow_redirects=False, client=address)
    for wrong in (token[:-1], token + "x", token.swapcase(), "../" + token, "", "x" * 201, "%00"):
        assert browser.get("/login", params={"token": wrong}).status_code in (401, 422), wrong
    with ThreadPoolExecutor(8) as pool:
        urls = [f"/login?token={token}"] * 8
        codes = list(pool.map(lambda url: browser.get(url).status_code, urls))
    assert sorted(codes) == [303] + [401] * 7


RANGES = [
    ("bytes=99999999-", 416), ("bytes=-0", 416), ("bytes=5-2", 200), ("items=0-1", 200),
    ("bytes=a-b", 200), ("bytes=", 200), ("bytes=--1", 200), ("bytes=0-0,2-2", 200),
    ("bytes=" + ",".join(f"{n}-{n}" for n in range(1300)), 200),
    ("bytes=99999999999999999999999-", 200), ("bytes=0-99999999999999999999999", 200),
]  # fmt: skip


def test_ranges(place: Place) -> None:
    """What is no range is not heeded (RFC 9110, 14.2); what lies outside is refused."""
    job = place.make()
    content = (place.finish(job) / "distilled.safetensors").read_bytes()
    for text, status in RANGES:
        answer = place.client.get(f"/jobs/{job}/bundle", headers={"Range": text})
        assert answer.status_code == status, (text, answer.status_code)
        if status in (200, 206):
            assert answer.content == content
        else:
            check(answer, status, {416: "range_not_satisfiable", 422: V[1]}[status], place)


FILE_NAMES = [
    "../job.json", "..%2f..%2fqueue.sqlite", "%2e%2e/%2e%2e/queue.sqlite", "/etc/passwd",
    "%2fetc%2fpasswd", "planted", "data", "data/", "", "%2e/report.json",
    "data/%2e%2e/report.json", "report.json/", "REPORT.JSON", "distilled.safetensors%20",
    "stages/x",
]  # fmt: skip


def test_files_of_a_job(place: Place) -> None:
    job = place.make()
    bundle = place.finish(job)
    (bundle.parent / "job.json").write_text("{}")
    os.symlink("/etc/passwd", bundle / "planted")
    for name in FILE_NAMES:
        answer = place.client.get(f"/jobs/{job}/files/{name}")
        check(answer, 404, "not_found", place)
    listed = [file["path"] for file in place.client.get(f"/jobs/{job}/files").json()["data"]]
    assert "planted" not in listed and "job.json" not in listed


@pytest.fixture
def in_process(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspect here what a child process inspects otherwise: a start of Python for each is slow."""

    def run(task: dict[str, Any], *_: Any) -> dict[str, Any]:
        try:
            return child.TASKS[task["kind"]](json.loads(json.dumps(task)))
        except DistilleryError as error:
            return {"problem": child._problem(error, task)}

    monkeypatch.setattr(place.client.app.state.api.children, "_run", run)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_archives(place: Place, in_process: None, kind: str) -> None:
    content, name = REFUSED[kind](), kind.replace(" ", "-")
    tar = {"Content-Type": "application/x-tar"}
    before = files_below(place.settings.data.parent)
    answer = place.client.post(
        f"/datasets?name={name}", content=content, headers=tar if kind.startswith("tar") else ZIP
    )
    check(answer, 422, "dataset_unsupported", place)
    assert place.client.get(f"/datasets/{name}").status_code == 404
    assert files_below(place.settings.data.parent) == before  # nothing is left, inside or outside


def files_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and "sqlite" not in path.name}


@pytest.mark.parametrize("name", ["../x", "", ".", "..", "a/b", "a\\b", "-rf", "é", "x" * 64])
def test_names_of_uploads(place: Place, name: str) -> None:
    content = REFUSED["one class"]()
    check(
        place.client.post("/datasets", params={"name": name}, content=content, headers=ZIP),
        *V,
        place,
    )


@pytest.mark.parametrize(("headers", "size", "refusal"), [
    (ZIP, 2**22 + 1, (413, "upload_too_large")),
    ({"Content-Type": "text/html"}, 10, (415, "unsupported_media_type")),
    ({"Content-Type": "application/x-python-pickle"}, 10, (415, "unsupported_media_type")),
])  # fmt: skip
def test_uploads_that_are_not_even_taken(
    place: Place, headers: dict[str, str], size: int, refusal: tuple[int, str]
) -> None:
    answer = place.client.post("/datasets?name=evil", content=b"\0" * size, headers=headers)
    check(answer, *refusal, place)


def test_concurrent_duplicates_make_one_job(place: Place) -> None:
    before = len(place.store.list(limit=100)[0])
    headers = {"Idempotency-Key": "the-same-for-all"}
    start = threading.Barrier(12)

    def send(number: int) -> Any:
        start.wait()
        return place.client.post("/jobs", json={"dataset": "digits"}, headers=headers)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(send, range(12)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert {answer.status_code for answer in answers} <= {202, 409} and len(made) == 1
    assert len(place.store.list(limit=100)[0]) == before + 1
    other = place.client.post("/jobs", json={"dataset": "digits", "ipc": 2}, headers=headers)
    check(other, 422, "idempotency_key_reused", place)


def in_state(place: Place, status: str) -> str:
    job = place.make()
    steps = {
        "queued": (), "running": ("running",), "canceling": ("running", "canceling"),
        "succeeded": ("running", "succeeded"), "failed": ("running", "failed"),
        "canceled": ("canceled",),
    }[status]  # fmt: skip
    before = "queued"
    for step in steps:
        assert place.store.change(job, expect={before}, status=step)  # type: ignore[arg-type]
        before = step
    return job


STATES = [
    # status, after cancel, retry, delete
    ("queued", "canceled", 409, 409), ("running", "canceling", 409, 409),
    ("canceling", "canceling", 409, 409), ("succeeded", "succeeded", 409, 204),
    ("failed", "failed", 202, 204), ("canceled", "canceled", 202, 204),
]  # fmt: skip


@pytest.mark.parametrize(("status", "after", "retry", "delete"), STATES)
def test_verbs_in_every_state(
    place: Place, status: str, after: str, retry: int, delete: int
) -> None:
    job = in_state(place, status)
    for _ in range(2):  # asking again changes nothing
        answer = place.client.post(f"/jobs/{job}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, after)
    job = in_state(place, status)
    retry_code = "job_not_retryable" if status == "succeeded" else "job_not_terminal"
    answer = place.client.post(f"/jobs/{job}/retry")
    check(answer, retry, retry_code if retry == 409 else None, place)
    job = in_state(place, status)
    answer = place.client.delete(f"/jobs/{job}")
    check(answer, delete, "job_not_terminal" if delete == 409 else None, place)
    assert (place.client.get(f"/jobs/{job}").status_code == 404) == (delete == 204)


def test_many_cancels_at_once_are_one(place: Place) -> None:
    job = in_state(place, "running")
    with ThreadPoolExecutor(10) as pool:
        urls = [f"/jobs/{job}/cancel"] * 10
        answers = list(pool.map(place.client.post, urls))
    assert {(a.status_code, a.json()["status"]) for a in answers} == {(200, "canceling")}
    kinds = [e.data.get("status") for e in place.store.events(job, after=0) if e.kind == "status"]
    assert kinds.count("canceling") == 1


def test_many_retries_at_once_are_one(place: Place) -> None:
    job = in_state(place, "failed")
    with ThreadPoolExecutor(10) as pool:
        urls = [f"/jobs/{job}/retry"] * 10
        codes = [answer.status_code for answer in pool.map(place.client.post, urls)]
    record = place.store.get(job)
    assert record is not None and record.attempt == 2 and codes.count(202) >= 1
    assert set(codes) <= {202, 409}


def test_the_table_is_long_enough() -> None:
    rows = len(BODIES) + len(NAMES) + len(HEADERS) + len(REFUSED) + len(RANGES) + len(FILE_NAMES)
    assert rows >= 60
