import io
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.api.names import find_dataset, is_hub_id
from app.api.problems import Problem
from tests.app.api.conftest import Place
from tests.pipeline_folder import write_folder

ZIP = {"Content-Type": "application/zip"}


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def zip_of(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return file.getvalue()


def photos(count: int = 3) -> dict[str, bytes]:
    return {f"{c}/{n}.png": png(10 * n) for c in ("cat", "dog") for n in range(count)}


def test_an_upload_is_looked_through_and_can_be_used(place: Place) -> None:
    answer = place.client.post("/datasets?name=pets", content=zip_of(photos()), headers=ZIP)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == "/datasets/pets"
    dataset = answer.json()
    assert (dataset["type"], dataset["status"]) == ("upload", "ready")
    assert dataset["facts"]["classes"] == 2 and dataset["facts"]["images"] == 6
    assert dataset["facts"]["class_names"] == ["cat", "dog"]
    assert str(place.settings.data) not in answer.text
    listed = place.client.get("/datasets").json()["data"]
    assert [each["name"] for each in listed] == ["digits", "pets"]
    job_id = place.make(dataset="pets")
    assert place.client.get(f"/jobs/{job_id}").json()["dataset"] == "pets"
    in_use = place.client.delete("/datasets/pets")
    assert (in_use.status_code, in_use.json()["code"]) == (409, "dataset_in_use")
    place.client.post(f"/jobs/{job_id}/cancel")
    assert place.client.delete("/datasets/pets").status_code == 204
    assert place.client.get("/datasets/pets").status_code == 404
    assert list((place.settings.data / "uploads").iterdir()) == []


def test_jobs_are_found_by_their_dataset_after_it_is_gone(place: Place) -> None:
    assert place.settings.datasets is not None
    (place.settings.datasets / "birds" / "owl").mkdir(parents=True)
    path = place.settings.data / "uploads" / "ab" / "my_pets.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    place.service.datasets.create("my_pets", kind="archive", path=str(path), status="ready")
    jobs = {name: place.make(dataset=name) for name in ("my_pets", "birds", "digits")}

    def found(name: str) -> list[str]:
        return [job["id"] for job in place.client.get(f"/jobs?dataset={name}").json()["data"]]

    assert all(found(name) == [job] for name, job in jobs.items())
    place.client.post(f"/jobs/{jobs['my_pets']}/cancel")
    assert place.client.delete("/datasets/my_pets").status_code == 204
    (place.settings.datasets / "birds" / "owl").rmdir()
    (place.settings.datasets / "birds").rmdir()
    assert all(found(name) == [job] for name, job in jobs.items())
    for other in ("pets", "my-pets", "my_pet%25", "ab", "%25", "y_pets", "/my_pets", "owl"):
        assert found(other) == [], other


def test_tars_are_known_by_their_bytes(place: Place) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in photos().items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    headers = {"Content-Type": "application/octet-stream"}
    answer = place.client.post("/datasets?name=pets", content=file.getvalue(), headers=headers)
    assert answer.status_code == 201, answer.text


def test_a_safetensors_file_is_a_dataset(place: Place) -> None:
    from safetensors.numpy import save

    images = np.random.default_rng(0).integers(0, 255, (6, 1, 8, 8), np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    content = save({"images": images, "labels": labels}, {"classes": '["cat", "dog"]'})
    headers = {"Content-Type": "application/octet-stream"}
    answer = place.client.post("/datasets?name=pets", content=content, headers=headers)
    assert answer.status_code == 201, answer.text
    facts = answer.json()["facts"]
    assert (facts["images"], facts["class_names"]) == (6, ["cat", "dog"])
    assert place.service.datasets.list()[0].path.endswith("/pets.safetensors")
    assert place.client.get(f"/jobs/{place.make(dataset='pets')}").json()["dataset"] == "pets"
    broken = place.client.post("/datasets?name=bad", content=content[:60], headers=headers)
    assert (broken.status_code, broken.json()["code"]) == (422, "dataset_unsupported")


def evil_tar(kind: bytes, link: str = "/etc/passwd") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("cat/x.png")
        member.type, member.linkname = kind, link
        archive.addfile(member)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "zip"), (b"PK\x03\x04garbage", "zip"), (b"not an archive", "zip"),
        (zip_of({"../../evil.png": png(1)}), "zip"), (zip_of({"/abs/evil.png": png(1)}), "zip"),
        (zip_of({"a/readme.txt": b"x"}), "zip"), (zip_of({"one/1.png": png(1)}), "zip"),
        (zip_of({f"{c}/1.png": b"no image" for c in "ab"}), "zip"),
        (evil_tar(tarfile.SYMTYPE), "x-tar"), (evil_tar(tarfile.LNKTYPE), "x-tar"),
        (evil_tar(tarfile.CHRTYPE), "x-tar"), (b"\x1f\x8b" + b"\0" * 50, "gzip"),
    ],
)  # fmt: skip
def test_bad_archives_are_refused_and_leave_nothing(
    place: Place, content: bytes, kind: str
) -> None:
    headers = {"Content-Type": f"application/{kind}"}
    answer = place.client.post("/datasets?name=evil", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_unsupported"), answer.text
    assert str(place.settings.data) not in answer.text
    assert place.service.datasets.list() == []
    assert list((place.settings.data / "uploads").iterdir()) == []
    assert not list(place.settings.data.parent.rglob("evil.png"))


@pytest.mark.parametrize("changes", [{"max_upload_bytes": 1000}])
def test_uploads_are_limited_with_and_without_a_length(place: Place) -> None:
    def blocks():
        for _ in range(20):
            yield b"x" * 100

    for content in (b"x" * 1001, blocks()):
        answer = place.client.post("/datasets?name=big", content=content, headers=ZIP)
        assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    uploads = place.settings.data / "uploads"
    assert not uploads.exists() or list(uploads.iterdir()) == []


@pytest.mark.parametrize("name", ["..", "a/b", ".x", "", "a" * 64, "a b", "ä", "-x", "/a"])
def test_names_of_uploads(place: Place, name: str) -> None:
    answer = place.client.post(
        "/datasets", params={"name": name}, content=zip_of(photos()), headers=ZIP
    )
    assert answer.status_code == 422


def test_names_are_taken_once(place: Place) -> None:
    assert place.settings.datasets is not None
    (place.settings.datasets / "mounted").mkdir(parents=True)
    for name in ("digits", "mounted"):
        answer = place.client.post(f"/datasets?name={name}", content=b"x", headers=ZIP)
        assert (answer.status_code, answer.json()["code"]) == (409, "dataset_exists")
    answers: list[int] = []

    def send() -> None:
        content = zip_of(photos())
        answers.append(
            place.client.post("/datasets?name=pets", content=content, headers=ZIP).status_code
        )

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, 409]
    assert len(list((place.settings.data / "uploads").iterdir())) == 1


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "", "multipart/form-data"])
def test_other_bodies_are_refused(place: Place, kind: str) -> None:
    answer = place.client.post("/datasets?name=x", content=b"x", headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_only_uploads_are_deleted(place: Place) -> None:
    answer = place.client.delete("/datasets/digits")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert place.client.delete("/datasets/nothing").status_code == 404


def test_mounted_folders_and_no_links(place: Place, tmp_path: Path) -> None:
    mounted = place.settings.datasets
    assert mounted is not None
    for name, content in photos().items():
        path = mounted / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (mounted / "more.tar.gz").write_bytes(b"x")
    (mounted / "notes.txt").write_text("x")
    (mounted / ".hidden").mkdir()
    (mounted / "away").symlink_to(tmp_path)
    listed = place.client.get("/datasets").json()["data"]
    assert [each["name"] for each in listed] == ["digits", "more", "pets"]
    facts = place.client.get("/datasets/pets").json()["facts"]
    assert (facts["classes"], facts["images"], facts["image_size"]) == (2, 6, 8)
    for name in ("away", ".hidden", "notes"):
        answer = place.client.post("/jobs", json={"dataset": name})
        assert answer.json()["code"] == "dataset_not_found", name
    broken = place.client.get("/datasets/more")
    assert (broken.status_code, broken.json()["code"]) == (422, "dataset_unsupported")
    assert str(mounted) not in broken.text


@pytest.mark.parametrize(
    "name",
    ["../digits", "/etc/passwd", "a/../b", "~root", "C:\\x", "http://x/y.zip", "file:///etc",
     "a/b/c", "owner/name@../x", "owner/..", "%2e%2e", "x\ny", "․․/x", "-rf", "a--b/c--d"],
)  # fmt: skip
def test_names_that_are_none(place: Place, name: str) -> None:
    with pytest.raises(Problem):
        find_dataset(None, name, settings=place.settings, uploads=place.service.datasets)
    assert place.client.post("/jobs", json={"dataset": name}).status_code == 422


def test_hub_ids() -> None:
    assert is_hub_id("uoft-cs/cifar10") and is_hub_id("a/b@main") and is_hub_id("a/b@refs/pr/1")
    assert not is_hub_id("a") and not is_hub_id("a/b@") and not is_hub_id("a/b@-x")


def test_models_tell_their_licence(place: Place) -> None:
    models = {each["id"]: each for each in place.client.get("/models").json()["data"]}
    assert models["pixel"]["is_here"] and not models["pixel"]["non_commercial"]
    assert models["facebook/DiT-XL-2-256"]["licence"] == "cc-by-nc-4.0"


def test_pipelines_that_are_here_are_listed_and_can_be_named(place: Place) -> None:
    models = place.settings.models
    assert models is not None
    write_folder(models / "insects")
    write_folder(models / "no name!")
    (write_folder(models / "broken") / "vae" / "config.json").unlink()
    commit = place.settings.hub_cache / "models--org--dit" / "snapshots" / ("a" * 40)
    write_folder(commit)
    listed = {each["id"]: each for each in place.client.get("/models").json()["data"][3:]}
    assert set(listed) == {"org/dit", "insects"}
    assert listed["insects"] == {
        "object": "model", "id": "insects", "kind": "latent", "image_size": 32, "licence": "mit",
        "non_commercial": False, "is_here": True,
    }  # fmt: skip
    answer = place.client.post("/jobs", json={"base": {"reference": "insects"}})
    assert answer.status_code == 202 and str(models) not in answer.text
    assert answer.json()["request"]["base"]["reference"] == "insects"
    job = place.store.get(answer.json()["id"])
    assert job is not None and job.request["base"]["reference"] == str(models / "insects")
    for name in ("..", "nothing", "insects/vae", str(models / "insects")):
        answer = place.client.post("/jobs", json={"base": {"reference": name}})
        assert answer.status_code == 422 and answer.json()["code"] != "internal_error", name


def test_an_estimate_says_what_the_same_job_would_take(place: Place) -> None:
    body = {"dataset": "digits", "ipc": 10, "preset": "smoke"}
    # a worker elsewhere: its machine is looked at, and nothing is timed here
    facts = {"host": "elsewhere", "cores": 4, "memory_bytes": 8e9, "gpu": None}
    place.service.workers.start("w", "b", facts)
    answer = place.client.post("/estimates", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert 0 < found["seconds"]["low"] < found["seconds"]["expected"] < found["seconds"]["high"]
    assert [stage["name"] for stage in found["stages"]][:2] == ["prepare", "base"]
    assert found["dataset"] == {"classes": 10, "images": 1797, "smallest_class": 97}
    assert found["config"]["images_per_class"] == 10 and found["licence"] is None
    assert found["non_commercial"] is False
    assert sum(place.store.counts().values()) == 0
    for bad in ({"ipc": 500}, {"ipc": 0}, {"dataset": "nothing"}, {"refin": {}}):
        refused = place.client.post("/estimates", json=body | bad)
        assert refused.status_code == 422, refused.text


def test_a_child_that_dies_is_no_crash(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.children.MODULE", "app.api.nothing")
    answer = place.client.get("/datasets/digits")
    assert (answer.status_code, answer.json()["code"]) == (503, "inspection_failed")


def test_children_see_no_secrets(settings) -> None:
    from app.settings import read_settings

    env = {"HF_TOKEN": "s", "DISTILLERY_API_KEY": "s", "AWS_SECRET": "s", "PATH": "/bin"}
    assert read_settings(env | {"HOME": "/h"}).child_environment == {"PATH": "/bin", "HOME": "/h"}
