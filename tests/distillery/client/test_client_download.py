"""Downloads are whole and verified or not there, and go on where they were left."""

import base64
import fcntl
import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from service_double import Answer, Asked, ServiceDouble, reply

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.write import encode_bundle
from distillery.client.client import Client
from distillery.client.jobs import Jobs
from distillery.errors import ConfigError, JobError, ServiceError

CONTENT = os.urandom(100_000)


class FileServer:
    """One file with ranges, as the service hands it out."""

    def __init__(self, content: bytes, *, cuts: tuple[int, ...] = ()) -> None:
        self.content, self.promised, self.cuts = content, content, list(cuts)
        self.ranges: list[str | None] = []
        self.takes_ranges = True

    def __call__(self, asked: Asked) -> Answer:
        digest = hashlib.sha256(self.promised).digest()
        etag = f'"sha256-{digest.hex()}"'
        headers = {"ETag": etag, "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:"}
        if asked.method == "HEAD":
            return Answer(200, self.content, headers)
        self.ranges.append(asked.headers.get("range"))
        body, status, start = self.content, 200, 0
        if self.ranges[-1] and self.takes_ranges and asked.headers.get("if-range") == etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.ranges[-1])[1])  # type: ignore[index]
            body, status = body[start:], 206
        return Answer(status, body, headers, self.cuts.pop(0) if self.cuts else None)


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".partial")]


def test_a_broken_download_goes_on(
    client: Client, service: ServiceDouble, tmp_path: Path, slept: list[float]
) -> None:
    service.handler = server = FileServer(CONTENT, cuts=(40_000, 30_000))
    steps: list[int] = []
    target = tmp_path / "new" / "file.bin"
    path = client.jobs.download("job_1", target, on_progress=lambda p: steps.append(p.step))
    assert path == target and target.read_bytes() == CONTENT and not partials(target.parent)
    assert server.ranges == [None, "bytes=40000-", "bytes=70000-"]
    assert steps[0] == 0 and steps[-1] == len(CONTENT) and steps == sorted(steps)
    assert service.asked[0].path == "/jobs/job_1/bundle" and len(slept) == 2


def test_a_killed_download_goes_on(client: Client, service: ServiceDouble, tmp_path: Path) -> None:
    service.handler = server = FileServer(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / f".file.bin.{digest[:16]}.partial").write_bytes(CONTENT[:77_777])
    client.jobs.download("job_1", tmp_path / "file.bin")
    assert server.ranges == ["bytes=77777-"] and (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_service_without_ranges_begins_again(
    client: Client, service: ServiceDouble, tmp_path: Path
) -> None:
    service.handler = server = FileServer(CONTENT, cuts=(40_000,))
    server.takes_ranges = False
    client.jobs.download("job_1", tmp_path / "file.bin")
    assert server.ranges == [None, "bytes=40000-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_other_bytes_than_promised_are_thrown_away(
    client: Client, service: ServiceDouble, tmp_path: Path
) -> None:
    service.handler = server = FileServer(CONTENT)
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(ServiceError, match="damaged on its way") as refused:
        client.jobs.download("job_1", tmp_path / "file.bin")
    assert refused.value.code == "digest_mismatch" and not list(tmp_path.iterdir())


def test_a_file_that_changes_meanwhile(
    client: Client, service: ServiceDouble, tmp_path: Path
) -> None:
    server = FileServer(CONTENT)

    def changing(asked: Asked) -> Answer:
        answer = server(asked)
        server.promised = server.content = b"other" * 20_000
        return answer

    service.handler = changing
    with pytest.raises(ServiceError, match="changed while it was fetched"):
        client.jobs.download("job_1", tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()


def test_what_is_there_already(client: Client, service: ServiceDouble, tmp_path: Path) -> None:
    service.handler = server = FileServer(CONTENT)
    (tmp_path / "same").write_bytes(CONTENT)
    (tmp_path / "other").write_bytes(b"mine")
    client.jobs.download("job_1", tmp_path / "same")
    with pytest.raises(JobError, match="holds something else"):
        client.jobs.download("job_1", tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == b"mine" and not server.ranges


def test_two_downloads_of_one_file(client: Client, service: ServiceDouble, tmp_path: Path) -> None:
    service.handler = FileServer(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    with open(tmp_path / f".file.bin.{digest[:16]}.partial", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(JobError, match="another process"):
            client.jobs.download("job_1", tmp_path / "file.bin")


def test_a_partial_name_that_is_a_link_is_not_followed(
    client: Client, service: ServiceDouble, tmp_path: Path
) -> None:
    service.handler = FileServer(CONTENT)
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    digest = hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / f".file.bin.{digest[:16]}.partial").symlink_to(precious)
    with pytest.raises(OSError, match="(?i)symbolic"):
        client.jobs.download("job_1", tmp_path / "file.bin")
    assert precious.read_bytes() == b"mine"


@pytest.mark.parametrize("digest", ["", "md5=:AAAA:", "sha-256=:***:", "sha-256=:AAAA:"])
def test_a_file_without_a_digest_is_refused(
    client: Client, service: ServiceDouble, tmp_path: Path, digest: str
) -> None:
    service.handler = lambda _: Answer(200, CONTENT, {"Repr-Digest": digest})
    with pytest.raises(ServiceError, match="no digest"):
        client.jobs.download("job_1", tmp_path / "file.bin")


def test_a_job_hands_over_a_verified_bundle(
    client: Client, service: ServiceDouble, tmp_path: Path
) -> None:
    data = DistilledDataset(
        images=np.zeros((2, 1, 8, 8), np.uint8), labels=np.arange(2),
        weights=np.ones(2, np.float32), cluster_ids=np.zeros(2, np.int32),
        scores=np.zeros((2, 1), np.float32), seeds=np.arange(2), classes=("cat", "dog"),
        images_per_class=1, score_names=("margin",), metadata={},
    )  # fmt: skip
    service.handler = FileServer(encode_bundle(data))
    jobs: Jobs = client.jobs
    service_job = {"id": "job_1", "status": "succeeded"}
    from distillery.client.jobs import Job

    loaded = Job(service_job, jobs).download(tmp_path)
    assert loaded.content_digest == data.content_digest
    assert [path.name for path in tmp_path.iterdir()] == ["distilled.safetensors"]
    with pytest.raises(JobError, match="no bundle: it failed: out of luck"):
        Job(
            service_job | {"status": "failed", "error": {"message": "out of luck"}}, jobs
        ).download()


def test_one_file_of_a_job(client: Client, service: ServiceDouble, tmp_path: Path) -> None:
    service.script = [reply({"data": [{"path": "report.json"}]})]
    assert client.jobs.files("job_1") == [{"path": "report.json"}]
    service.handler = FileServer(CONTENT)
    client.jobs.download_file("job_1", "data/a b.parquet", tmp_path / "x")
    assert service.asked[-1].path == "/jobs/job_1/files/data/a%20b.parquet"


def test_a_file_where_a_folder_should_be_is_one_sentence(
    client: Client, service: ServiceDouble, tmp_path: Path
) -> None:
    service.handler = FileServer(CONTENT)
    (tmp_path / "notes").write_text("mine")
    for place in (tmp_path / "notes", tmp_path / "notes" / "below"):
        with pytest.raises(JobError, match="because a file is in the way: name another folder"):
            client.jobs.download("job_1", place / "file.bin")
    assert (tmp_path / "notes").read_text() == "mine"


def test_what_json_has_not_is_refused_before_it_is_sent(client: Client) -> None:
    with pytest.raises(ConfigError, match="holds NaN or infinity"):
        client.jobs.create(dataset="digits", finetune={"learning_rate": float("nan")})
