"""Every page: answers, escapes, keeps to the policy, and can be read without scripts."""

import html.parser
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import CLASSES, HOSTILE, Site, make_dataset
from PIL import Image

STATIC = Path(__file__).parents[3] / "app" / "page" / "static"
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Reader(html.parser.HTMLParser):
    """Collects what the policy forbids, and checks that elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "style" or (tag == "script" and "src" not in values) or tag == "base":
            self.bad.append(f"<{tag}>")
        for name, value in attrs:
            is_away = name in ("src", "href", "action") and re.match(r"\w+:|//", value or "")
            if name == "style" or name.startswith("on") or is_away:
                self.bad.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def check(page: str) -> Reader:
    reader = Reader(page)
    assert reader.bad == []
    assert "<script>alert" not in page
    ids = [values["id"] for _, values in reader.tags if "id" in values]
    assert len(ids) == len(set(ids)), "an id stands twice"
    unnamed = [values for tag, values in reader.tags if tag == "img" and "alt" not in values]
    assert unnamed == []
    return reader


def events(site: Site, job_id: str) -> None:
    store = site.service.store
    for step in range(1, 5):
        values = {"loss": 1 / step, HOSTILE: float(step)}
        store.add_event(job_id, "metric", {"phase": "base", "step": step, "values": values})
    store.add_event(job_id, "log", {"level": "warning", "message": HOSTILE})
    url = f"/jobs/{job_id}/files/previews/samples.png?v=1"
    store.add_event(job_id, "preview", {"name": "samples", "url": url, "images": 12})
    store.add_event(job_id, "preview", {"name": "away", "url": "https://evil.example/x.png"})
    progress = {"phase": "finetune", "value": 0.425, "message": HOSTILE, "eta_seconds": 90}
    store.add_event(job_id, "progress", {"progress": progress}, progress=progress)


def test_without_jobs_the_first_page_shows_how_to_begin(site: Site) -> None:
    page = site.page("/")
    check(page)
    assert "data-demo" in page
    assert "curl http://localhost/jobs" in page
    assert "No worker is running" in page


def test_every_page_keeps_to_the_policy_and_escapes(site: Site) -> None:
    done = site.finish(site.start(name=HOSTILE))
    running = site.start(name=HOSTILE)
    events(site, running.id)
    site.create(name=HOSTILE)
    site.service.workers.start("w", "b", {"device": HOSTILE, "job": running.id, "stage": HOSTILE})
    site.service.datasets.create("pets", kind="archive", path="/x/pets.zip", status="ready",
                                 facts={"classes": 3, "images": 1200})  # fmt: skip
    paths = ["/", "/new", f"/new?from={done.id}", "/system", "/login", "/?status=active",
             f"/new?dataset={HOSTILE}&set=a={HOSTILE}"]  # fmt: skip
    paths += [f"/ui/jobs/{running.id}", f"/ui/jobs/{done.id}", f"/ui/jobs/{done.id}/result"]
    for path in [*paths, f"/ui/jobs/{done.id}/classes/2"]:
        page = site.page(path)
        check(page)
        assert page.startswith("<!doctype html>"), path
        policy = site.client.get(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy


def test_a_running_job_can_be_read_without_scripts(site: Site) -> None:
    job = site.start()
    events(site, job.id)
    page = site.page(f"/ui/jobs/{job.id}")
    reader = check(page)
    bar = next(values for tag, values in reader.tags if values.get("id") == "now-bar")
    assert bar["value"] == "0.4250"
    assert 'http-equiv="refresh"' in page
    assert page.count("<polyline") == 2
    assert "about 2\N{NO-BREAK SPACE}min left" in page
    assert f"/jobs/{job.id}/files/previews/samples.png?v=1" in page
    assert "evil.example" not in page
    steps = [values for tag, values in reader.tags if str(values.get("id", "")).startswith("step-")]
    assert len(steps) == 11
    assert [s["id"] for s in steps if s.get("aria-current") == "step"] == ["step-finetune"]


def test_a_failed_job_says_what_happened_and_what_to_do(site: Site) -> None:
    job = site.start()
    error = {"code": "gpu_out_of_memory", "message": f"too large {HOSTILE}", "hint": "use less",
             "phase": "finetune", "retryable": True, "log_tail": "line 1\nline 2"}  # fmt: skip
    site.service.store.change(job.id, expect={"running"}, status="failed", error=error)
    page = site.page(f"/ui/jobs/{job.id}")
    check(page)
    for words in ("Fine-tune failed", "gpu_out_of_memory", "use less", "line 2", 'data-action="re'):
        assert words in page
    assert 'http-equiv="refresh"' not in page


def test_queue_positions(site: Site) -> None:
    first, second = site.create(), site.create()
    assert "next in the queue" in site.page(f"/ui/jobs/{first.id}")
    assert "1 ahead in the queue" in site.page(f"/ui/jobs/{second.id}")
    site.service.workers.start("w", "b", {"device": "CPU"})
    page = site.page("/")
    assert "1 ahead in the queue" in page and "2\N{NO-BREAK SPACE}jobs waiting" in page


def test_lists_are_filtered_and_paged(site: Site) -> None:
    jobs = [site.create(name=f"job number {number}") for number in range(23)]
    site.service.store.change(jobs[0].id, expect={"queued"}, status="canceled")
    page = site.page("/")
    assert page.count('class="job ') == 20
    older = re.search(r'href="(/\?after=[^"]+)"', page)
    assert older is not None
    assert site.page(older[1]).count('class="job ') == 3
    assert site.page("/?status=canceled").count('class="job ') == 1
    assert "No failed jobs" in site.page("/?status=failed")
    assert site.page("/?status=nonsense").count('class="job ') == 20


def test_the_result_shows_images_controls_files_and_loaders(site: Site) -> None:
    job = site.finish(site.start(name="mine"))
    page = site.page(f"/ui/jobs/{job.id}/result")
    reader = check(page)
    pictures = [v["src"] for tag, v in reader.tags if tag == "img"]
    assert len(pictures) == 12
    sums = (site.service.job_folder(job.id) / "bundle" / "SHA256SUMS").read_text()
    digest = next(line.split()[0] for line in sums.splitlines() if "distilled" in line)
    assert digest in page
    for words in ("90.0", "herding", "distillery.load(", f"distillery download {job.id}",
                  f"/jobs/{job.id}/report", "Groups of similar test images",
                  "Real images were kept", "students of them did better"):  # fmt: skip
        assert words in page
    assert "they may resemble training images" not in page  # they are training images, moved
    for _, values in reader.tags:
        for name in ("cx", "x1", "x2"):
            if name in values:
                assert 0 <= float(str(values[name]).rstrip("%")) <= 100


def test_a_picture_of_the_result(site: Site) -> None:
    job = site.finish(site.start())
    response = site.client.get(f"/ui/jobs/{job.id}/images/5.png?v=1")
    assert response.headers["content-type"] == "image/png"
    assert "immutable" in response.headers["cache-control"]
    pixels = np.asarray(Image.open(io.BytesIO(response.content)))
    assert np.array_equal(pixels, make_dataset().images[5].transpose(1, 2, 0))
    assert site.client.get(f"/ui/jobs/{job.id}/strip.png").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/ui/jobs/job_nothere", "/ui/jobs/job_nothere/result", "/ui/jobs/..%2f..%2fetc/result",
     "/ui/jobs/job_nothere/strip.png", "/ui/jobs/job_nothere/images/0.png"],
)  # fmt: skip
def test_jobs_that_are_not_there(site: Site, path: str) -> None:
    response = site.client.get(path)
    assert response.status_code == 404


def test_an_address_of_nothing_is_a_page_for_browsers_and_a_problem_for_programs(
    site: Site,
) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path in ("/nothing", "/jobs/job_00000000000000000000000000", "/ui/jobs/x/y/z"):
        shown = site.client.get(path, headers=browser)
        assert shown.status_code == 404 and "text/html" in shown.headers["content-type"]
        assert "There is nothing here" in shown.text and 'href="/"' in shown.text
        assert site.client.get(path).json()["code"] == "not_found"
    told = site.client.delete("/jobs/job_00000000000000000000000000", headers=browser)
    assert told.json()["code"] == "not_found", "scripts of the page read problems"


def test_what_a_job_does_not_have(site: Site) -> None:
    running, done = site.start(), site.finish(site.start())
    assert "no result yet" in site.page(f"/ui/jobs/{running.id}/result", 404)
    for path in ("classes/3", "classes/-1", "images/12.png", "images/-1.png"):
        assert site.client.get(f"/ui/jobs/{done.id}/{path}").status_code == 404


def test_a_thousand_classes_come_in_pages(site: Site) -> None:
    classes = tuple(f"class {number}" for number in range(1000))
    job = site.finish(site.start(), make_dataset(classes, 2))
    page = site.page(f"/ui/jobs/{job.id}/result?page=34")
    assert "page 34 of 34" in page and "class 999" in page
    assert page.count('class="class-name"') == 10
    assert len(site.page(f"/ui/jobs/{job.id}/result")) < 200_000
    assert "page 34 of 34" in site.page(f"/ui/jobs/{job.id}/result?page=99")


def test_a_class_shows_each_of_its_images(site: Site) -> None:
    job = site.finish(site.start())
    page = site.page(f"/ui/jobs/{job.id}/classes/1")
    assert CLASSES[1] in page and page.count("noise seed") == 4


def test_pages_ask_who_reads_them(make_site: Callable[..., Site]) -> None:
    site = make_site(DISTILLERY_AUTH="on")
    for path in ("/", "/new", "/system", "/ui/jobs/job_x"):
        page = site.page(path, 401)
        check(page)
        assert 'name="token"' in page
    assert site.client.get("/static/page.css").status_code == 200


def test_static_files_are_asked_for_again(site: Site) -> None:
    first = site.client.get("/static/core.js")
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["cache-control"] == "no-cache"
    again = site.client.get("/static/core.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert site.client.get("/static/../routes.py").status_code == 404
    assert site.client.get("/static/%2e%2e/routes.py").status_code == 404


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda p: p.name)
def test_scripts_and_styles_are_our_own(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    for word in ("innerHTML =", "insertAdjacentHTML", "document.write", "eval(", "new Function",
                 "@import", "setAttribute(\"style\""):  # fmt: skip
        assert word not in text, word
    assert len(text.splitlines()) <= 400


def test_the_scripts_that_pages_name_are_there(site: Site) -> None:
    job = site.finish(site.start())
    names: set[Any] = set()
    for path in ("/", "/new", "/system", "/login", f"/ui/jobs/{job.id}",
                 f"/ui/jobs/{job.id}/result"):  # fmt: skip
        tags = check(site.page(path)).tags
        names |= {v.get("src") or v.get("href") for tag, v in tags if tag in ("script", "link")}
    for script in STATIC.glob("*.js"):
        names |= {
            f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text())
        }
    for name in names:
        assert site.client.get(name).status_code == 200, name
    assert {f"/static/{path.name}" for path in STATIC.iterdir()} == names
