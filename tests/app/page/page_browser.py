"""A real Chromium without a window, driven through the DevTools protocol over a pipe.

Small on purpose: what a reader does (look, click, type, press a key, turn scripts off) and what a
developer would look at (errors of the console, blocked resources). No package beside Chromium.
"""

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-pipe", "--force-color-profile=srgb", "--lang=en-GB",
)  # fmt: skip
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39, "ArrowLeft": 37}


def find_chromium() -> str | None:
    """Return the path of a Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A running Chromium; a context manager that ends it."""

    def __init__(self, path: str) -> None:
        self.home = tempfile.mkdtemp(prefix="distillery-browser-")
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        words = [path, *FLAGS, f"--user-data-dir={self.home}", "about:blank"]
        # the protocol is on descriptors 3 (commands) and 4 (answers)
        script = f'exec "$@" 3<&{to_child} 4>&{from_child}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words], pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "TZ": "UTC"},
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        self._ids = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.pages: dict[str, Page] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close", timeout_s=5.0)
            self.process.wait(10)
        except (OSError, queue.Empty, subprocess.TimeoutExpired):
            self.process.kill()
        self.process.wait()
        os.close(self._out)
        shutil.rmtree(self.home, ignore_errors=True)

    def _read(self) -> None:
        buffer = b""
        while chunk := os.read(self._in, 1 << 16):
            *messages, buffer = (buffer + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.pop(message["id"]).put(message)
                elif page := self.pages.get(message.get("sessionId", "")):
                    page.on_event(message["method"], message["params"])
        os.close(self._in)

    def call(
        self, method: str, session: str | None = None, timeout_s: float = 30.0, **params: Any
    ) -> Any:
        """Send a command and return its result."""
        number, answer = next(self._ids), queue.Queue[dict[str, Any]](1)
        self._answers[number] = answer
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        found = answer.get(timeout=timeout_s)
        assert "error" not in found, f"{method}: {found['error']}"
        return found["result"]

    def open(self, url: str = "about:blank") -> "Page":
        """Return a new page in a context of its own: no cookies, nothing stored."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"], context)
        if url != "about:blank":
            page.goto(url)
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self.browser, self.session, self.context = browser, session, context
        self.errors: list[str] = []
        """Exceptions, errors of the console and everything that the policy blocked."""
        browser.pages[session] = self
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(1280, 900)

    def call(self, method: str, **params: Any) -> Any:
        """Send a command for this tab."""
        return self.browser.call(method, self.session, **params)

    def on_event(self, method: str, params: dict[str, Any]) -> None:
        """Take note of what went wrong in the page."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(str(params["args"]))

    def goto(self, url: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        """Load the page again."""
        self.run("window.wasHere = true")
        self.call("Page.reload")
        self.wait("document.readyState === 'complete' && !window.wasHere")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 30.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except AssertionError:  # between two documents
                pass
            assert time.monotonic() < end, f"not within {timeout_s} s: {condition}; {self.errors}"
            time.sleep(0.05)

    def text(self, selector: str = "main") -> str:
        """Return the text of an element as it is seen."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Click in the middle of an element with the mouse, as soon as the page is there."""
        self.wait(
            f"document.readyState === 'complete' && document.querySelector({json.dumps(selector)})"
        )
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left",
                      clickCount=1)  # fmt: skip

    def type(self, selector: str, text: str) -> None:
        """Put text into a field, in place of what is in it."""
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
                 "e.focus(); e.select?.(); })()")  # fmt: skip
        self.call("Input.insertText", text=text)

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a file field, as the reader would in the system's dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the window a size in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=is_phone)  # fmt: skip

    def set_scheme(self, scheme: str) -> None:
        """Say that the system is `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def set_scripts(self, are_on: bool) -> None:
        """Turn scripts on or off from the next document on."""
        self.call("Emulation.setScriptExecutionDisabled", value=not are_on)

    def screenshot(self, path: Path, *, is_whole: bool = True) -> None:
        """Write a picture of the page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole,
                          **({"clip": self._whole()} if is_whole else {}))  # fmt: skip
        path.write_bytes(base64.b64decode(found["data"]))

    def _whole(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def download_to(self, folder: Path) -> None:
        """Let downloads land in a folder."""
        self.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder),
                          browserContextId=self.context)  # fmt: skip
