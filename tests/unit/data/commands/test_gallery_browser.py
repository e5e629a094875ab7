"""The gallery in a real browser: 1,000 pairs, filters, a phone, hostile text; no console errors, nothing fetched."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpref.data.commands.gallery import build_gallery
from mmpref.data.images.loader import ImageLoader
from mmpref.data.quarantine import QuarantinedRow
from mmpref.records import ImageRef, PreferencePair, user_turn
from tests.pages_in_browser import CHROMIUM, needs_browser

pytestmark = needs_browser

NUM_PAIRS = 1000
EVIL = "</script><script>document.title='bad'</script><img src=x onerror=console.error(1)>"

# opens the page in a frame as wide as a phone, works its filters as a person would, and writes down what it saw
DRIVER = """<!DOCTYPE html><link rel=icon href=data:,><p id=out></p>
<iframe id=f src=page.html style="width:390px;height:900px"></iframe><script>
const wait = (time) => new Promise((go) => setTimeout(go, time));
const until = async (fits) => { for (let i = 0; i < 600 && !fits(); i++) await wait(20); };
f.onload = async () => {
  const page = f.contentDocument, view = f.contentWindow, get = (id) => page.getElementById(id), seen = {};
  const articles = () => page.querySelectorAll("article").length;
  const settled = () => until(() => !get("cards").hasAttribute("aria-busy"));
  const set = async (id, value) => {
    get(id).value = value;
    get("cards").setAttribute("aria-busy", "true");
    get(id).dispatchEvent(new view.Event("input", { bubbles: true }));
    await settled();
  };
  const clear = async () => { get("cards").setAttribute("aria-busy", "true"); get("reset").click(); await settled(); };
  await settled();
  seen.all = articles();
  seen.title = page.title;
  seen.fits = page.documentElement.scrollWidth <= page.documentElement.clientWidth;
  seen.marked = [".chosen ins", ".rejected del"].map((each) => page.querySelectorAll(each).length > 900);
  seen.pixelated = view.getComputedStyle(page.querySelector("img")).imageRendering;
  seen.unnamed = [...page.querySelectorAll("input, select")].filter((field) => !field.labels.length).length;
  await set("text", "UMBRELLA 0017"); seen.text = [articles(), get("count").textContent]; await clear();
  await set("margin-to", "-0.5"); seen.margin = articles(); await clear();
  await set("length-from", "2"); seen.length = articles(); await clear();
  await set("reason", "json"); seen.reason = [articles(), page.querySelector("article").textContent]; await clear();
  await set("kind", "inverted"); seen.inverted = articles(); await clear();
  await set("sort", "margin-down"); seen.first = page.querySelector("article .id").textContent; await clear();
  await set("text", "nothing has this word"); seen.none = [articles(), get("none").hidden]; await clear();
  seen.again = articles();
  page.querySelector("article").focus();
  page.activeElement.dispatchEvent(new view.KeyboardEvent("keydown", { key: "j", bubbles: true }));
  seen.second = page.activeElement.querySelector(".id").textContent;
  out.textContent = JSON.stringify(seen);
};
</script>"""


def browse(url: str, profile: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}", "--dump-dom",
        *extra, url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


def example(number: int) -> PreferencePair:
    """Margins go from +2.50 down in steps of 1/200, so that 499 of 1,000 are negative; every fifth chosen is longer."""
    refs = (ImageRef(path=f"{number % 20}.png"),)
    extra = ", and nothing else at all" if number % 5 == 0 else ""
    margin = round(2.5 - number / 200, 3)
    return PreferencePair(
        id=f"pair-{number:04d}",
        images=refs,
        prompt=user_turn(EVIL if number == 3 else "What is there?", num_images=1),
        chosen=f"{EVIL if number == 4 else 'An'} umbrella beside a chair{extra}.",
        rejected=f"{EVIL if number == 4 else 'An'} umbrella beside a table.",
        score_chosen=3.0 + margin,
        score_rejected=3.0,
        source=EVIL if number == 5 else "drawn",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    aside = [
        QuarantinedRow(source="drawn", file="rows.jsonl", row=n, id=None, reason=reason, detail=f"row {n} {EVIL}")
        for n, reason in enumerate(["json", "json", "empty_response"], start=1)
    ]
    build_gallery([example(n) for n in range(NUM_PAIRS)], aside, images=ImageLoader(folder), out=folder / "page.html")
    (folder / "driver.html").write_text(DRIVER)
    return folder


@pytest.fixture(scope="module")
def visit(folder, tmp_path_factory):
    """What the driver saw, the browser's log, and what was asked of the server."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/driver.html"
    found = browse(address, tmp_path_factory.mktemp("profile"), "--virtual-time-budget=60000")
    server.shutdown()
    thread.join()
    server.server_close()
    told = re.search(r'<p id="out">(.*?)</p>', found.stdout, re.DOTALL)
    assert told, found.stderr[-2000:]
    assert told[1], found.stderr[-2000:]
    return json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), found.stderr, asked


def test_nothing_complains_and_nothing_is_fetched(visit):
    _, log, asked = visit
    assert complaints(log) == []
    assert asked == ["/driver.html", "/page.html"]


def test_all_pairs_are_there_before_and_after_the_filters(visit):
    seen, _, _ = visit
    assert (seen["all"], seen["again"]) == (NUM_PAIRS + 3, NUM_PAIRS + 3)


def test_hostile_text_does_nothing(visit):
    seen, _, _ = visit
    assert seen["title"] == "Preference pairs"


def test_the_filters_find_what_they_should(visit):
    seen, _, _ = visit
    assert seen["text"] == [1, "1 pair of 1,003"]
    assert seen["margin"] == sum(round(2.5 - n / 200, 3) <= -0.5 for n in range(NUM_PAIRS))
    assert seen["length"] == NUM_PAIRS // 5
    assert seen["reason"][0] == 2
    assert EVIL in seen["reason"][1]
    assert seen["inverted"] == 499
    assert seen["none"] == [0, False]


def test_sorting_and_stepping_by_key(visit):
    seen, _, _ = visit
    assert (seen["first"], seen["second"]) == ("pair-0000", "pair-0001")


def test_it_fits_a_phone_marks_differences_and_labels_every_field(visit):
    seen, _, _ = visit
    assert seen["fits"] is True
    assert seen["marked"] == [True, True]
    assert seen["pixelated"] == "pixelated"
    assert seen["unnamed"] == 0


def test_it_works_from_a_file_with_the_filters_in_its_address(folder, tmp_path):
    address = (folder / "page.html").as_uri() + "#text=pair-00&margin-from=2.4&sort=margin-up"
    found = browse(address, tmp_path, "--virtual-time-budget=5000")
    assert complaints(found.stderr) == []
    assert re.findall(r'class="id">([^<]*)<', found.stdout)[:2] == ["pair-0020", "pair-0019"]
    assert found.stdout.count("<article") == 21
