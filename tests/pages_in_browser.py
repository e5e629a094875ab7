"""A real browser for tests of pages: found on the machine, without a network, with axe-core for accessibility."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
REQUIRED = bool(os.environ.get("MMPREF_REQUIRE_BROWSER"))
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="no chromium here; MMPREF_REQUIRE_BROWSER=1 makes that a failure"
)
"""For tests that open a page: skipped without a browser, unless one is required."""
WIDTHS = (360, 800, 1400)
SCHEMES = ("light", "dark")


@contextmanager
def opened() -> Iterator[Any]:
    """A browser of playwright's that runs the machine's own chromium."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, (
        "MMPREF_REQUIRE_BROWSER is set, and there is no chromium, chromium-browser or google-chrome"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


_MARKED = """() => [...document.querySelectorAll('pre, .cell_output > .output, .pst-scrollable-table-container')]
    .every(e => (e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight) || e.tabIndex >= 0)"""
"""Whether all that can be scrolled now can be reached with the Tab key: the theme sees to it, a moment late."""


class Watched:
    """A page without a network that remembers what went wrong in it."""

    def __init__(self, browser: Any, *, scheme: str = "light", width: int = 1400) -> None:
        self.context = browser.new_context(
            offline=True, color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 900}
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)  # milliseconds; a machine may be slow
        self.fetched: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"not loaded: {request.url}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: self._heard(line))

    def _heard(self, line: Any) -> None:
        if line.type in ("error", "warning"):
            self.complaints.append(line.text)

    def open(self, file: Path, query: str = "") -> Any:
        """Load a file as a reader without a server would; returns the page."""
        self.page.goto(file.as_uri() + query, wait_until="load")
        return self.page

    def at(self, width: int) -> None:
        """Make the window so many pixels wide, and wait until a page has marked what can be scrolled now."""
        self.page.set_viewport_size({"width": width, "height": 900})
        with suppress(Exception):  # where it marks nothing, axe-core says so
            self.page.wait_for_function(_MARKED, timeout=10_000)

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found

    def away(self) -> list[str]:
        """What was asked for that is no file of this machine."""
        return [url for url in self.fetched if not url.startswith(("file:", "data:", "blob:"))]

    def violations(self) -> list[str]:
        """What axe-core finds wrong for people who do not see, or do not use a mouse: one line an element."""
        from axe_playwright_python.sync_playwright import Axe

        # without preload, which reads style sheets again and may not in a folder; a page in a frame of this one may run
        # no script of ours, and is looked at where it stands alone
        options = {"preload": False, "iframes": False, "resultTypes": ["violations"]}
        found = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{rule['id']} ({rule['impact']}): {' '.join(map(str, node['target']))}: {node['html'][:160]}"
            for rule in found
            for node in rule["nodes"]
        ]
