import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.app.api.conftest import Place

UNKNOWN = "job_" + "0" * 26


def test_the_smallest_body_makes_a_job(place: Place) -> None:
    answer = place.client.post("/jobs", json={"dataset": "digits", "ipc": 10})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["object"], job["status"], job["queue_position"]) == ("job", "queued", 1)
    assert (job["dataset"], job["images_per_class"], job["preset"]) == ("digits", 10, "default")
    assert job["urls"]["events"] == f"/jobs/{job['id']}/events"
    assert job["urls"]["bundle"] is None
    record = place.store.get(job["id"])
    assert record is not None
    assert record.request == {"images_per_class": 10, "data": {"dataset": "digits"}}
    assert place.service.engine.submitted == [f"{job['id']}.1"]  # type: ignore[attr-defined]


def test_an_empty_body_distils_the_digits(place: Place) -> None:
    assert place.client.post("/jobs", json={}).json()["dataset"] == "digits"


def test_parts_of_the_configuration_go_by_their_own_names(place: Place) -> None:
    body = {
        "preset": "smoke", "seed": 7, "name": "x", "metadata": {"team": "vision"}, "priority": 2,
        "refine": {"num_steps": 3, "learning_rate": 1}, "base": {"pretrain": {"num_steps": 9}},
        "data": {"test_fraction": 0.3},
    }  # fmt: skip
    record = place.store.get(place.make(**body))
    assert record is not None
    assert record.request == {
        "preset": "smoke", "seed": 7, "refine": {"num_steps": 3, "learning_rate": 1.0},
        "base": {"pretrain": {"num_steps": 9}},
        "data": {"dataset": "digits", "test_fraction": 0.3},
    }  # fmt: skip
    assert (record.name, record.metadata, record.priority) == ("x", {"team": "vision"}, 2)


def errors_of(client: TestClient, body: Any) -> dict[str, dict[str, str]]:
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {error["pointer"]: error for error in answer.json()["errors"]}


@pytest.mark.parametrize(
    ("body", "pointer", "says"),
    [
        ({"finetun": {}}, "#/finetun", "did you mean 'finetune'"),
        ({"images_per_class": 3}, "#/images_per_class", "did you mean 'ipc'"),
        ({"refine": {"num_stps": 1}}, "#/refine/num_stps", "did you mean 'num_steps'"),
        ({"base": {"pretrain": {"ema": 1}}}, "#/base/pretrain/ema", "ema_decay"),
        ({"ipc": 0}, "#/ipc", "greater than or equal to 1"),
        ({"ipc": "10"}, "#/ipc", "integer"),
        ({"ipc": True}, "#/ipc", "integer"),
        ({"preset": "fast"}, "#/preset", "'default' or 'smoke'"),
        ({"dataset": "digit"}, "#/dataset", "did you mean 'digits'"),
        ({"dataset": {"type": "hubb", "id": "x"}}, "#/dataset/type", "'builtin', 'folder'"),
        ({"dataset": {"type": "folder", "id": "digits"}}, "#/dataset", "there is no dataset"),
        ({"dataset": {"type": "builtin", "id": "digits", "revision": "x"}},
         "#/dataset/revision", "only a Hub dataset"),
        ({"generate": {"guidance_scale": -1}}, "#/generate/guidance_scale", "0 or more"),
        ({"refine": {"num_steps": 0}}, "#/refine/num_steps", "1"),
        ({"base": {"reference": "/etc/passwd"}}, "#/base/reference", "Hub id"),
        ({"select": {"features": "../x"}}, "#/select/features", "Hub id"),
        ({"label": {"teacher": "a/b/c"}}, "#/label/teacher", "Hub id"),
        ({"base": {"reference": "facebook/DiT-XL-2-256"}}, "#/acknowledge_licence", "commercial"),
        ({"base": {"allow_download": True}}, "#/base/allow_download", "downloads are off"),
        ({"metadata": {"a": 3}}, "#/metadata/a", "string"),
        ({"name": "a\x00b"}, "#/name", "control characters"),
        ({"num_threads": 10_000}, "#/num_threads", "1 to 256"),
        ({"seed": 2**70}, "#/seed", "less than"),
        ({"data": {"dataset": "/etc"}}, "#/data/dataset", "unknown field"),
        ({"status": "succeeded"}, "#/status", "unknown field"),
        ({"device": "tpu"}, "#/device", "cpu or cuda"),
        ({"evaluate": {"student": {"network": "nope"}}}, "#/evaluate", "network"),
    ],
)  # fmt: skip
def test_each_wrong_field_is_pointed_to(
    place: Place, body: dict[str, Any], pointer: str, says: str
) -> None:
    errors = errors_of(place.client, body)
    found = next((error for at, error in errors.items() if at.startswith(pointer)), None)
    assert found is not None and says in found["detail"], errors
    assert sum(place.store.counts().values()) == 0


def test_all_wrong_fields_are_told_at_once(client: TestClient) -> None:
    assert set(errors_of(client, {"ipc": 0, "seed": "x", "nme": 1})) == {"#/ipc", "#/seed", "#/nme"}


def fetch(place: Place, name: str) -> None:
    """Put a model into the Hub's cache."""
    folder = place.settings.hub_cache / f"models--{name.replace('/', '--')}"
    (folder / "snapshots" / "a1").mkdir(parents=True)


@pytest.mark.parametrize(
    ("part", "field", "name"),
    [("base", "reference", "facebook/DiT-XL-2-256"), ("base", "reference", "owner/model"),
     ("select", "features", "owner/vision"), ("label", "teacher", "owner/teacher")],
)  # fmt: skip
def test_a_model_without_downloads_must_have_been_fetched_before(
    place: Place, part: str, field: str, name: str
) -> None:
    body = {part: {field: name}, "acknowledge_licence": True}
    for path in ("/jobs", "/estimates"):
        answer = place.client.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "download_not_allowed")
        assert answer.json()["errors"][0]["pointer"] == f"#/{part}/{field}"
    fetch(place, name)
    assert place.client.post("/jobs", json=body).status_code == 202


def test_a_licence_can_be_acknowledged(place: Place) -> None:
    fetch(place, "facebook/DiT-XL-2-256")
    job_id = place.make(base={"reference": "facebook/DiT-XL-2-256"}, acknowledge_licence=True)
    # the worker asks too, where its plan chooses the base
    record = place.store.get(job_id)
    assert record is not None and record.request["acknowledge_licence"] is True
    assert "acknowledge_licence" not in place.store.get(place.make()).request  # type: ignore[union-attr]


@pytest.mark.parametrize("changes", [{"allow_download": True}])
def test_hub_ids_bring_the_permission_to_download_where_it_is_given(place: Place) -> None:
    record = place.store.get(place.make(dataset="owner/photos@main"))
    assert record is not None
    expected = {"dataset": "owner/photos@main", "allow_download": True}
    assert record.request["data"] == expected


def test_a_hub_id_without_downloads_must_have_been_fetched_before(place: Place) -> None:
    answer = place.client.post("/jobs", json={"dataset": "pets/cat", "ipc": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_not_found")
    assert "downloads from the Hub are off" in answer.json()["detail"]
    (place.service.settings.hub_cache / "datasets--pets--cat").mkdir(parents=True)
    assert place.client.post("/jobs", json={"dataset": "pets/cat", "ipc": 1}).status_code == 202


def test_the_same_key_gives_the_same_answer(place: Place) -> None:
    send = {"json": {"ipc": 3}, "headers": {"Idempotency-Key": "one"}}
    first, again = place.client.post("/jobs", **send), place.client.post("/jobs", **send)  # type: ignore[arg-type]
    assert again.status_code == 202 and again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    other = place.client.post("/jobs", json={"ipc": 4}, headers={"Idempotency-Key": "one"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert sum(place.store.counts().values()) == 1


def test_a_key_whose_answer_was_never_stored_finds_its_job(place: Place) -> None:
    place.service.answers.finish = lambda *a, **k: None  # type: ignore[method-assign]
    send = {"json": {"ipc": 3}, "headers": {"Idempotency-Key": "one"}}
    first, again = place.client.post("/jobs", **send), place.client.post("/jobs", **send)  # type: ignore[arg-type]
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"


def test_simultaneous_requests_with_one_key_make_one_job(place: Place) -> None:
    answers = []

    def send() -> None:
        answers.append(
            place.client.post("/jobs", json={"ipc": 3}, headers={"Idempotency-Key": "one"})
        )

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum(place.store.counts().values()) == 1


def test_a_job_is_kept_when_the_queue_is_away(place: Place) -> None:
    place.service.engine.fails = True  # type: ignore[attr-defined]
    assert place.store.get(place.make()) is not None


@pytest.mark.parametrize("changes", [{"max_queued": 2}])
def test_a_full_queue_takes_no_job(place: Place) -> None:
    place.make(), place.make()
    answer = place.client.post("/jobs", json={})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"] == "30"


@pytest.mark.parametrize("changes", [{"disk_floor_bytes": 10**18}])
def test_a_full_disk_takes_no_job_but_answers(place: Place) -> None:
    answer = place.client.post("/jobs", json={})
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert place.client.get("/jobs").status_code == 200
    assert place.client.get("/health/ready").status_code == 503
    assert place.client.get("/health/live").status_code == 200


def test_lists_go_on_from_a_cursor_and_filter(place: Place) -> None:
    made = [place.make(ipc=n + 1, metadata={"n": str(n % 2)}) for n in range(5)]
    page = place.client.get("/jobs?limit=2").json()
    assert [job["id"] for job in page["data"]] == made[:2:-1][:2]
    assert page["has_more"] and page["next"] == made[3]
    rest = place.client.get(f"/jobs?limit=10&after={page['next']}").json()
    assert [job["id"] for job in rest["data"]] == made[2::-1]
    assert (rest["has_more"], rest["next"]) == (False, None)
    odd = place.client.get("/jobs", params={"metadata[n]": "1"}).json()["data"]
    assert [job["id"] for job in odd] == [made[3], made[1]]
    place.client.post(f"/jobs/{made[0]}/cancel")
    assert len(place.client.get("/jobs?status=queued&status=running").json()["data"]) == 4
    assert place.client.get("/jobs?dataset=other").json()["data"] == []
    assert place.client.get("/jobs?status=odd").status_code == 422
    assert place.client.get("/jobs?limit=101").status_code == 422


def test_mounted_datasets_are_shown_by_name_and_never_by_path(place: Place) -> None:
    assert place.settings.datasets is not None
    (place.settings.datasets / "photos").mkdir(parents=True)
    job_id = place.make(dataset="photos")
    record = place.store.get(job_id)
    assert record is not None and record.dataset == str(place.settings.datasets / "photos")
    for path in (f"/jobs/{job_id}", "/jobs", "/jobs?dataset=photos", f"/jobs/{job_id}/events"):
        text = place.client.get(path).text
        assert str(place.settings.datasets) not in text
    assert place.client.get(f"/jobs/{job_id}").json()["request"]["data"]["dataset"] == "photos"
    assert len(place.client.get("/jobs?dataset=photos").json()["data"]) == 1


def test_polling_costs_nothing_until_something_changes(place: Place) -> None:
    job_id = place.make()
    answer = place.client.get(f"/jobs/{job_id}")
    etag = answer.headers["etag"]
    assert not etag.startswith("W/")
    known = {"If-None-Match": etag}
    same = place.client.get(f"/jobs/{job_id}", headers=known)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    place.store.change(job_id, expect={"queued"}, status="running", phase="plan")
    assert place.client.get(f"/jobs/{job_id}", headers=known).status_code == 200


def test_an_etag_changes_with_the_place_in_the_queue(place: Place) -> None:
    first, second = place.make(), place.make()
    etag = place.client.get(f"/jobs/{second}").headers["etag"]
    place.client.post(f"/jobs/{first}/cancel")
    answer = place.client.get(f"/jobs/{second}", headers={"If-None-Match": etag})
    assert answer.json()["queue_position"] == 1


def test_prefer_wait_holds_until_the_status_changes(place: Place) -> None:
    job_id = place.make()
    timer = threading.Timer(
        0.3, lambda: place.store.change(job_id, expect={"queued"}, status="running", phase="plan")
    )
    started = time.monotonic()
    timer.start()
    answer = place.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "running"
    assert answer.headers["preference-applied"] == "wait=20"
    assert 0.25 < time.monotonic() - started < 5


def test_prefer_wait_ends_with_its_time_and_with_the_job(place: Place) -> None:
    job_id = place.make()
    started = time.monotonic()
    answer = place.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=1"})
    assert answer.json()["status"] == "queued" and 0.9 < time.monotonic() - started < 3
    etag = answer.headers["etag"]
    headers = {"Prefer": "wait=1", "If-None-Match": etag}
    assert place.client.get(f"/jobs/{job_id}", headers=headers).status_code == 304
    place.client.post(f"/jobs/{job_id}/cancel")
    started = time.monotonic()
    place.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=60"})
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("before", "answered", "after"),
    [
        ("queued", 200, "canceled"), ("running", 200, "canceling"), ("canceling", 200, "canceling"),
        ("succeeded", 200, "succeeded"), ("failed", 200, "failed"), ("canceled", 200, "canceled"),
    ],
)  # fmt: skip
def test_cancel_in_every_state(place: Place, before: Any, answered: int, after: str) -> None:
    job_id = job_in(place, before)
    for _ in range(2):
        answer = place.client.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (answered, after)


@pytest.mark.parametrize(
    ("before", "answered", "code"),
    [
        ("queued", 409, "job_not_terminal"), ("running", 409, "job_not_terminal"),
        ("canceling", 409, "job_not_terminal"), ("succeeded", 409, "job_not_retryable"),
        ("failed", 202, None), ("canceled", 202, None),
    ],
)  # fmt: skip
def test_retry_in_every_state(place: Place, before: Any, answered: int, code: str | None) -> None:
    job_id = job_in(place, before)
    answer = place.client.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json().get("code")) == (answered, code)
    if code is None:
        assert (answer.json()["attempt"], answer.json()["status"]) == (2, "queued")


def test_a_job_whose_dataset_is_gone_is_not_run_again(place: Place) -> None:
    folder = place.settings.data / "uploads" / "0f"
    folder.mkdir(parents=True)
    (folder / "photos.zip").write_bytes(b"PK")
    place.service.datasets.create(
        "photos", kind="archive", path=str(folder / "photos.zip"), status="ready"
    )
    job_id = place.make(dataset="photos")
    place.store.change(job_id, expect={"queued"}, status="canceled")
    assert place.client.delete("/datasets/photos").status_code == 204
    answer = place.client.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_not_found")
    assert "'photos'" in answer.json()["detail"] and str(folder) not in answer.text
    record = place.store.get(job_id)
    assert record is not None and (record.status, record.attempt) == ("canceled", 1)


@pytest.mark.parametrize("before", ["queued", "running", "canceling"])
def test_only_finished_jobs_are_deleted(place: Place, before: Any) -> None:
    job_id = job_in(place, before)
    answer = place.client.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_terminal")


def test_a_deleted_job_is_gone_with_its_files(place: Place) -> None:
    job_id = place.make()
    place.finish(job_id)
    assert place.client.delete(f"/jobs/{job_id}").status_code == 204
    assert not place.service.job_folder(job_id).exists()
    assert place.service.engine.submitted == []  # type: ignore[attr-defined]
    for method, path in (
        ("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", ""), ("GET", "/events"),
        ("GET", "/metrics"), ("GET", "/logs"), ("GET", "/files"), ("GET", "/bundle"),
        ("GET", "/report"), ("GET", "/files/report.json"),
    ):  # fmt: skip
        answer = place.client.request(method, f"/jobs/{job_id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


@pytest.mark.parametrize("job_id", [UNKNOWN, "job_x", "x", "..", "%2e%2e%2f", "job_" + "A" * 26])
def test_unknown_ids_are_not_found(client: TestClient, job_id: str) -> None:
    answer = client.get(f"/jobs/{job_id}/logs")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def job_in(place: Place, status: Any) -> str:
    """Return a job in this state."""
    job_id = place.make()
    way = {
        "running": ["running"], "canceling": ["running", "canceling"], "canceled": ["canceled"],
        "succeeded": ["running", "succeeded"], "failed": ["running", "failed"],
    }  # fmt: skip
    for each in way.get(status, []):
        record = place.store.get(job_id)
        assert record is not None
        place.store.change(job_id, expect={record.status}, status=each)
    return job_id


def test_requests_do_not_leak_into_each_other(place: Place) -> None:
    place.make(refine={"num_steps": 3})
    record = place.store.get(place.make())
    assert record is not None and "refine" not in record.request


@pytest.mark.parametrize("kind", ["key", "session"])
def test_a_request_that_waits_ends_with_its_key(
    place: Place, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("app.api.patience.CHECK_S", 0.05)
    monkeypatch.setattr("app.api.patience.STEP_S", 0.1)
    record, secret = place.service.keys.create("other")
    job_id, client = place.make(), place.anonymous()
    headers = {"Prefer": "wait=30", "Authorization": f"Bearer {secret}"}
    if kind == "session":
        client.post("/login", json={"key": secret}, headers={"Origin": "http://localhost"})
        del headers["Authorization"]
    started = time.monotonic()
    threading.Timer(0.3, place.service.keys.revoke, (record.id,)).start()
    answer = client.get(f"/jobs/{job_id}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert time.monotonic() - started < 5


def test_a_wait_asks_for_its_key_within_ten_seconds() -> None:
    from app.api.patience import CHECK_S, STEP_S

    assert CHECK_S + STEP_S <= 10


@pytest.mark.parametrize(
    "path", ["/jobs", "/jobs/{id}", "/jobs/{id}/events", "/jobs/{id}/metrics", "/datasets",
             "/models", "/workers", "/info", "/openapi.json", "/new"],
)  # fmt: skip
def test_head_answers_like_get_without_a_body(place: Place, path: str) -> None:
    path = path.format(id=place.make())
    got, head = place.client.get(path), place.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("content-type", "etag", "content-length", "cache-control"):
        assert head.headers.get(name) == got.headers.get(name), name


def test_head_opens_no_stream_and_finds_no_more_than_get(place: Place) -> None:
    job_id = place.make()
    answer = place.client.head(f"/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event")
    assert place.client.head("/jobs/job_" + "0" * 26).status_code == 404
    figures = place.client.head("/metrics")
    assert (figures.status_code, figures.content) == (200, b"")
    assert place.client.head("/estimates").status_code == 405
    assert place.anonymous().head("/jobs").status_code == 401
    assert place.client.put("/jobs").headers["allow"] == "GET, HEAD, POST"


def test_a_job_is_deleted_only_as_its_etag_says(place: Place) -> None:
    job_id = place.make()
    known = place.client.get(f"/jobs/{job_id}").headers["etag"]
    place.client.post(f"/jobs/{job_id}/cancel")
    now = place.client.get(f"/jobs/{job_id}").headers["etag"]
    for wrong in (known, f"W/{now}", '"other"', "unquoted", ""):
        refused = place.client.delete(f"/jobs/{job_id}", headers={"If-Match": wrong})
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed"), wrong
    assert place.client.get(f"/jobs/{job_id}").status_code == 200
    one_of = {"If-Match": f'"other", {now}'}
    assert place.client.delete(f"/jobs/{job_id}", headers=one_of).status_code == 204
    gone = place.client.delete(f"/jobs/{job_id}", headers={"If-Match": "*"})
    assert gone.status_code == 404


def test_the_order_of_keys_makes_no_other_body(place: Place) -> None:
    headers = {"Idempotency-Key": "order"}
    first, again = (
        place.client.post("/jobs", json={"metadata": metadata}, headers=headers)
        for metadata in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]


def test_a_filter_that_no_job_can_match_is_refused_and_a_bracket_in_a_key_is_found(
    place: Place,
) -> None:
    place.client.post("/jobs", json={"metadata": {"a]b": "x"}})
    place.client.post("/jobs", json={})
    found = place.client.get("/jobs", params={"metadata[a]b]": "x"}).json()["data"]
    assert [job["metadata"] for job in found] == [{"a]b": "x"}]
    for name in ("metadata[]", "metadata", "metadata[" + "k" * 65 + "]"):
        refused = place.client.get("/jobs", params={name: "1"})
        assert refused.status_code == 422 and "metadata[KEY]=VALUE" in refused.json()["detail"]


@pytest.mark.parametrize("odd", ["a\u009b31mb", "\u0085x", "a\u2028b", "a\u202eb"])
def test_names_hold_no_controls_of_any_kind(place: Place, odd: str) -> None:
    assert place.client.post("/jobs", json={"name": odd}).status_code == 422
    assert place.client.post("/jobs", json={"name": "شبكة قطط"}).status_code == 202
