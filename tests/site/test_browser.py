"""The site in a real browser: no network, three widths, light and dark, keyboard only, nothing that axe-core finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pages_in_browser import SCHEMES, WIDTHS, Watched, needs_browser

pytestmark = [pytest.mark.site, needs_browser]
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    "index.html",
    "quickstart.html",
    "tasks/qwen_own_pairs.html",
    "losses.html",
    "compare.html",
    "reference/recipe_keys.html",
    "reference/commands.html",
    "reference/benchmark_table.html",
    "reference/errors.html",
    "reference/cards/rlhf_v.html",
    "api/losses.html",
    "api/training.html",
    "search.html",
    "genindex.html",
]
"""One page of every kind, and below the notebooks."""


NOTEBOOKS = [f"notebooks/{file.stem}.html" for file in sorted((DOCS / "notebooks").glob("*.ipynb"))]
LOOKED_AT = {"light": WIDTHS, "dark": WIDTHS[-1:]}
"""Scheme -> the widths at which axe-core looks; the scheme changes colours only."""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", [*PAGES, *NOTEBOOKS])
def test_every_kind_of_page_is_accessible_fits_and_loads_nothing(
    site: Path, browser: Any, name: str, scheme: str
) -> None:
    watched = Watched(browser, scheme=scheme)
    watched.open(site / name)
    assert watched.page.evaluate("document.documentElement.dataset.theme") == scheme
    too_wide, wrong = {}, {}
    for width in WIDTHS:
        watched.at(width)
        too_wide |= {width: over} if (over := watched.overflow()) > 0 else {}
        if width in LOOKED_AT[scheme]:
            wrong |= {width: found} if (found := watched.violations()) else {}
    assert too_wide == {}
    assert wrong == {}
    assert watched.away() == []
    assert watched.complaints == []


def test_the_search_finds_a_key_without_a_server(site: Path, browser: Any) -> None:
    watched = Watched(browser)
    page = watched.open(site / "index.html")
    page.keyboard.press("Control+k")
    page.wait_for_function("document.activeElement.type === 'search'")
    page.keyboard.type("tau_good")
    page.keyboard.press("Enter")
    for name in ("reference/recipe_keys.html", "losses.html"):  # results come one by one
        page.wait_for_selector(f'#search-results li a[href*="{name}"]')
    assert watched.violations() == []
    page.click("#search-results li a >> nth=0")
    page.wait_for_load_state("load")
    assert "search.html" not in page.url
    assert watched.away() == []
    assert watched.complaints == []


def focused(page: Any) -> dict[str, Any]:
    """What has the focus, and whether a person sees that."""
    found: dict[str, Any] = page.evaluate(
        """async () => {
            await Promise.allSettled(document.getAnimations().map(moving => moving.finished));
            const e = document.activeElement, outlined = [e, ...e.children].filter(one => {
                const style = getComputedStyle(one), box = one.getBoundingClientRect();
                const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
                return (ring || style.boxShadow !== 'none')
                       && box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0;
            });
            return {tag: e.tagName, text: (e.textContent || '').trim(), href: e.getAttribute('href') || '',
                    classes: e.className.toString(), seen: outlined.length > 0};
        }"""
    )
    return found


def tabbed(page: Any, most: int) -> list[dict[str, Any]]:
    """What the Tab key reaches, one after another from the top of the page."""
    reached = []
    for _ in range(most):
        page.keyboard.press("Tab")
        reached.append(focused(page))
    return reached


@pytest.mark.parametrize("width", [360, 1400])
def test_the_keyboard_alone_reaches_everything_and_shows_where_it_is(site: Path, browser: Any, width: int) -> None:
    watched = Watched(browser, width=width)
    page = watched.open(site / "losses.html")
    reached = tabbed(page, 100)
    assert "skip to main content" in reached[0]["text"].lower()
    hidden = [one for one in reached if one["tag"] != "BODY" and not one["seen"]]
    assert hidden == []
    assert any("search-button" in one["classes"] for one in reached)
    if width == 1400:
        assert any("theme-switch-button" in one["classes"] for one in reached)
        linked = {one["href"] for one in reached}
        assert {"quickstart.html", "reference/recipe_keys.html", "image_losses.html"} <= linked
    else:  # the navigation and the theme switch are behind one button
        page.reload()
        button = page.locator(".primary-toggle")
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#pst-primary-sidebar-modal[open] a")
        inside = tabbed(page, 60)
        assert any(one["href"] == "quickstart.html" for one in inside)
        assert any("theme-switch-button" in one["classes"] for one in inside)
        assert watched.violations() == []
        page.keyboard.press("Escape")
        page.wait_for_selector("#pst-primary-sidebar-modal:not([open])", state="attached")


def test_the_skip_link_leads_to_the_text(site: Path, browser: Any) -> None:
    watched = Watched(browser)
    page = watched.open(site / "losses.html")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main-content"


def test_the_switch_changes_the_scheme_and_the_next_page_keeps_it(site: Path, browser: Any) -> None:
    watched = Watched(browser, scheme="light")
    page = watched.open(site / "losses.html")
    switch, menu = (
        page.locator(".theme-switch-button:visible"),
        page.locator(".theme-change-button[data-mode=dark]:visible"),
    )
    switch.focus()
    page.keyboard.press("Enter")
    menu.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.goto((site / "index.html").as_uri())
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_figures_are_drawn_for_the_scheme_of_the_page(site: Path, browser: Any) -> None:
    """A person whose system is light and who chose dark sees the dark figure."""
    watched = Watched(browser, scheme="light")
    page = watched.open(site / "index.html")
    page.evaluate("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
    page.reload()
    image = page.locator("figure img").first
    assert image.evaluate("image => getComputedStyle(image).colorScheme") == "dark"
    assert image.evaluate("image => image.naturalWidth") > 100
