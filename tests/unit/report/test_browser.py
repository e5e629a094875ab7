"""The page in a real browser: no console errors, nothing fetched, nothing wider than a phone."""

from __future__ import annotations

import http.server
import subprocess
import threading
from pathlib import Path

import pytest

from mmpref.report.page import build_report
from mmpref.report.paper.write import write_papers
from tests.pages_in_browser import CHROMIUM, needs_browser

pytestmark = needs_browser


def browse(url: str, profile: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}", *extra, url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def site(demo_runs, world, tmp_path_factory):
    """The page on a server of our own that writes down what is asked for."""
    folder = tmp_path_factory.mktemp("site")
    build_report(demo_runs, folder / "page.html", images_root=world)
    named = [f"{'a very long name of a model ' * 3 if n else '<b>x'}={run}" for n, run in enumerate(demo_runs)][:2]
    named += [str(run) for run in demo_runs[2:]]
    assert len(list(write_papers(named, [folder / "paper.html"]))) == 1
    look = (
        "<link rel=icon href='data:,'><iframe id=f src=paper.html style='width:390px;height:800px'></iframe>"
        "<p id=out></p><script>f.onload=()=>{const d=f.contentDocument,t=d.querySelector('table.paper'),"
        "r=[...t.querySelectorAll('tbody tr')],"
        "widths=r.map(row=>row.children.length),w=s=>getComputedStyle(d.querySelector(s)).fontWeight;"
        "out.textContent=`fits=${d.documentElement.scrollWidth<=d.documentElement.clientWidth} "
        "rows=${r.length} cells=${[...new Set(widths)]} columns=${t.querySelectorAll('thead tr:last-child th').length} "
        "best=${t.querySelectorAll('td.best strong').length>0} bold=${w('.paper strong')>w('.paper td .value')} "
        "italic=${getComputedStyle(d.querySelector('.paper td em')).fontStyle} "
        "notes=${[...d.querySelectorAll('.signs a')].every(a=>d.querySelector(a.getAttribute('href')))}`}"
        "</script>"
    )
    (folder / "small.html").write_text(look)
    measure = (
        "<iframe id=f src=page.html style='width:390px;height:800px'></iframe><p id=out></p><script>"
        "f.onload=()=>{const d=f.contentDocument;"
        "out.textContent=`fits=${d.documentElement.scrollWidth<=d.documentElement.clientWidth} "
        "images=${d.images.length} "
        "plots=${d.querySelectorAll('svg.plot').length} rows=${d.querySelectorAll('.results tbody tr').length}`}"
        "</script>"
    )
    (folder / "phone.html").write_text(measure)
    widths = (
        "<link rel=icon href='data:,'><p id=out></p><script>const said={};for(const w of [360,800,1400]){"
        "const f=document.createElement('iframe');f.src='page.html';f.style.width=w+'px';f.style.height='800px';"
        "f.onload=()=>{const d=f.contentDocument,r=d.documentElement,links=[...d.querySelectorAll('.contents a')];"
        "said[w]=`${w}:${r.scrollWidth<=r.clientWidth},${links.every(a=>d.querySelector(a.getAttribute('href')))},"
        "${[...d.querySelectorAll('details.part')].every(e=>e.open)},"
        "${[...d.querySelectorAll('a.numbers')].every(a=>a.download&&a.href.startsWith('data:text/csv'))}`;"
        "if(Object.keys(said).length==3)out.textContent=Object.values(said).join(' ')};"
        "document.body.append(f)}</script>"
    )
    (folder / "widths.html").write_text(widths)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


def test_nothing_is_fetched_and_nothing_complains(site, tmp_path):
    address, asked = site
    asked.clear()
    found = browse(f"{address}/page.html", tmp_path, "--dump-dom")
    assert asked == ["/page.html"]
    assert complaints(found.stderr) == []
    assert found.stdout.count("<svg") > 10


def test_the_page_fits_a_phone(site, tmp_path):
    address, _ = site
    found = browse(f"{address}/phone.html", tmp_path, "--dump-dom", "--virtual-time-budget=5000")
    assert "fits=true images=16 plots=16 rows=5" in found.stdout
    assert complaints(found.stderr) == []


def test_the_page_fits_three_widths_and_its_contents_lead_somewhere(site, tmp_path):
    address, _ = site
    found = browse(f"{address}/widths.html", tmp_path, "--dump-dom", "--virtual-time-budget=8000")
    for width in (360, 800, 1400):
        assert f"{width}:true,true,true,true" in found.stdout
    assert complaints(found.stderr) == []


def test_the_page_prints(site, tmp_path):
    address, asked = site
    asked.clear()
    browse(f"{address}/page.html", tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
    assert asked == ["/page.html"]


def test_the_table_of_a_paper_fits_a_phone_shows_its_marks_and_fetches_nothing(site, tmp_path):
    address, asked = site
    asked.clear()
    found = browse(f"{address}/small.html", tmp_path, "--dump-dom", "--virtual-time-budget=5000")
    assert asked == ["/small.html", "/paper.html"]
    shown = "fits=true rows=5 cells=9 columns=8 best=true bold=true italic=italic notes=true"
    assert shown in found.stdout
    assert complaints(found.stderr) == []
