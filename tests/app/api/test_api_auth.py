import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from app.api.app import build_api
from app.api.auth import Auth, check_bind, is_loopback, new_login_token
from app.api.limits import Buckets
from app.settings import Settings
from distillery.errors import ConfigError
from tests.app.api.conftest import BASE, Place

ORIGIN = {"Origin": "http://localhost"}


def test_everything_needs_a_key_but_health_and_login(place: Place) -> None:
    anonymous = place.anonymous()
    paths = place.client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            address = path.replace("{job_id}", "job_" + "0" * 26).replace("{name}", "x")
            answer = anonymous.request(method, address.replace("{path}", "x"))
            is_open = path.startswith(("/health", "/login"))
            assert (answer.status_code == 401) != is_open, (method, path)
            if not is_open:
                assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/metrics", "/openapi.json", "/docs", "/", "/new", "/system", "/nothing"):
        assert anonymous.get(path).status_code == 401, path


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer x", "Basic dst_x", "dst_x", "Bearer dst_" + "a" * 43,
     "Bearer dst_" + "a" * 5000, "bearer dst_\x7f", "Bearer ' OR 1=1 --"],
)  # fmt: skip
def test_wrong_keys_are_refused(place: Place, header: str) -> None:
    answer = place.anonymous().get("/jobs", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_revoked_keys_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    record, secret = place.service.keys.create("other")
    client = place.anonymous()
    client.headers["Authorization"] = f"Bearer {secret}"
    assert client.get("/jobs").status_code == 200
    place.service.keys.revoke(record.id)
    moment = time.monotonic()
    monkeypatch.setattr("app.api.auth.time.monotonic", lambda: moment + 11)
    assert client.get("/jobs").status_code == 401


def test_guessing_keys_is_slowed_down(place: Place) -> None:
    client = place.anonymous()
    place.client.get("/jobs")
    codes = {
        client.get("/jobs", headers={"Authorization": f"Bearer dst_{n}"}).json()["code"]
        for n in range(30)
    }
    assert codes == {"unauthorized", "too_many_attempts"}
    assert place.client.get("/jobs").status_code == 200  # its key is known already


def test_a_good_key_gets_in_while_others_guess(place: Place) -> None:
    guesser, key = place.anonymous(), place.client.headers["Authorization"]
    for n in range(30):
        guesser.get("/jobs", headers={"Authorization": f"Bearer dst_{n}"})
    refused = guesser.get("/jobs", headers={"Authorization": "Bearer dst_x"})
    assert refused.status_code == 429
    # never seen by this process, and from the very address that guesses
    assert guesser.get("/jobs", headers={"Authorization": key}).status_code == 200


def test_guessing_at_the_log_in_is_slowed_down_too(place: Place) -> None:
    place.client.get("/jobs")
    browser = place.anonymous()
    answers = [browser.post("/login", json={"key": f"dst_{n}"}) for n in range(30)]
    assert [answer.status_code for answer in answers[:20]] == [401] * 20
    assert (answers[-1].status_code, answers[-1].json()["code"]) == (429, "too_many_attempts")
    assert answers[-1].headers["retry-after"] == "10"
    refused = browser.get("/jobs", headers={"Authorization": "Bearer dst_other"})
    assert refused.status_code == 429  # one count for all ways in
    assert browser.get("/login?token=wrong").status_code == 429
    assert browser.get("/login").status_code == 200  # the form itself can be seen
    good = browser.post("/login", json={"key": place.key}, headers=ORIGIN)
    assert good.status_code == 200  # a key that was good is not held up


def test_wrong_login_links_are_counted(place: Place) -> None:
    browser = place.anonymous()
    codes = [browser.get(f"/login?token={n}").status_code for n in range(22)]
    assert codes[:20] == [401] * 20 and codes[-1] == 429


def test_secrets_are_not_stored(place: Place) -> None:
    token = new_login_token(place.settings.data)
    place.client.get("/jobs")
    for path in place.settings.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert place.key.encode() not in content and token.encode() not in content, path


def test_a_login_link_works_once(place: Place) -> None:
    token = new_login_token(place.settings.data)
    browser = place.anonymous()
    looked = browser.head(f"/login?token={token}", follow_redirects=False)
    assert looked.status_code == 200 and "set-cookie" not in looked.headers  # it is not used up
    answer = browser.get(f"/login?token={token}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert browser.get("/jobs").status_code == 200
    again = place.anonymous().get(f"/login?token={token}", follow_redirects=False)
    assert again.status_code == 401 and "set-cookie" not in again.headers
    assert place.anonymous().get("/login").status_code == 200


def test_of_two_that_use_a_link_at_once_one_gets_in(place: Place) -> None:
    token, found = new_login_token(place.settings.data), []
    auth = Auth(place.service.keys, place.settings)
    threads = [
        threading.Thread(target=lambda: found.append(auth.use_login_token(token))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]


def test_an_old_link_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    token = new_login_token(place.settings.data)
    moment = time.time()
    monkeypatch.setattr("app.api.auth.time.time", lambda: moment + 25 * 3600)
    assert not Auth(place.service.keys, place.settings).use_login_token(token)


@pytest.mark.parametrize("token", ["", "x", "../session.key", "a" * 5000, "\x00", "ä"])
def test_wrong_tokens_are_refused(place: Place, token: str) -> None:
    assert not Auth(place.service.keys, place.settings).use_login_token(token)


def test_a_key_can_be_exchanged_for_a_session(place: Place) -> None:
    browser = place.anonymous()
    assert browser.post("/login", json={"key": "dst_no"}).status_code == 401
    answer = browser.post("/login", json={"key": place.key}, headers=ORIGIN)
    assert answer.status_code == 200 and "expires_at" in answer.json()
    assert browser.get("/jobs").status_code == 200
    assert browser.post("/logout", headers=ORIGIN).status_code == 204
    assert browser.get("/jobs").status_code == 401


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let eleven seconds pass."""
    moment = time.monotonic()
    monkeypatch.setattr("app.api.auth.time.monotonic", lambda: moment + 11)


def test_a_session_ends_with_its_key(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    record, secret = place.service.keys.create("other")
    browser = place.anonymous()
    assert browser.post("/login", json={"key": secret}, headers=ORIGIN).status_code == 200
    assert browser.get("/jobs").status_code == 200
    place.service.keys.revoke(record.id)
    later(monkeypatch)
    assert browser.get("/jobs").status_code == 401
    assert browser.post(f"/jobs/{place.make()}/cancel", headers=ORIGIN).status_code == 401


def test_a_copied_cookie_ends_with_the_session(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, thief, other = (place.anonymous() for _ in range(3))
    browser.post("/login", json={"key": place.key}, headers=ORIGIN)
    other.post("/login", json={"key": place.key}, headers=ORIGIN)
    thief.cookies.update(browser.cookies)
    assert thief.get("/jobs").status_code == 200
    assert browser.post("/logout", headers=ORIGIN).status_code == 204
    assert thief.get("/jobs").status_code == 401  # this process knows at once
    again = build_api(place.settings, place.service)
    assert TestClient(again, base_url=BASE, cookies=thief.cookies).get("/jobs").status_code == 401
    assert other.get("/jobs").status_code == 200


@pytest.mark.parametrize("changes", [{"is_auth_on": False}])
def test_a_session_from_before_keys_were_asked_for_is_none(place: Place) -> None:
    browser = place.anonymous()
    assert browser.post("/login", json={"key": "dst_no"}).status_code == 200
    strict = build_api(replace(place.settings, is_auth_on=True), place.service)
    client = TestClient(strict, base_url=BASE, cookies=browser.cookies)
    assert client.get("/jobs").status_code == 401


def test_a_session_survives_a_restart_and_no_forgery(place: Place) -> None:
    value, _ = Auth(place.service.keys, place.settings).new_session("link")
    restarted = Auth(place.service.keys, place.settings)
    assert restarted.check_session(value)
    expires, owner, nonce, signature = value.split(".")
    rest = f"{owner}.{nonce}"
    for forged in (
        f"{int(expires) + 1}.{rest}.{signature}", f"{expires}.{owner}.x.{signature}", value[:-1],
        "", f"{expires}.{rest}.", "..", "...", "a.b.c.d", f"{expires}.{rest}.ü", value + "0",
        f"-{expires}.{rest}.{signature}", "1.x.y.z", f"{expires}.{nonce}.{signature}",
    ):  # fmt: skip
        assert not restarted.check_session(forged), forged
    assert oct(os.stat(place.settings.data / "session.key").st_mode)[-3:] == "600"


def test_a_session_changes_nothing_for_another_site(place: Place) -> None:
    browser = place.anonymous()
    browser.post("/login", json={"key": place.key}, headers=ORIGIN)
    job_id = place.make()
    path = f"/jobs/{job_id}/cancel"
    for headers in (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://["},
    ):
        answer = browser.post(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin"), headers
    assert browser.post(path, headers=ORIGIN).status_code == 200
    evil = place.client.post(path, headers={"Origin": "http://evil.example"})
    assert evil.status_code == 403  # with a key too


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:80", 200),
     ("192.168.1.5", 200), ("evil.example", 400), ("localhost.evil.example", 400), ("", 400),
     ("localhost@evil.example", 400), ("a b", 400), ("localhost/evil", 400),
     ("localhost:x", 400)],
)  # fmt: skip
def test_hosts(place: Place, host: str, status: int) -> None:
    answer = place.client.get("/jobs", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["code"] == "invalid_host"


@pytest.mark.parametrize("changes", [{"allowed_hosts": ("api",)}])
def test_a_host_can_be_allowed(place: Place) -> None:
    assert place.client.get("/jobs", headers={"Host": "api:8000"}).status_code == 200


@pytest.mark.parametrize("changes", [{"is_auth_on": False}])
def test_authentication_can_be_off(place: Place) -> None:
    assert place.anonymous().get("/jobs").status_code == 200
    assert place.anonymous().post("/jobs", json={}).status_code == 202


@pytest.mark.parametrize("changes", [{"max_requests_per_s": 1.0}])
def test_requests_are_limited_for_each_client(place: Place) -> None:
    answers = [place.client.get("/jobs") for _ in range(6)]
    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    refused = answers[-1]
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    _, other = place.service.keys.create("other")
    assert place.anonymous().get(
        "/jobs", headers={"Authorization": f"Bearer {other}"}
    ).status_code == 200  # fmt: skip


def test_buckets_fill_again() -> None:
    buckets = Buckets(50.0, 2.0)
    assert [buckets.wait_s("a") for _ in range(3)] == [0, 0, 1]
    time.sleep(0.05)
    assert buckets.wait_s("a") == 0
    assert Buckets(0.0, 0.0).wait_s("a") == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.3", "example.org", ""])
def test_no_public_address_without_keys(settings: Settings, host: str) -> None:
    with pytest.raises(ConfigError, match="DISTILLERY_AUTH"):
        check_bind(host, replace(settings, is_auth_on=False))
    check_bind(host, settings)
    check_bind("127.0.0.1", replace(settings, is_auth_on=False))
    assert is_loopback("localhost") and is_loopback("::1") and not is_loopback("10.0.0.1")


def test_the_api_process_imports_no_torch() -> None:
    code = (
        "import sys, app.api.app, generator.plan, generator.estimate, app.jobs.service\n"
        "heavy = ('torch', 'diffusers', 'transformers', 'sklearn', 'scipy', 'matplotlib')\n"
        "sys.exit(' '.join(name for name in heavy if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
