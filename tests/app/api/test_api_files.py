import base64
import hashlib
import os
from pathlib import Path

import pytest

from app.api.files import Digests
from app.api.problems import Problem
from app.api.sending import BLOCK_BYTES, find_range
from app.page.pictures import open_bundle
from tests.app.api.conftest import Place, write_bundle

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"sha256-{SHA}"'


@pytest.fixture
def done(place: Place) -> str:
    job_id = place.make()
    place.finish(job_id)
    return job_id


def test_the_bundle_says_what_it_is(place: Place, done: str) -> None:
    answer = place.client.get(f"/jobs/{done}/bundle")
    assert answer.content == CONTENT
    assert answer.headers["etag"] == ETAG
    digest = base64.b64encode(bytes.fromhex(SHA)).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["content-disposition"] == 'attachment; filename="distilled.safetensors"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    head = place.client.head(f"/jobs/{done}/bundle")
    assert head.content == b"" and head.headers["content-length"] == str(len(CONTENT))
    assert place.client.get(f"/jobs/{done}").json()["urls"]["bundle"] == f"/jobs/{done}/bundle"


def test_the_etag_is_of_the_content_and_not_of_the_time(place: Place, done: str) -> None:
    path = place.service.job_folder(done) / "bundle" / "distilled.safetensors"
    os.utime(path, (1, 1))
    known = {"If-None-Match": f'W/"x", {ETAG}'}
    answer = place.client.get(f"/jobs/{done}/bundle", headers=known)
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", ETAG)
    path.write_bytes(b"new")
    assert place.client.get(f"/jobs/{done}/bundle", headers=known).content == b"new"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-9", 0, 10), ("bytes=10-", 10, 10240), ("bytes=-5", 10235, 10240),
        ("bytes=10239-99999999", 10239, 10240), ("bytes=-99999", 0, 10240), ("BYTES = 3-3 ", 3, 4),
    ],
)  # fmt: skip
def test_one_range(place: Place, done: str, header: str, start: int, end: int) -> None:
    answer = place.client.get(f"/jobs/{done}/bundle", headers={"Range": header})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize("header", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_outside_is_a_problem(place: Place, done: str, header: str) -> None:
    answer = place.client.get(f"/jobs/{done}/bundle", headers={"Range": header})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */10240"


@pytest.mark.parametrize(
    "header",
    ["lines=0-1", "bytes=5-2", "bytes=a-b", "bytes", "bytes=-", "bytes=0-1,4-5", "bytes=--1",
     "bytes=" + ",".join(f"{n}-{n}" for n in range(40)), "bytes=1-2-3"],
)  # fmt: skip
def test_other_ranges_get_the_whole_file(place: Place, done: str, header: str) -> None:
    answer = place.client.get(f"/jobs/{done}/bundle", headers={"Range": header})
    assert answer.status_code in (200, 422) and len(answer.content) != 0
    if answer.status_code == 200:
        assert answer.content == CONTENT


def test_if_range_guards_a_resumed_download(place: Place, done: str) -> None:
    ask = {"Range": "bytes=10000-", "If-Range": ETAG}
    assert place.client.get(f"/jobs/{done}/bundle", headers=ask).content == CONTENT[10000:]
    ask["If-Range"] = '"sha256-other"'
    assert place.client.get(f"/jobs/{done}/bundle", headers=ask).status_code == 200


def test_large_files_come_in_blocks_and_whole(place: Place) -> None:
    job_id = place.make()
    place.finish(job_id)
    content = os.urandom(BLOCK_BYTES * 2 + 17)
    write_bundle(place.service.job_folder(job_id), content)
    assert place.client.get(f"/jobs/{job_id}/bundle").content == content
    answer = place.client.get(f"/jobs/{job_id}/bundle", headers={"Range": "bytes=1-2000000"})
    assert answer.content == content[1:2000001]


def test_head_is_answered_where_get_is(place: Place, done: str) -> None:
    for path in ("report", "logs", "files", "bundle", "files/report.json"):
        got, head = (ask(f"/jobs/{done}/{path}") for ask in (place.client.get, place.client.head))
        assert (head.status_code, head.headers["content-type"]) == (
            200,
            got.headers["content-type"],
        )
        assert head.headers.get("content-length") == got.headers.get("content-length")
    assert place.client.head(f"/jobs/{place.make()}/report").status_code == 409
    for path in ("/health/live", "/health/ready"):
        assert place.anonymous().head(path).status_code == 200
        assert "HEAD" in place.client.post(path).headers["allow"]


def test_files_are_listed_with_digests_and_served(place: Place, done: str) -> None:
    rows = place.client.get(f"/jobs/{done}/files").json()["data"]
    by_name = {row["path"]: row for row in rows}
    assert set(by_name) == {
        "distilled.safetensors", "report.json", "report.html", "SHA256SUMS", "job.log",
        "data/train-00000-of-00001.parquet",
    }  # fmt: skip
    assert by_name["distilled.safetensors"]["sha256"] == SHA
    assert by_name["job.log"]["sha256"] is None
    for row in rows:
        answer = place.client.get(row["url"])
        assert answer.status_code == 200 and len(answer.content) == row["size_bytes"]
        if row["sha256"]:
            assert hashlib.sha256(answer.content).hexdigest() == row["sha256"]


@pytest.mark.parametrize(
    "name",
    ["../job.json", "..%2fjob.json", "%2e%2e/job.json", "/etc/passwd", "%2fetc%2fpasswd",
     "....//job.json", "data/../../job.json", "..\\job.json", "", "data",
     "link.json", "folder/secret.txt", ".hidden", "%ef%bc%8e%ef%bc%8e/job.json", "a" * 600],
)  # fmt: skip
def test_names_cannot_leave_the_folder(place: Place, done: str, name: str) -> None:
    folder = place.service.job_folder(done)
    (folder / "job.json").write_text("secret")
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "bundle" / ".hidden").write_text("secret")
    (folder / "bundle" / "link.json").symlink_to(folder / "job.json")
    (folder / "bundle" / "folder").symlink_to(folder.parent)
    answer = place.client.get(f"/jobs/{done}/files/{name}")
    assert answer.status_code in (404, 422), answer.text
    assert "secret" not in answer.text.replace("secret.txt", "")


def test_what_is_the_operators_alone_is_no_file_of_a_job(place: Place, done: str) -> None:
    folder = place.service.job_folder(done)
    own = ("error.log", ".fault.log", "attempts.json", "job.json", "stages.json", "estimate.json",
           "stages/finetune.partial/checkpoint-0010.safetensors")  # fmt: skip
    for name in (*own, "previews/samples.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("Traceback: secret")
    listed = place.client.get(f"/jobs/{done}/files").json()["data"]
    names = {file["path"] for file in listed}
    assert {"previews/samples.png", "job.log", "distilled.safetensors"} <= names
    for name in own:
        assert name not in names
        assert place.client.get(f"/jobs/{done}/files/{name}").status_code == 404


def test_what_is_not_there_yet_says_so(place: Place) -> None:
    job_id = place.make()
    for path in ("bundle", "report"):
        answer = place.client.get(f"/jobs/{job_id}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_ready")
    assert place.client.get(f"/jobs/{job_id}/logs").content == b""
    assert place.client.get(f"/jobs/{job_id}/files").json()["data"] == []


def test_files_of_a_failed_job_stay(place: Place) -> None:
    job_id = place.make()
    place.finish(job_id, "failed")
    assert place.client.get(f"/jobs/{job_id}/files/report.json").status_code == 200
    assert place.client.get(f"/jobs/{job_id}/bundle").status_code == 409


def test_the_report_has_two_forms(place: Place, done: str) -> None:
    assert place.client.get(f"/jobs/{done}/report").json() == {"accuracy": 0.97}
    page = place.client.get(f"/jobs/{done}/report", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    none = place.client.get(f"/jobs/{done}/report", headers={"Accept": "image/png"})
    assert (none.status_code, none.json()["code"]) == (406, "not_acceptable")


def test_logs_have_tails_and_ranges(place: Place, done: str) -> None:
    path = f"/jobs/{done}/logs"
    assert place.client.get(path).text.count("\n") == 100
    assert place.client.get(f"{path}?tail=2").text == "line 98\nline 99\n"
    assert place.client.get(path, headers={"Range": "bytes=0-5"}).text == "line 0"
    assert place.client.get(path).headers["content-type"] == "text/plain; charset=utf-8"
    assert place.client.get(f"{path}?tail=0").status_code == 422


def test_a_digest_is_worked_out_once(place: Place, done: str) -> None:
    path = place.service.job_folder(done) / "bundle" / "distilled.safetensors"
    digests = Digests()
    assert digests.of(path) == SHA
    stamp = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert digests.of(path) == SHA  # same size, time and inode: not read again
    os.utime(path, ns=(1, 1))
    assert digests.of(path) == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_ranges_of_an_empty_file() -> None:
    with pytest.raises(Problem):
        find_range("bytes=0-", 0)
    with pytest.raises(Problem):
        find_range("bytes=-1", 0)


def test_a_file_that_goes_while_it_is_read_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="has been removed") as refused:
        Digests().of(tmp_path / "gone.png")
    assert refused.value.status_code == 404
    assert open_bundle(tmp_path / "gone") is None
