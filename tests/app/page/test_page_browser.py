"""The page in a real Chromium, against a real service that really distils; takes minutes."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_browser import Browser, Page, find_chromium
from PIL import Image

import distillery
from app.page import text
from app.page.job_routes import log_line
from app.page.phases import PHASES

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
SERVE = "from app.cli.main import main; import sys; sys.argv[0] = 'distillery'; sys.exit(main())"
PATIENCE_S = 300.0
STATUS = "document.querySelector('#part-head').dataset.status"


@dataclass
class Running:
    """A service and where it is."""

    url: str
    login: str
    page: Page
    """Logged in."""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the API as the page would."""
        return self.page.run(
            f"fetch({json.dumps(path)}, {{method: {json.dumps(method)}, headers: "
            "{'Content-Type': 'application/json'}, "
            f"body: {'undefined' if body is None else json.dumps(json.dumps(body))}}})"
            ".then(r => r.status === 204 ? null : r.json())"
        )

    def finished_job(self) -> dict[str, Any]:
        """Return a job that succeeded; another test's, or one that is run for it."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            jobs = self.ask("GET", "/jobs")["data"]
            if done := [job for job in jobs if job["status"] == "succeeded"]:
                return done[0]
            if not any(job["status"] in ("queued", "running") for job in jobs):
                self.ask("POST", "/jobs", {"dataset": "digits", "ipc": 5, "preset": "smoke"})
            time.sleep(1)
        raise AssertionError("no job has succeeded")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with Browser(CHROMIUM) as found:
        yield found


@pytest.fixture(scope="module")
def running(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    env = {**os.environ, "DISTILLERY_CACHE": str(folder / "cache"), "NO_COLOR": "1",
           "HOME": str(folder), "PYTHONUNBUFFERED": "1"}  # fmt: skip
    words = [sys.executable, "-c", SERVE, "serve", "--port", "0", "--data", str(folder / "data")]
    log = folder / "serve.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env=env)
    try:
        links = _wait_for(log, r"(http://\S+?)/login\?token=(\S+)")
        url, login = links[1], links[0]
        page = browser.open(login)
        yield Running(url, login, page)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(log: Path, pattern: str) -> re.Match[str]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if found := re.search(pattern, log.read_text()):
            return found
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_link_logs_in_once(running: Running, browser: Browser) -> None:
    assert running.page.run("location.pathname") == "/"
    assert "Distil your first dataset" in running.page.text()
    assert running.page.errors == []
    other = browser.open(running.login)
    assert "has been used" in other.text()


def test_submit_watch_reload_and_download(running: Running, tmp_path: Path) -> None:
    page = running.page
    page.goto(f"{running.url}/new")
    page.click("[data-ipc='5']")
    page.click("input[name=preset][value=smoke]")
    page.type("#name", "<b>bold</b> name")
    assert "ipc=5" in page.run("location.search")
    curl = page.text("#same .tab code")
    assert '"preset":"smoke"' in curl and "DISTILLERY_API_KEY" in curl
    page.click("#submit")
    page.wait("location.pathname.startsWith('/ui/jobs/')", PATIENCE_S)
    page.wait(f"{STATUS} === 'running'", PATIENCE_S)
    page.wait("document.querySelector('#now-bar').value > 0.02", PATIENCE_S)
    _reload_in_the_middle(page)
    page.wait(f"{STATUS} === 'succeeded'", PATIENCE_S)
    assert "<b>bold</b> name" in page.text("h1")
    assert page.run("document.querySelectorAll('#part-steps .succeeded').length") == len(PHASES)
    page.wait("document.querySelectorAll('#curves figure').length >= 3")
    page.wait("document.querySelector('#samples figure:not([hidden]) img').naturalWidth > 100")
    assert "job succeeded" in page.text("#log")
    _download(page, tmp_path)
    assert page.errors == []


def _reload_in_the_middle(page: Page) -> None:
    """What was there before a reload is there after it, and it goes on."""
    lines = page.run("document.querySelectorAll('#log li').length")
    before = page.run("document.querySelector('#now-bar').value")
    page.reload()
    assert page.run("document.querySelectorAll('#log li').length") >= lines
    if page.run(STATUS) == "running":
        assert page.run("document.querySelector('#now-bar').value") >= before - 1e-4
        page.wait(f"{STATUS} !== 'running' || document.querySelector('#now-bar').value > {before}",
                  PATIENCE_S)  # fmt: skip
    times = page.run("[...document.querySelectorAll('#log li')].map(l => +l.dataset.seq)")
    assert times == sorted(set(times))


def _download(page: Page, folder: Path) -> None:
    """The bundle that the result page hands out is whole, and the hash beside it is its own."""
    page.click("#part-notes a.button.primary")
    page.wait("location.pathname.endsWith('/result')")
    page.wait(
        "[...document.querySelectorAll('#classes img')].slice(0, 5).every(i => i.naturalWidth)"
    )
    page.download_to(folder)
    page.click(".files tbody a[download]")
    path = folder / "distilled.safetensors"
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.1)
    data = distillery.load(path)
    assert data.images.shape == (50, 1, 8, 8)
    shown = page.run("document.querySelector('.files .sha code').title")
    assert shown == hashlib.sha256(path.read_bytes()).hexdigest()


SEEN_STREAMS = """
window.streams = [];
const Kept = window.EventSource;
window.EventSource = class extends Kept {
  constructor(...words) { super(...words); window.streams.push(this); }
};
"""


def test_cancel_retry_and_delete(running: Running) -> None:
    page = running.page
    job = running.ask("POST", "/jobs", {"dataset": "digits", "ipc": 3, "seed": 4})
    page.call("Page.addScriptToEvaluateOnNewDocument", source=SEEN_STREAMS)
    page.goto(running.url + job["urls"]["page"])
    page.wait(f"{STATUS} === 'running' && document.querySelector('#now-bar').value > 0", PATIENCE_S)
    page.click("[data-action=cancel]")
    page.wait(f"{STATUS} === 'canceled'", PATIENCE_S)
    assert "job canceled" in page.text("#log")
    page.click("[data-action=retry]")
    page.wait(f"{STATUS} === 'running'", PATIENCE_S)
    assert "attempt 2" in page.text("#part-head")
    # the end of the first attempt, told again, must not end the stream of the second
    page.run("streams.at(-1).dispatchEvent(new MessageEvent('done', {data: '{}'}))")
    running.ask("POST", job["urls"]["cancel"])
    page.wait(f"{STATUS} === 'canceled'", PATIENCE_S)
    page.click("[data-action=delete]")
    page.wait("document.querySelector('#confirm').open")
    page.press("Escape")
    page.wait("!document.querySelector('#confirm').open")
    page.click("[data-action=delete]")
    page.click("#confirm button[value=yes]")
    page.wait("location.pathname === '/'")
    assert job["id"] not in [each["id"] for each in running.ask("GET", "/jobs")["data"]]
    assert page.errors == []


def test_an_archive_becomes_a_dataset(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "my pets (1).zip"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for name in [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(15)]:
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(picture, "PNG")
            archive.writestr(name, picture.getvalue())
    page = running.page
    page.goto(f"{running.url}/new")
    page.choose_file("#archive", path)
    page.wait("document.querySelector('input[name=dataset][value=my-pets-1]')", PATIENCE_S)
    assert page.run("document.querySelector('input[name=dataset]:checked').value") == "my-pets-1"
    assert "2 classes, 30 images" in page.text("#datasets")
    assert "my-pets-1" in page.text("#same .tab code")
    page.choose_file("#archive", path)
    page.wait("document.querySelector('.toast.bad')", PATIENCE_S)
    assert "already" in page.text(".toast.bad")
    page.reload()
    assert page.run("document.querySelector('input[name=dataset]:checked').value") == "my-pets-1"
    page.errors.clear()  # the second upload was refused


def test_mistakes_are_shown_beside_their_fields(running: Running) -> None:
    page = running.page
    page.goto(f"{running.url}/new?dataset=digits&ipc=5000&set=refine.nun_steps=4")
    page.wait("!document.querySelector('[data-for=ipc]').hidden", PATIENCE_S)
    assert "1000" in page.text("[data-for=ipc]")
    assert "num_steps" in page.text("#form-error")
    assert page.run("document.querySelector('#ipc').getAttribute('aria-invalid')") == "true"
    page.errors.clear()  # the refused estimates


def test_an_estimate_comes_before_anything_runs(running: Running) -> None:
    page = running.page
    page.goto(f"{running.url}/new?dataset=digits&ipc=5&preset=smoke")
    page.wait("document.querySelector('.estimate-time')", PATIENCE_S)
    assert "about" in page.text(".estimate-time")
    assert "1,797 images, 10 classes" in page.text("#estimate-body")
    assert page.run("document.querySelectorAll('.estimate-bars li').length") >= 3
    page.errors.clear()  # a busy machine may have asked for patience


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(running: Running, scheme: str) -> None:
    page = running.page
    done = running.finished_job()
    here, pair = done["urls"]["page"], f"/ui/compare?a={done['id']}&b={done['id']}"
    page.set_scheme(scheme)
    page.resize(400, 800, is_phone=True)
    try:
        for path in ("/", "/system", "/new", here, f"{here}/result", f"{here}/classes/0", pair):
            page.goto(running.url + path)
            assert page.run("document.documentElement.scrollWidth") <= 400, path
            wanted = "rgb(246, 246, 243)" if scheme == "light" else "rgb(15, 17, 21)"
            assert page.run("getComputedStyle(document.body).backgroundColor") == wanted
        assert page.errors == []
    finally:
        page.set_scheme("light")
        page.resize(1280, 900)


def test_the_reader_chooses_the_colours(running: Running) -> None:
    page = running.page
    page.goto(running.url)
    for wanted in ("light", "dark"):
        page.click("#theme")
        assert page.run("document.documentElement.dataset.theme") == wanted
    page.reload()
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(15, 17, 21)"
    page.click("#theme")


def test_the_keyboard_reaches_everything(running: Running) -> None:
    page = running.page
    page.goto(f"{running.url}/new")
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    page.wait("document.activeElement.id === 'main'")
    seen = []
    for _ in range(40):
        page.press("Tab")
        seen.append(page.run("document.activeElement.id || document.activeElement.name"))
        ring = page.run(
            "(() => { const e = document.activeElement.closest('.choice, .upload') || "
            "document.activeElement; return getComputedStyle(e).outlineStyle; })()"
        )
        assert ring != "none", seen
        if seen[-1] == "submit":
            break
    for name in ("dataset", "archive", "ipc", "preset", "name", "submit"):
        assert name in seen


def test_pages_are_read_without_scripts(running: Running) -> None:
    page = running.page
    done = running.finished_job()
    page.set_scripts(False)
    try:
        page.goto(running.url + done["urls"]["page"])
        # six steps of fine-tuning are one report, and one point is no curve
        assert page.run("document.querySelectorAll('#curves polyline').length") >= 2
        assert page.run("document.querySelectorAll('#log li').length") > 10
        buttons = "[...document.querySelectorAll('button')].filter(b => b.offsetParent).length"
        assert page.run(buttons) == 0
    finally:
        page.set_scripts(True)


def test_both_sides_say_the_same(running: Running) -> None:
    """What the server writes and what the scripts write later are the same words."""
    page = running.page
    page.goto(running.url)
    spans = [0.04, 3.21, 9.97, 12, 59.6, 60, 200, 3599.7, 7800]
    for name, ours in (("duration", text.duration), ("remaining", text.remaining)):
        script = f"import('/static/core.js').then(m => {json.dumps(spans)}.map(m.{name}))"
        assert page.run(script) == [ours(s).replace(text.THIN, " ") for s in spans], name
    sizes = [0, 999, 12960, 9.99e6, 3e12]
    script = f"import('/static/core.js').then(m => {json.dumps(sizes)}.map(m.size))"
    assert page.run(script) == [text.size(s).replace(text.THIN, " ") for s in sizes]
    done = running.finished_job()
    events = running.ask("GET", done["urls"]["events"])["data"]
    told = [e for e in events if e["kind"] in ("status", "stage", "log")]
    titles = json.dumps([[name, title] for name, (title, _) in PHASES.items()])
    theirs = page.run(
        f"import('/static/log.js').then(m => {json.dumps(told)}.map("
        f"e => m.logText(e.kind, e.data, new Map({titles}))))"
    )
    for event, line in zip(told, theirs, strict=True):
        ours_line = log_line(_Event(event["seq"], event["kind"], event["data"]))  # type: ignore[arg-type]
        found = ours_line and [ours_line["level"], ours_line["text"].replace(text.THIN, " ")]
        assert line == found


@dataclass
class _Event:
    """An event as the store gives it."""

    seq: int
    kind: str
    data: dict[str, Any]
    at: None = None
