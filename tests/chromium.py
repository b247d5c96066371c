"""A real headless Chromium for tests of pages: `Chromium` starts it, `Page` opens a page and looks at it.

Commands of the DevTools protocol go over a pair of pipes (`--remote-debugging-pipe`), as JSON that ends in a zero byte:
no driver program, no package, no port. Tests take the fixture `chromium` of conftest.py:

    page = chromium.page(width=360, dark=True)
    page.open(path_or_url)
    page.wait_for(".result")
    page.screenshot(tmp_path / "page.png")
    assert not page.problems and not page.fetched("http")
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")
INSTALL_SECONDS = 200.0
ANSWER_SECONDS = 30.0

FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MB in a container
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--force-color-profile=srgb",
    # A camera that needs no one's consent: a green picture with a moving clock.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)

# Puts the pipes where Chromium looks for them.
_LAUNCHER = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class ChromiumMissingError(Exception):
    """There is none and none can be installed; says why."""


class PageError(AssertionError):
    """The page did not do what was asked of it in time, or a script in it failed."""


def find_chromium() -> str:
    """The program's path; installed from the system's packages if it is missing and this is root on a Debian system.

    Raises:
        ChromiumMissingError: there is none, and why it cannot be installed.
    """
    if os.name != "posix":
        raise ChromiumMissingError("Chromium is spoken to over inherited pipes, which only POSIX systems have")
    found = _found()
    if found is not None:
        return found
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        raise ChromiumMissingError("no Chromium on the path, and no apt-get to install it with")
    if os.geteuid() != 0:
        raise ChromiumMissingError(f"no Chromium on the path; `apt-get install {PACKAGES[0]}` needs root")
    deadline = time.monotonic() + INSTALL_SECONDS
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        command = ["apt-get", "-q", *words]
        try:
            subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                timeout=max(1.0, deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired as error:
            raise ChromiumMissingError(f"`{' '.join(command)}` took longer than {INSTALL_SECONDS:.0f} s") from error
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or error.stdout.strip() or "no message").splitlines()[-1]
            raise ChromiumMissingError(f"`{' '.join(command)}` failed: {last}") from error
    found = _found()
    if found is None:
        raise ChromiumMissingError(f"{PACKAGES[0]} is installed, but none of {', '.join(NAMES)} is on the path")
    return found


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


class Chromium:
    """A running browser; a context manager.

    Args:
        program: see `find_chromium`.
        flags: more of its options.
    """

    def __init__(self, program: str, flags: Sequence[str] = ()) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        (theirs_in, self._write), (self._read, theirs_out) = _pipe(), _pipe()
        options = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", *flags]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # which root cannot have
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, str(theirs_in), str(theirs_out), program, *options],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def page(self, width: int = 1280, height: int = 800, *, dark: bool = False) -> Page:
        """A new empty page with storage of its own; its viewport in CSS pixels, and whether it prefers dark colours."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target, context)
        self._pages[session] = page
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.emulate(dark=dark)
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol; its answer.

        Raises:
            PageError: Chromium refuses it, or does not answer.
        """
        number = next(self._numbers)
        answer = self._answers[number] = queue.Queue(1)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        try:
            result = answer.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise PageError(
                f"{method}: no answer within {ANSWER_SECONDS:.0f} s (exit {self._process.poll()})"
            ) from None
        finally:
            del self._answers[number]
        if "error" in result:
            raise PageError(f"{method}: {result['error'].get('message')}")
        content: dict[str, Any] = result["result"]
        return content

    def close(self) -> None:
        """End it and remove its profile."""
        with contextlib.suppress(PageError, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(5)
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        held = b""
        while data := os.read(self._read, 1 << 20):
            *messages, held = (held + data).split(b"\0")
            for text in messages:
                message = json.loads(text)
                if (answer := self._answers.get(message.get("id", 0))) is not None:
                    answer.put(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.note(message["method"], message["params"])


@dataclass
class Page:
    """A page of a `Chromium`.

    Attributes:
        problems: what its scripts have thrown and written as errors, and what the browser complains about (a resource
            that fails to load, a broken content policy), as text.
        requested: addresses of everything that it has asked for.
    """

    browser: Chromium
    session: str
    target: str
    context: str
    problems: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol for this page."""
        return self.browser.call(method, self.session, **parameters)

    def open(self, place: str | Path, seconds: float = 20.0) -> None:
        """Go to a URL or a file and wait until it is loaded."""
        address = place.resolve().as_uri() if isinstance(place, Path) else place
        failure = self.call("Page.navigate", url=address).get("errorText")
        if failure:
            raise PageError(f"{address}: {failure}")
        self.wait_until("document.readyState === 'complete'", seconds)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise; counts as the user's doing."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(f"{expression}: {details.get('exception', {}).get('description') or details['text']}")
        return answer["result"].get("value")

    def wait_until(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                text = self.evaluate("document.body ? document.body.innerText : ''")
                raise PageError(f"not true within {seconds:.0f} s: {expression}; the page says: {text[:2000]}")
            time.sleep(0.05)

    def wait_for(self, selector: str, seconds: float = 20.0) -> None:
        """Wait until an element is there and visible."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_until(f"{found} && {found}.checkVisibility()", seconds)

    def is_visible(self, selector: str) -> bool:
        """Whether there is such an element, and it is displayed."""
        found = f"document.querySelector({json.dumps(selector)})"
        return bool(self.evaluate(f"Boolean({found} && {found}.checkVisibility())"))

    def text(self, selector: str = "body") -> str:
        """The text of the first such element as a person sees it."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def texts(self, selector: str) -> list[str]:
        """The same of all such elements."""
        every = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return list(self.evaluate(f"{every}.map(element => element.innerText)"))

    def click(self, selector: str) -> None:
        """Click on the first such element."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press and release a key, such as ("Tab", 9), or one with its text."""
        how = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **how, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **how)

    def upload(self, selector: str, *files: Path) -> None:
        """Choose files in the file input that the selector names."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path.resolve()) for path in files])

    def resize(self, width: int, height: int = 800) -> None:
        """Set the viewport, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def emulate(self, *, dark: bool = False, media: str = "") -> None:
        """The preferred colour scheme, and the medium ("print", or "" for the screen)."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def overflow(self) -> int:
        """By how many pixels the page is wider than its viewport, so that a person would have to scroll sideways."""
        return int(self.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        """A PNG of the whole page, or of what the viewport shows."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def fetched(self, *prefixes: str) -> list[str]:
        """What the page has asked for whose address starts with one of these."""
        return [address for address in self.requested if address.startswith(prefixes)]

    def close(self) -> None:
        """Close the page and forget its storage."""
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    def note(self, method: str, details: dict[str, Any]) -> None:
        """Keep what an event says; called by the browser's thread."""
        if method == "Network.requestWillBeSent":
            self.requested.append(details["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            thrown = details["exceptionDetails"]
            self.problems.append(thrown.get("exception", {}).get("description") or thrown["text"])
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"):
            self.problems.append(" ".join(str(item.get("value", item.get("description"))) for item in details["args"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(f"{details['entry']['text']} {details['entry'].get('url', '')}".strip())


def _pipe() -> tuple[int, int]:
    """Reading and writing end, both above the numbers that Chromium wants them to have."""
    import fcntl

    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]
